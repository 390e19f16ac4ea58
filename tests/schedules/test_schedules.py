"""Schedules: their formulas, beside torch's too, their arguments, and what all have in common."""

import copy
import itertools
import math
import pickle
import re
from dataclasses import FrozenInstanceError, replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numadam import schedules
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

close = partial(pytest.approx, rel=1e-12, abs=1e-15)
sizes = st.floats(0.0, 1e6)
counts = st.integers(1, 10**6)


def no_address(value):
    """An id that every process gives alike: functions are shown with their address."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def inverse(t):
    return 1.0 / (t + 1)


EACH = [
    Constant(0.25),
    Step(0.5, steps=7, factor=0.3),
    Exponential(0.5, factor=0.9, end=0.1),
    Exponential(0.5, factor=3.0, steps=10, end=0.9),
    Polynomial(0.5, steps=11, end=0.1, power=2.0),
    Cosine(0.5, steps=13, end=0.1),
    Cosine(0.5, steps=3, restart_mult=2),
    WarmupCosine(0.5, steps=20, warmup=5, start=0.1, end=0.2),
    OneCycle(0.5, steps=20),
    OneCycle(0.85, steps=20, warmup=5, start=0.95, end=0.95),
    Piecewise([0.5, Cosine(0.4, steps=5), inverse], boundaries=[3, 9]),
    ReduceOnPlateau(0.5, mode="max"),
]
each = pytest.mark.parametrize("schedule", EACH, ids=no_address)


def run(schedule, count):
    return [schedule(t) for t in range(count)]


# --- formulas ------------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", [0, 1, 10, 39])
def test_warmup_cosine_as_optax(warmup):
    """warmup_cosine_decay_schedule(init_value, peak_value, warmup_steps, decay_steps, end_value).

    A join of linear_schedule and of cosine_decay_schedule, whose alpha is end / peak.
    """
    init, peak, total, end = 0.02, 0.3, 40, 0.003

    def optax(t):
        if t < warmup:
            return (init - peak) * (1 - t / warmup) + peak
        share = min(t - warmup, total - warmup) / (total - warmup)
        return peak * ((1 - end / peak) * 0.5 * (1 + math.cos(math.pi * share)) + end / peak)

    schedule = WarmupCosine(peak, steps=total, warmup=warmup, start=init, end=end)
    assert run(schedule, 50) == close([optax(t) for t in range(50)])


@pytest.mark.parametrize("t", [10**5, 10**12, 2**53])
def test_exponential_stops_at_its_end(t):
    assert Exponential(1.0, factor=1.1, end=2.0)(t) == 2.0  # 1.1**t is above any float
    assert Exponential(1.0, factor=0.9, end=0.5)(t) == 0.5
    assert Exponential(1.0, factor=0.9)(t) == Exponential(0.0, factor=0.9)(t) == 0.0
    assert Exponential(1.0, factor=0.0)(0) == Exponential(1.0, factor=1.0)(t) == 1.0


def test_restarts_far_out():
    """The cycle that t lies in is found at once, however many there were before."""
    assert Cosine(1.0, steps=10, restart_mult=1)(10**15 + 5) == close(0.5)
    begin = 10 * (2**40 - 1)  # cycles of 10, 20, 40, ...
    schedule = Cosine(1.0, steps=10, restart_mult=2)
    assert schedule(begin) == 1.0
    assert schedule(begin + 10 * 2**39) == close(0.5)
    assert schedule(begin - 1) < 1e-9


# --- properties ----------------------------------------------------------------------------------


@given(sizes, sizes, counts, st.floats(0.0, 5.0), st.integers(0, 2 * 10**6))
def test_from_start_to_end_and_never_outside(start, end, steps, power, t):
    low, high = sorted([start, end])
    for schedule in (
        Cosine(start, steps=steps, end=end),
        Polynomial(start, steps=steps, end=end, power=power),
    ):
        assert schedule(0) == start
        assert schedule(steps) == schedule(steps + t) == end
        assert low <= schedule(t) <= high
        later = schedule(t + 1)
        slack = 1e-12 * high
        assert low - slack <= min(schedule(t), later) <= max(schedule(t), later) <= high + slack
        assert (later - schedule(t)) * math.copysign(1.0, end - start) >= -slack  # monotone


@given(sizes, sizes, sizes, st.integers(2, 10**6), st.data())
def test_warmed_up_is_continuous_and_within_its_values(peak, start, end, steps, data):
    warmup = data.draw(st.integers(0, steps - 1))
    t = data.draw(st.integers(0, 2 * steps))
    low, high = min(peak, start, end), max(peak, start, end)
    for kind in (WarmupCosine, OneCycle):
        schedule = kind(peak, steps=steps, warmup=warmup, start=start, end=end)
        assert schedule(0) == (start if warmup else peak)
        assert schedule(warmup) == peak
        assert schedule(steps) == schedule(steps + t) == end
        assert low <= schedule(t) <= high
        # no step is steeper than half a cosine on the shorter side: no jump at the join
        shorter = min(warmup or steps, steps - warmup)
        assert (
            abs(schedule(t + 1) - schedule(t)) <= math.pi / 2 * (high - low) / shorter + 1e-9 * high
        )


@given(sizes, counts, st.floats(0.0, 1.0), st.integers(0, 10**7))
def test_decays_are_monotone_from_their_start(start, steps, factor, t):
    for schedule in (
        Step(start, steps=steps, factor=factor),
        Exponential(start, steps=steps, factor=factor, end=start / 3),
        Exponential(start, steps=steps, factor=factor),
    ):
        assert schedule(0) == start
        assert 0.0 <= schedule(t + 1) <= schedule(t) * (1 + 1e-12)
    stairs = Step(start, steps=steps, factor=factor)
    assert stairs(t // steps * steps) == stairs(t)


@given(st.lists(sizes, min_size=1, max_size=6), st.data())
def test_pieces_hold_between_boundaries(values, data):
    gaps = st.lists(st.integers(1, 50), min_size=len(values) - 1, max_size=len(values) - 1)
    boundaries = list(itertools.accumulate(data.draw(gaps)))
    schedule = Piecewise(values, boundaries=boundaries)
    t = data.draw(st.integers(0, 400))
    assert schedule(t) == values[sum(boundary <= t for boundary in boundaries)]


def test_pieces_count_their_own_steps():
    asked = []

    def piece(t):
        asked.append(t)
        return np.float32(0.5)

    schedule = Piecewise([piece, 0.1, piece], boundaries=[2, 5])
    assert run(schedule, 8) == [0.5, 0.5, 0.1, 0.1, 0.1, 0.5, 0.5, 0.5]
    assert asked == [0, 1, 0, 1, 2]
    assert type(schedule(0)) is float
    assert Piecewise([inverse], boundaries=[])(3) == 0.25
    nested = Piecewise([schedule, schedule], boundaries=[4])
    assert run(nested, 12) == [0.5, 0.5, 0.1, 0.1, *run(schedule, 8)]


# --- reductions ----------------------------------------------------------------------------------


@settings(max_examples=50)
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=60),
    st.integers(0, 4),
    st.integers(0, 4),
    st.sampled_from(["rel", "abs"]),
)
def test_plateau_whatever_it_is_told(seen, patience, cooldown, threshold_mode):
    """Lowered by the factor alone, never too often; and max of -f is min of f."""
    options = {"patience": patience, "cooldown": cooldown, "threshold_mode": threshold_mode}
    schedule = ReduceOnPlateau(1.0, factor=0.5, end=1e-4, **options)
    mirror = ReduceOnPlateau(1.0, factor=0.5, end=1e-4, mode="max", **options)
    values = [1.0]
    for f in seen:
        schedule.observe(f)
        mirror.observe(-f)
        values.append(schedule(0))
        assert values[-1] in (values[-2], max(values[-2] * 0.5, 1e-4))
        assert mirror(0) == values[-1]
        assert mirror.best == -schedule.best
        assert not math.isnan(schedule.best)
    falls = [k for k in range(len(seen)) if values[k + 1] < values[k]]
    assert all(b - a > patience + cooldown for a, b in itertools.pairwise(falls))


#: options, the f that is observed, the values after each, and the best at the end
PLATEAUS = [
    # one more than the patience
    ({"factor": 0.5, "patience": 2}, [5.0] * 5 + [4.0] * 4, [1.0] * 3 + [0.5] * 5 + [0.25], 4.0),
    # nothing is counted while it cools down
    ({"factor": 0.5, "patience": 0, "cooldown": 3}, [1.0] * 6, [1.0] + [0.5] * 4 + [0.25], 1.0),
    # NaN is no improvement
    ({"patience": 1}, [math.nan, 3.0, math.nan, np.float32("nan")], [1.0, 1.0, 1.0, 0.1], 3.0),
    # bounded below
    ({"patience": 0, "factor": 0.1, "end": 0.03}, [1.0] * 4, [1.0, 0.1, 0.03, 0.03], 1.0),
]


@pytest.mark.parametrize(("options", "seen", "values", "best"), PLATEAUS, ids=range(4))
def test_plateau_case_by_case(options, seen, values, best):
    schedule, found = ReduceOnPlateau(1.0, **options), []
    for f in seen:
        schedule.observe(f)
        found.append(schedule.value)
    assert found == close(values)
    assert schedule.best == best
    assert schedule(0) == schedule(10**9) == schedule.value


@pytest.mark.parametrize(("mode", "sign"), [("min", -1.0), ("max", 1.0)])
def test_plateau_of_f_of_the_other_sign(mode, sign):
    """The margin is a share of |best|: with torch's best * (1 - threshold), -99.995 beats -100."""
    for first in (100.0, -100.0):
        schedule = ReduceOnPlateau(1.0, patience=0, threshold=1e-4, mode=mode)
        schedule.observe(first)
        schedule.observe(first + sign * 0.005)
        assert schedule.value == close(0.1)
        assert schedule.best == first
        schedule.observe(first + sign * 0.02)
        assert schedule.best == first + sign * 0.02


