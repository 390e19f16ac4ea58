"""Options that contradict: which one is named, with what advice; and those just inside."""

from __future__ import annotations

import re

import pytest

import numadam as na
from numadam._core import options
from numadam._optimizer.base import default_options

LAZY, CAPTURED = {"sparse": "lazy"}, {"capturable": True}
REFUSED = [
    ({"max_skips": 3}, "max_skips: needs nonfinite='skip'."),
    ({"clip_norm": 1.0, "clip_array_norm": 1.0}, "clip_array_norm: clips each array by itself"),
    ({"decay_times_lr": False, "decoupled": False}, "decay_times_lr: L2 decay is part of the grad"),
    ({"ema_warmup": True}, "ema_warmup: needs an average, e.g. ema=0.999."),
    ({"ema_debias": True}, "ema_debias: needs an average, e.g. ema=0.999."),
    ({"ema": 0.9, "ema_debias": True, "ema_warmup": True}, "ema_debias: ema_warmup already keeps"),
    ({"ema": lambda t: 0.9, "ema_debias": True}, "ema_debias: divides by 1 - ema^t"),
    ({**LAZY, "accumulate": 2}, "accumulate: with sparse='lazy' a mean would touch"),
    ({**LAZY, "ema": 0.9}, "ema: sparse='lazy' leaves rows alone"),
    ({**CAPTURED, "accumulate": 2}, "accumulate: with capturable=True every call is the same step"),
    ({**CAPTURED, "nonfinite": "raise"}, "nonfinite: a captured step cannot raise; use 'skip'"),
    ({**CAPTURED, "nonfinite": "skip", "max_skips": 1}, "max_skips: a captured step cannot raise"),
    ({**CAPTURED, "sparse": "dense"}, "sparse: which rows have a gradient is the host's business"),
    ({**CAPTURED, "ema": lambda t: 0.9}, "ema: a captured step cannot call a schedule; give a num"),
    ({"nonfinite": "stop"}, "nonfinite: expected 'propagate', 'raise' or 'skip', got 'stop'."),
    ({"sparse": True}, "sparse: expected None, 'lazy' or 'dense', got True."),
    ({"clip_norm": 0.0}, "clip_norm: expected a number"),
    ({"loss_scale": 0.0}, "loss_scale: expected a number"),
]
TAKEN = [
    {"nonfinite": "skip", "max_skips": 1},
    {"clip_norm": float("inf")},
    {"decay_times_lr": False, "decoupled": True},
    {"ema": 0.9, "ema_warmup": True},
    {**LAZY, "accumulate": 1},
    {**CAPTURED, "nonfinite": "skip", "accumulate": 1},
]


def checked(given):
    """The options of Adam with these, checked."""
    rule, usual = na.Adam.rule, default_options(na.Adam)
    own = {k: v for k, v in usual.items() if k not in options.DEFAULTS and k != "lr"}
    return options.check(rule, "Adam", given, own)


@pytest.mark.parametrize(("given", "says"), REFUSED, ids=range(len(REFUSED)))
def test_contradictions_are_refused_by_name(given, says):
    with pytest.raises(ValueError, match="^" + re.escape(says)):
        checked(given)


@pytest.mark.parametrize("given", TAKEN, ids=range(len(TAKEN)))
def test_options_that_fit_are_taken(given):
    found = checked(given)
    assert {name: found[name] for name in given} == given
