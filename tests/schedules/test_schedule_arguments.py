"""Arguments of schedules: each is checked, named, and kept as a plain number."""

import math

import numpy as np
import pytest

from numadam.schedules import (
    Constant,
    Cosine,
    Exponential,
    OneCycle,
    Piecewise,
    Polynomial,
    ReduceOnPlateau,
    Step,
    WarmupCosine,
)
from tests.schedules.cases import each


def test_arguments_are_kept_as_plain_numbers():
    schedule = WarmupCosine(np.float32(0.5), steps=np.int64(9), warmup=np.uint8(2), end=0)
    assert repr(schedule) == "WarmupCosine(peak=0.5, steps=9, warmup=2, start=0.0, end=0.0)"
    schedule = Piecewise(np.array([1.0, 0.5]), boundaries=np.array([3]))
    assert repr(schedule) == "Piecewise(values=(1.0, 0.5), boundaries=(3,))"


@each
@pytest.mark.parametrize("t", [-1, np.int64(-5)])
def test_negative_t(schedule, t):
    with pytest.raises(ValueError, match=r"^t: expected a whole number of at least 0, got "):
        schedule(t)


@each
@pytest.mark.parametrize("t", [1.0, "1", None, True])
def test_t_that_is_no_whole_number(schedule, t):
    with pytest.raises(TypeError, match=r"^t: expected a whole number, got "):
        schedule(t)


NUMBERS = [
    (Constant, {"value": 1.0}, {}),
    (Step, {"start": 1.0, "factor": 0.5}, {"steps": 1}),
    (Exponential, {"start": 1.0, "factor": 0.5, "end": 0.1}, {"steps": 1}),
    (Polynomial, {"start": 1.0, "end": 0.1, "power": 1.0}, {"steps": 1}),
    (Cosine, {"start": 1.0, "end": 0.1}, {"steps": 1, "restart_mult": 0}),
    (WarmupCosine, {"peak": 1.0, "start": 0.1, "end": 0.1}, {"steps": 1, "warmup": 0}),
    (OneCycle, {"peak": 1.0, "start": 0.1, "end": 0.1}, {"steps": 1, "warmup": 0}),
    (
        ReduceOnPlateau,
        {"start": 1.0, "factor": 0.5, "threshold": 0.1, "end": 0.1},
        {"patience": 0, "cooldown": 0},
    ),
]