def test_plateau_keeps_its_state_through_a_copy():
    schedule = ReduceOnPlateau(1.0, patience=1, cooldown=2, factor=0.5)
    fresh = copy.deepcopy(schedule)
    for f in [4.0, 4.0, 4.0, 3.0]:
        schedule.observe(f)
    assert schedule != fresh
    assert schedule.cooling == 1
    for twin in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert twin == schedule
        for f in [4.0, 4.0, 4.0]:
            twin.observe(f)
        assert twin.value == 0.25
        assert schedule.value == 0.5
    assert "value=0.5, best=3.0, waited=0, cooling=1" in repr(schedule)
    with pytest.raises(TypeError, match="unhashable"):
        hash(schedule)


# --- beside torch --------------------------------------------------------------------------------


WARM = "CosineAnnealingWarmRestarts"


def of_torch(name, lr, count, momenta=None, **options):
    """The learning rates that torch's scheduler gives, step by step; beta1 goes into `momenta`."""
    import torch

    opt = torch.optim.Adam([torch.zeros(1)], lr=lr)
    scheduler = getattr(torch.optim.lr_scheduler, name)(opt, **options)
    rates = []
    for _ in range(count):
        rates.append(opt.param_groups[0]["lr"])
        if momenta is not None:
            momenta.append(opt.param_groups[0]["betas"][0])
        opt.step()
        scheduler.step()
    return rates


