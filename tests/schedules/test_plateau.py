"""ReduceOnPlateau, case by case."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numadam.schedules import ReduceOnPlateau
from tests.schedules.cases import close


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


def test_plateau_waits_for_one_more_than_its_patience():
    schedule = ReduceOnPlateau(1.0, factor=0.5, patience=2)
    values = []
    for f in [5.0, 5.0, 5.0, 5.0, 5.0, 4.0, 4.0, 4.0, 4.0]:
        schedule.observe(f)
        values.append(schedule.value)
    assert values == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25]
    assert schedule(0) == schedule(10**9) == 0.25


def test_plateau_does_not_count_while_it_cools_down():
    schedule = ReduceOnPlateau(1.0, factor=0.5, patience=0, cooldown=3)
    values = []
    for f in [1.0] * 10:
        schedule.observe(f)
        values.append(schedule.value)
    assert values == [1.0] + [0.5] * 4 + [0.25] * 4 + [0.125]


def test_plateau_takes_nan_for_no_improvement():
    schedule = ReduceOnPlateau(1.0, patience=1)
    for f in [math.nan, 3.0, math.nan, np.float32("nan")]:
        schedule.observe(f)
    assert schedule.value == close(0.1)
    assert schedule.best == 3.0


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


def test_plateau_is_bounded_below():
    schedule = ReduceOnPlateau(1.0, patience=0, factor=0.1, end=0.03)
    for _ in range(9):
        schedule.observe(1.0)
    assert schedule.value == 0.03


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


def test_plateau_refuses_what_is_no_number_and_stays_as_it_was():
    schedule = ReduceOnPlateau(1.0)
    schedule.observe(2.0)
    before = copy.deepcopy(schedule)
    for bad in ["3", None, [1.0], True, 1j]:
        with pytest.raises(TypeError, match=r"^f: expected a number, got "):
            schedule.observe(bad)
    assert schedule == before


def test_plateau_cannot_be_hashed():
    with pytest.raises(TypeError, match="unhashable"):
        hash(ReduceOnPlateau(1.0))