@pytest.mark.parametrize(("kind", "numbers", "wholes"), NUMBERS)
def test_every_argument_is_checked(kind, numbers, wholes):
    good = {**numbers, **{name: least + 4 for name, least in wholes.items()}}
    if "warmup" in good:
        good["warmup"] = 2
    kind(**good)
    for name in numbers:
        for bad in (-1.0, math.nan, -math.inf):
            with pytest.raises(
                ValueError, match=rf"^{name}: expected a number in \[0, .*got {bad}"
            ):
                kind(**{**good, name: bad})
        for bad in ("1", True, [1.0], 1j):
            with pytest.raises(TypeError, match=rf"^{name}: expected a number, got "):
                kind(**{**good, name: bad})
    for name in set(numbers) - {"value"}:
        with pytest.raises(ValueError, match=rf"^{name}: expected a number in "):
            kind(**{**good, name: math.inf})
    for name, least in wholes.items():
        text = rf"^{name}: expected a whole number of at least {least}, got {least - 1}\.$"
        with pytest.raises(ValueError, match=text):
            kind(**{**good, name: least - 1})
        for bad in (10.0, "10", True, [10]):
            with pytest.raises(TypeError, match=rf"^{name}: expected a whole number, got "):
                kind(**{**good, name: bad})


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Step(1.0, steps=2, factor=1.5), r"factor: expected a number in \[0, 1\], got 1.5"),
        (lambda: Exponential(1.0, factor=0.5, end=2.0), "end: .* at most start=1, .* got 2"),
        (lambda: Exponential(1.0, factor=2.0), "end: .* at least start=1, as factor is 2, got 0"),
        (lambda: Exponential(0.0, factor=2.0), "start: expected a number above 0 to grow by 2"),
        (lambda: WarmupCosine(1.0, steps=9, warmup=9), "warmup: .* fewer than steps=9, got 9"),
        (lambda: OneCycle(1.0, steps=9, warmup=10), "warmup: .* fewer than steps=9, got 10"),
        (lambda: ReduceOnPlateau(1.0, factor=1), r"factor: expected a number in \[0, 1\), got 1"),
        (lambda: ReduceOnPlateau(1.0, end=2.0), "end: expected .* at most start=1, got 2"),
        (lambda: ReduceOnPlateau(1.0, mode="Min"), "mode: expected 'min' or 'max', got 'Min'"),
        (
            lambda: ReduceOnPlateau(1.0, threshold_mode=None),
            "threshold_mode: expected 'rel' or 'abs', got None",
        ),
        (
            lambda: Piecewise([1, 2], boundaries=[]),
            "values: expected one more than boundaries, 1, got 2",
        ),
        (
            lambda: Piecewise([], boundaries=[]),
            "values: expected one more than boundaries, 1, got 0",
        ),
        (lambda: Piecewise([1, -2], boundaries=[1]), r"values\[1\]: expected a number in .* -2"),
        (lambda: Piecewise([1, 2], boundaries=[0]), r"boundaries\[0\]: .* at least 1, got 0"),
        (
            lambda: Piecewise([1, 2, 3], boundaries=[5, 5]),
            r"boundaries\[1\]: .* at least 6, got 5",
        ),
        (
            lambda: Piecewise([lambda t: -t, 1], boundaries=[3])(2),
            r"values\[0\]: expected a number in .* got -2",
        ),
    ],
)
def test_arguments_that_do_not_go_together(make, text):
    with pytest.raises(ValueError, match=f"^{text}"):
        make()


@pytest.mark.parametrize("bad", [0.1, None, "12", {1.0, 2.0}, {1: 2}])
def test_pieces_that_are_no_sequence(bad):
    with pytest.raises(TypeError, match=r"^values: expected a list or tuple, got "):
        Piecewise(bad, boundaries=[1])
    with pytest.raises(TypeError, match=r"^boundaries: expected a list or tuple, got "):
        Piecewise([1.0, 2.0], boundaries=bad)


def test_pieces_of_the_wrong_type():
    with pytest.raises(TypeError, match=r"^values\[0\]: expected a number, got str"):
        Piecewise(["1", 2.0], boundaries=[1])
    with pytest.raises(TypeError, match=r"^boundaries\[0\]: expected a whole number, got float"):
        Piecewise([1.0, 2.0], boundaries=[1.0])
    with pytest.raises(TypeError, match=r"^values\[1\]: expected a number, got NoneType"):
        Piecewise([1.0, lambda t: None], boundaries=[1])(1)


def test_what_has_no_default_at_the_front_needs_no_name():
    assert Cosine(1.0, 10) == Cosine(1.0, steps=10)
    assert OneCycle(1.0, 10) == OneCycle(1.0, steps=10)
    assert WarmupCosine(1.0, 10, warmup=2) == WarmupCosine(1.0, steps=10, warmup=2)
    assert Step(1.0, 10) == Step(1.0, steps=10)
    assert Exponential(1.0, 0.9) == Exponential(1.0, factor=0.9)
    assert Polynomial(1.0, 10) == Polynomial(1.0, steps=10)
    assert Piecewise([1.0, 0.1], [5]) == Piecewise([1.0, 0.1], boundaries=[5])


def test_all_but_the_first_two_are_named():
    for schedule in (Cosine, OneCycle, Step, Polynomial, WarmupCosine):
        with pytest.raises(TypeError, match="positional"):
            schedule(1.0, 10, 5)
    with pytest.raises(TypeError, match="positional"):
        ReduceOnPlateau(1.0, 0.5)