#: a schedule, and torch's by its name and options
OF_TORCH = [
    (Step(0.3, steps=7), "StepLR", {"step_size": 7}),
    (Step(0.3, steps=1, factor=0.7), "StepLR", {"step_size": 1, "gamma": 0.7}),
    (Exponential(0.3, factor=0.93), "ExponentialLR", {"gamma": 0.93}),
    (Exponential(0.3, factor=1.1, end=1e9), "ExponentialLR", {"gamma": 1.1}),
    (Cosine(0.3, steps=59, end=0.01), "CosineAnnealingLR", {"T_max": 59, "eta_min": 0.01}),
    (Cosine(0.3, steps=7, end=0.01, restart_mult=1), WARM, {"T_0": 7, "eta_min": 0.01}),
    (Cosine(0.3, steps=3, restart_mult=3), WARM, {"T_0": 3, "T_mult": 3}),
    (Polynomial(0.3, steps=40), "PolynomialLR", {"total_iters": 40}),
    (Polynomial(0.3, steps=40, power=0.9), "PolynomialLR", {"total_iters": 40, "power": 0.9}),
    (Polynomial(0.1, steps=20, end=0.3), "LinearLR", {"start_factor": 1 / 3, "total_iters": 20}),
    (
        Piecewise([0.3, 0.06, 0.012], [10, 25]),
        "MultiStepLR",
        {"milestones": [10, 25], "gamma": 0.2},
    ),
]


