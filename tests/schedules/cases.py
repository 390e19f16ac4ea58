"""One schedule of each kind."""

import re
from functools import partial

import pytest
from hypothesis import strategies as st

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
