"""Schedules against formulas written here, and by their properties."""

import copy
import itertools
import math
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numadam import schedules
from numadam.schedules import (
    Cosine,
    Exponential,
    OneCycle,
    Piecewise,
    Polynomial,
    ReduceOnPlateau,
    Step,
    WarmupCosine,
)
from tests.schedules.cases import EACH, close, counts, each, inverse, no_address, run, sizes

# Against formulas


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


def test_warmup_cosine_is_a_join_of_its_halves():
    join = Piecewise([Polynomial(0.1, steps=5, end=0.5), Cosine(0.5, steps=15)], boundaries=[5])
    assert run(WarmupCosine(0.5, steps=20, warmup=5, start=0.1), 30) == close(run(join, 30))


def test_one_cycle_defaults():
    schedule = OneCycle(0.5, steps=19)
    explicit = OneCycle(0.5, steps=19, warmup=5, start=0.02, end=2e-6)
    assert run(schedule, 25) == close(run(explicit, 25))
    assert (schedule(0), schedule(5), schedule(19)) == close((0.02, 0.5, 2e-6))
    assert replace(schedule, peak=5.0)(0) == 0.2  # start and end follow the peak
    assert OneCycle(0.5, steps=1)(0) == 0.5
    assert OneCycle(0.5, steps=4, start=0.1)(4) == 0.1 / 1e4


def test_exponential_over_several_steps():
    schedule = Exponential(0.7, factor=0.3, steps=50)
    assert run(schedule, 200) == close([0.7 * math.exp(math.log(0.3) * t / 50) for t in range(200)])


@pytest.mark.parametrize("t", [10**5, 10**12, 2**53])
def test_exponential_stops_at_its_end(t):
    assert Exponential(1.0, factor=1.1, end=2.0)(t) == 2.0  # 1.1**t is above any float
    assert Exponential(1.0, factor=0.9, end=0.5)(t) == 0.5
    assert Exponential(1.0, factor=0.9)(t) == 0.0
    assert Exponential(0.0, factor=0.9)(t) == 0.0
    assert Exponential(1.0, factor=0.0)(0) == 1.0
    assert Exponential(1.0, factor=1.0)(t) == 1.0


def test_restarts_far_out():
    """The cycle that t lies in is found at once, however many there were before."""
    assert Cosine(1.0, steps=10, restart_mult=1)(10**15 + 5) == close(0.5)
    begin = 10 * (2**40 - 1)  # cycles of 10, 20, 40, ...
    schedule = Cosine(1.0, steps=10, restart_mult=2)
    assert schedule(begin) == 1.0
    assert schedule(begin + 10 * 2**39) == close(0.5)
    assert schedule(begin - 1) < 1e-9


# Properties


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


# What all have in common


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
def test_copies_are_equal(schedule):
    for twin in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule), replace(schedule)):
        assert twin == schedule
        assert twin is not schedule
        assert run(twin, 40) == run(schedule, 40)
    assert sum(other == schedule for other in EACH) == 1
    if not isinstance(schedule, ReduceOnPlateau):
        assert hash(pickle.loads(pickle.dumps(schedule))) == hash(schedule)


@each
def test_nothing_can_be_changed(schedule):
    with pytest.raises(FrozenInstanceError):
        schedule.steps = 3


@pytest.mark.parametrize("schedule", EACH[:-2], ids=no_address)
def test_repr_makes_it_again(schedule):
    names = {name: getattr(schedules, name) for name in schedules.__all__}
    assert eval(repr(schedule), names) == schedule


def test_importing_loads_neither_numpy_nor_numba():
    code = (
        "import sys, numadam.schedules; "
        "print([name for name in ('numpy', 'numba', 'scipy', 'optree') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