@pytest.mark.peers("torch")
@pytest.mark.parametrize(("schedule", "name", "options"), OF_TORCH, ids=range(len(OF_TORCH)))
def test_as_torch(schedule, name, options):
    assert run(schedule, 60) == pytest.approx(of_torch(name, 0.3, 60, **options), rel=1e-10)


@pytest.mark.peers("torch")
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_one_cycle_as_torch(share):
    """Torch counts values, not steps between them: both its peak and its end are one earlier."""
    steps, momenta = 60, []
    options = {"max_lr": 0.3, "total_steps": steps, "pct_start": share}
    expected = of_torch("OneCycleLR", 1.0, steps, momenta, **options)
    warmup = round(share * steps) - 1
    assert run(OneCycle(0.3, steps=steps - 1, warmup=warmup), steps) == close(expected)
    cycle = OneCycle(0.85, steps=steps - 1, warmup=warmup, start=0.95, end=0.95)
    assert run(cycle, steps) == close(momenta)


@pytest.mark.peers("torch")
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@pytest.mark.parametrize(("patience", "cooldown"), [(0, 0), (0, 2), (2, 0), (3, 4)])
def test_plateau_as_torch(mode, threshold_mode, patience, cooldown):
    import torch

    shared = {"mode": mode, "factor": 0.6, "patience": patience, "cooldown": cooldown}
    shared |= {"threshold": 0.01, "threshold_mode": threshold_mode}
    opt = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, min_lr=0.004, eps=0.0, **shared)
    ours = ReduceOnPlateau(0.3, end=0.004, **shared)
    seen = np.random.default_rng(0).uniform(1.0, 2.0, 60)  # f > 0: see the test of negative f
    seen *= np.linspace(2.0, 1.0, 60) if mode == "min" else np.linspace(1.0, 2.0, 60)
    seen[[5, 17, 18, 40]] = [np.nan, np.inf, np.nan, np.nan] if mode == "min" else np.nan
    rates = []
    for f in seen:
        theirs.step(f)
        ours.observe(f)
        rates.append(opt.param_groups[0]["lr"])
        assert ours(0) == close(rates[-1])
        assert ours.best == theirs.best
    assert len(set(rates)) > 3  # the series has plateaus


# --- arguments -----------------------------------------------------------------------------------


@each
def test_t_that_is_no_number_of_steps(schedule):
    for t in (-1, np.int64(-5)):
        with pytest.raises(ValueError, match=r"^t: expected a whole number of at least 0, got "):
            schedule(t)
    for t in (1.0, "1", None, True):
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


