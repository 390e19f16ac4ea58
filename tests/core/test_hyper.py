"""Hyperparameters, counts and texts of options: ranges, and what contradicts."""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import numadam
import numadam as na
from numadam._core import options
from numadam._core.hyper import (
    EPS,
    LR,
    AMSGrad,
    EpsForm,
    Hyper,
    Like,
    at_start,
    check_choice,
    mismatch,
)
from numadam._core.keywords import Shared
from numadam._core.options import DEFAULTS
from numadam._core.synonyms import LIKE
from numadam._optimizer.base import default_options, option
from numadam.schedules import Cosine

HALF = Hyper("beta", 0.0, 1.0)
CLOSED = Hyper("beta", 0.0, 1.0, closed=True)
OPEN = Hyper("scale", positive=True)
TINY = 5e-324


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


# --- options that take one of a few texts ---------------------------------------------------------


PACKAGE = Path(numadam.__file__).parent
#: The second has the names of the rules.
HOMES = {"_core/hyper.py", "_core/keywords.pyi"}


def test_every_library_has_its_habits_and_its_name():
    assert tuple(LIKE) == get_args(Like)


@pytest.mark.option
def test_every_option_has_a_type_and_is_an_attribute():
    assert Shared.__annotations__.keys() == DEFAULTS.keys()
    attributes = {name: vars(numadam.Optimizer).get(name) for name in DEFAULTS}
    assert [name for name, one in attributes.items() if not isinstance(one, option)] == []


@pytest.mark.option
def test_choices_are_written_in_one_file():
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py*")
        if path.suffix in (".py", ".pyi")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("Literal")
    }
    assert found == HOMES


def test_the_text_names_the_option_its_choices_and_what_it_got():
    with pytest.raises(ValueError, match=r"^eps_form: expected 'paper' or 'hat', got 'max'\.$"):
        check_choice("eps_form", "max", EpsForm)
    text = mismatch("amsgrad", 1, AMSGrad, (True, False))
    assert text == "amsgrad: expected True, False, 'v', 'vhat' or 'paper', got 1."


# --- options that contradict ----------------------------------------------------------------------


LAZY = {"sparse": "lazy"}
REFUSED = [
    ({"max_skips": 3}, "max_skips: needs nonfinite='skip'."),
    ({"clip_norm": 1.0, "clip_array_norm": 1.0}, "clip_array_norm: clips each array by itself"),
    ({"decay_times_lr": False, "decoupled": False}, "decay_times_lr: L2 decay is part of the grad"),
    ({"ema_warmup": True}, "ema_warmup: needs an average, e.g. ema=0.999."),
    ({"ema_debias": True}, "ema_debias: needs an average, e.g. ema=0.999."),
    ({"ema": 0.9, "ema_debias": True, "ema_warmup": True}, "ema_debias: ema_warmup already keeps"),
    ({"ema": lambda t: 0.9, "ema_debias": True}, "ema_debias: divides by 1 - ema^t"),
    ({**LAZY, "ema": 0.9}, "ema: sparse='lazy' leaves rows alone"),
]
TAKEN = [
    {"nonfinite": "skip", "max_skips": 1},
    {"clip_norm": float("inf")},
    {"decay_times_lr": False, "decoupled": True},
    {"ema": 0.9, "ema_warmup": True},
]


def checked(given):
    """The options of Adam with these, checked."""
    rule, usual = na.Adam.rule, default_options(na.Adam)
    own = {k: v for k, v in usual.items() if k not in options.DEFAULTS and k != "lr"}
    shared = {k: v for k, v in given.items() if k not in own}
    return options.check(rule, "Adam", shared, {k: given.get(k, v) for k, v in own.items()})


@pytest.mark.parametrize(("given", "says"), REFUSED, ids=range(len(REFUSED)))
def test_contradictions_are_refused_by_name(given, says):
    with pytest.raises(ValueError, match="^" + re.escape(says)):
        checked(given)


@pytest.mark.parametrize("given", TAKEN, ids=range(len(TAKEN)))
def test_options_that_fit_are_taken(given):
    found = checked(given)
    assert {name: found[name] for name in given} == given
