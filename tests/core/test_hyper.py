"""Ranges of hyperparameters and counts: both sides of each end, and what is no number."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from numadam._core.hyper import EPS, LR, Hyper, at_start, count
from numadam.schedules import Cosine

HALF = Hyper("beta", 0.0, 1.0)
CLOSED = Hyper("beta", 0.0, 1.0, closed=True)
OPEN = Hyper("scale", positive=True)
BELOW_ONE, TINY = 1.0 - 2.0**-53, 5e-324


@pytest.mark.parametrize(
    ("hyper", "value"),
    [
        (HALF, 0.0), (HALF, BELOW_ONE), (CLOSED, 1.0), (CLOSED, 0), (OPEN, TINY), (OPEN, 1e308),
        (LR, 0), (LR, 5), (HALF, np.float32(0.5)), (HALF, np.array(0.5)), (LR, np.int64(3)),
        (EPS, -0.0), (Hyper("clip", closed=True, positive=True), math.inf),
    ],
)  # fmt: skip
def test_in_range(hyper, value):
    checked = hyper.check(value)
    assert type(checked) is float
    assert checked == value
    assert hyper.check_or_schedule(value) == value
    assert hyper.check_or_schedule(len) is len
    assert at_start(hyper, lambda steps: value if steps == 0 else -1.0) == value


@pytest.mark.parametrize(
    ("hyper", "value", "error", "says"),
    [
        (HALF, -TINY, ValueError, "beta: expected a number in [0, 1), got -5e-324."),
        (HALF, 1.0, ValueError, "beta: expected a number in [0, 1), got 1.0."),
        (CLOSED, 1.5, ValueError, "beta: expected a number in [0, 1], got 1.5."),
        (OPEN, 0.0, ValueError, "scale: expected a number in (0, inf), got 0.0."),
        (OPEN, math.inf, ValueError, "scale: expected a number in (0, inf), got inf."),
        (LR, math.nan, ValueError, "lr: expected a number in [0, inf), got nan."),
        (LR, 10**400, ValueError, "lr: expected a number in [0, inf), got 1000"),
        (EPS, -1, ValueError, "eps: expected a number in [0, inf), got -1."),
        (LR, True, TypeError, "lr: expected a number, got bool (True)."),
        (LR, np.True_, TypeError, "lr: expected a number, got bool"),
        (LR, "0.1", TypeError, "lr: expected a number, got str ('0.1')."),
        (LR, b"0.1", TypeError, "lr: expected a number, got bytes (b'0.1')."),
        (LR, np.str_("1"), TypeError, "lr: expected a number, got str_"),
        (LR, np.array(b"1"), TypeError, "lr: expected a number, got ndarray"),
        (LR, np.complex128(1), TypeError, "lr: expected a number, got complex128"),
        (LR, 1j, TypeError, "lr: expected a number, got complex (1j)."),
        (LR, None, TypeError, "lr: expected a number, got NoneType (None)."),
        (LR, np.ones(2), TypeError, "lr: expected a number, got ndarray"),
    ],
)
def test_out_of_range(hyper, value, error, says):
    for check in (
        hyper.check,
        hyper.check_or_schedule,
        lambda one: at_start(hyper, lambda steps: one),
    ):
        with pytest.raises(error, match="^" + re.escape(says)):
            check(value)


def test_counts():
    for value in (2, np.int64(3), np.uint8(4), np.array(4)):
        checked = count("n", value, 2, 4)
        assert type(checked) is int
        assert checked == value
    assert count("n", 10**30, 0) == 10**30
    for value, says in ((1, "at most 4, got 1."), (5, "at most 4, got 5.")):
        with pytest.raises(
            ValueError, match=rf"^n: expected a whole number of at least 2.*{says}$"
        ):
            count("n", value, 2, 4)
    with pytest.raises(ValueError, match=r"^n: expected a whole number of at least 0, got -1\.$"):
        count("n", -1, 0)
    for value, kind in ((True, "bool"), (np.True_, "bool"), (2.0, "float"), ("2", "str")):
        with pytest.raises(TypeError, match=rf"^n: expected a whole number, got {kind}_? ?\("):
            count("n", value, 0)


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        (Cosine, r"lr: .* got the class Cosine. Pass Cosine\(...\)"),
        (lambda: 0.1, r"lr: is called with one argument, the steps taken, got <lambda>\(\)"),
        (lambda t, epoch: 0.1, r"lr: is called with one argument.*\(t, epoch\)"),
        (lambda t, *, epoch: 0.1, r"lr: is called with one argument"),
    ],
)
def test_schedules_that_cannot_be_called_with_a_step(schedule, says):
    with pytest.raises(TypeError, match=says):
        LR.check_or_schedule(schedule)


@pytest.mark.parametrize(
    "schedule",
    [
        Cosine(0.1, steps=2),
        lambda t: 0.1,
        lambda *t: 0.1,
        lambda t, scale=1.0, *, power=2: 0.1,
        lambda t=0: 0.1,
    ],
)
def test_schedules_are_kept_as_they_are(schedule):
    assert LR.check_or_schedule(schedule) is schedule