#: a call, and what its ValueError says
TOGETHER = [
    (partial(Step, 1.0, steps=2, factor=1.5), r"factor: expected a number in \[0, 1\], got 1.5"),
    (partial(Exponential, 1.0, factor=0.5, end=2.0), "end: .* at most start=1, .* got 2"),
    (partial(Exponential, 1.0, factor=2.0), "end: .* at least start=1, as factor is 2, got 0"),
    (partial(Exponential, 0.0, factor=2.0), "start: expected a number above 0 to grow by 2"),
    (partial(WarmupCosine, 1.0, steps=9, warmup=9), "warmup: .* fewer than steps=9, got 9"),
    (partial(ReduceOnPlateau, 1.0, factor=1), r"factor: expected a number in \[0, 1\), got 1"),
    (partial(ReduceOnPlateau, 1.0, end=2.0), "end: expected .* at most start=1, got 2"),
    (partial(ReduceOnPlateau, 1.0, mode="Min"), "mode: expected 'min' or 'max', got 'Min'"),
    (partial(Piecewise, [1, 2], []), "values: expected one more than boundaries, 1, got 2"),
    (partial(Piecewise, [1, -2], [1]), r"values\[1\]: expected a number in .* -2"),
    (partial(Piecewise, [1, 2], [0]), r"boundaries\[0\]: .* at least 1, got 0"),
    (partial(Piecewise, [1, 2, 3], [5, 5]), r"boundaries\[1\]: .* at least 6, got 5"),
    (partial(Piecewise([lambda t: -t, 1], [3]), 2), r"values\[0\]: .* number in .* got -2"),
]


NO_SEQUENCES = [0.1, None, "12", {1.0, 2.0}, {1: 2}]
#: a call, and what its TypeError says
MISTYPED = [
    *((partial(Piecewise, bad, [1]), "values: expected a list or") for bad in NO_SEQUENCES),
    *((partial(Piecewise, [1, 2], bad), "boundaries: expected a list or") for bad in NO_SEQUENCES),
    (partial(Piecewise, ["1", 2.0], [1]), r"values\[0\]: expected a number, got str"),
    (partial(Piecewise, [1.0, 2.0], [1.0]), r"boundaries\[0\]: expected a whole number, got float"),
    (partial(Piecewise([1.0, lambda t: None], [1]), 1), r"values\[1\]: .* number, got NoneType"),
]


REFUSED = [*((ValueError, *row) for row in TOGETHER), *((TypeError, *row) for row in MISTYPED)]


@pytest.mark.parametrize(("error", "make", "text"), REFUSED, ids=range(len(REFUSED)))
def test_arguments_of_the_wrong_type_or_that_do_not_go_together(error, make, text):
    with pytest.raises(error, match=f"^{text}"):
        make()


# --- what all have in common --------------------------------------------------------------------


def test_all_are_public():
    assert {type(schedule).__name__ for schedule in EACH} == set(schedules.__all__)
    assert sorted(schedules.__all__) == schedules.__all__


@each
def test_values_are_floats_for_any_kind_of_int(schedule):
    values = run(schedule, 40)
    assert all(type(value) is float for value in values)
    assert [schedule(t) for t in np.arange(40)] == values
    assert math.isfinite(schedule(2**53))


@each
def test_copies_are_equal_and_nothing_can_be_changed(schedule):
    for twin in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule), replace(schedule)):
        assert twin == schedule
        assert twin is not schedule
        assert run(twin, 40) == run(schedule, 40)
    assert sum(other == schedule for other in EACH) == 1
    if not isinstance(schedule, ReduceOnPlateau):
        assert hash(pickle.loads(pickle.dumps(schedule))) == hash(schedule)
    with pytest.raises(FrozenInstanceError):
        schedule.steps = 3


@pytest.mark.parametrize("schedule", EACH[:-2], ids=no_address)
def test_repr_makes_it_again(schedule):
    names = {name: getattr(schedules, name) for name in schedules.__all__}
    assert eval(repr(schedule), names) == schedule
