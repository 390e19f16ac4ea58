"""The table of cases about options: each against the plain step, and targets of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from numadam import rules
from numadam.bench import measure, option_peers
from numadam.bench.case import Case, Prepare, pair
from numadam.bench.measure import Figure, Side
from numadam.bench.option_peers import bfloat16, box, rates

_N = 10_000_000
_TARGET = 1.1

#: Options of Adam by the name of their case.
OPTIONS: dict[str, Mapping[str, Any]] = {
    "l2": {"weight_decay": 0.01},
    "decoupled": {"weight_decay": 0.01, "decoupled": True},
    "amsgrad": {"amsgrad": True},
    "amsgrad-vhat": {"amsgrad": "vhat"},
    "nesterov": {"nesterov": True},
    "like-numpy": {"like": "numpy"},
    "like-keras": {"like": "keras"},
    "maximize": {"maximize": True, "loss_scale": 8.0},
    "clip-value": {"clip_value": 0.5},
    "clip-norm": {"clip_norm": 1.0},
    "clip-array-norm": {"clip_array_norm": 1.0},
    "nonfinite-skip": {"nonfinite": "skip"},
    "bounds": {"bounds": (-3.0, 3.0)},
    "bounds-array": {"bounds": box},
    "bounds-clip-norm": {"bounds": (-3.0, 3.0), "clip_norm": 1.0},
    "bounds-array-clip": {"bounds": box, "clip_norm": 1.0},
    "ema": {"ema": 0.999},
    "lr-array": {"lr": rates},
    "accumulate": {"accumulate": 8},
    "state-bfloat16": {"state_dtype": "bfloat16"},
    "bfloat16": {"dtype": bfloat16},
    "float16": {"dtype": "float16"},
    "float16-master": {"dtype": "float16", "master": True},
    "complex": {"dtype": "complex64"},
    "complex-modulus": {"dtype": "complex64", "complex_form": "modulus"},
    "many-options": {
        "amsgrad": True,
        "weight_decay": 0.01,
        "decoupled": True,
        "clip_norm": 1.0,
        "bounds": box,
        "ema": 0.999,
        "lr": rates,
    },
}

#: Options that give a rule other arrays, by the name of their case.
VARIANTS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "rmsprop-centered": ("RMSprop", {"centered": True}),
    "rmsprop-momentum": ("RMSprop", {"centered": True, "momentum": 0.9}),
    "sgd-momentum": ("SGD", {"momentum": 0.9}),
}


def sides(
    n: int, rule: str, options: Mapping[str, Any], adds: bool = False
) -> tuple[Side, Side, float]:
    """A step with options, the plain step, and the ratio of their bytes."""
    ours, moved = option_peers.option(n, rule, options, adds)
    theirs, plain = option_peers.option(n, "Adam", {})
    return ours, theirs, moved / plain


def _against_plain(rule: str, options: Mapping[str, Any], adds: bool = False) -> Prepare:
    def prepare() -> Callable[[int], Figure]:
        ours, theirs, expected = sides(_N, rule, options, adds)
        return functools.partial(measure.ratio, ours, theirs, expected=expected)

    return prepare


def _option(name: str, rule: str, options: Mapping[str, Any], what: str) -> Case:
    needs = ("ml_dtypes",) if "bfloat16" in name else ()
    return Case(f"{name}-10M", what, _TARGET, _against_plain(rule, options), needs=needs)


def _states(n: int) -> Prepare:
    def side(**options: Any) -> Side:
        return option_peers.option(n, "Adam", options)[0]

    return pair(lambda: side(state_dtype="bfloat16"), side)


def _rows() -> Callable[[int], Figure]:
    return functools.partial(measure.ratio, *option_peers.embedding(1_000_000, 64, 0.01))


OPTION_CASES = (
    *(
        _option(name, "Adam", options, f"a step with {name} / plain, by bytes")
        for name, options in OPTIONS.items()
    ),
    Case(
        "accumulate-add-10M",
        "a call that adds its gradient to the sum / plain, by bytes",
        _TARGET,
        _against_plain("Adam", OPTIONS["accumulate"], adds=True),
    ),
    *(
        _option(f"rule-{rule.lower()}", rule, {}, f"a step of {rule} / Adam, by bytes")
        for rule in rules.CLASSES.values()
        if rule != "Adam"
    ),
    *(
        _option(f"rule-{name}", rule, options, f"a step of {name} / Adam, by bytes")
        for name, (rule, options) in VARIANTS.items()
    ),
    Case(
        "idle-1M",
        "a step after 5000 zero gradients / one with random ones",
        1.1,
        pair(
            functools.partial(option_peers.idle, 1_000_000),
            lambda: option_peers.option(1_000_000, "Adam", {})[0],
        ),
    ),
    Case(
        "state-bfloat16-50M",
        "a step with bfloat16 state of 50M / float32 state",
        0.85,
        _states(50_000_000),
        needs=("ml_dtypes",),
        memory=8,
        quick=False,
    ),
    Case(
        "lazy-rows",
        "a lazy step touching 1 % of 1M x 64 rows / the dense step",
        0.05,
        _rows,
        memory=8,
        quick=False,
    ),
    Case(
        "accumulate-memory",
        "peak memory that accumulate=8 adds at 10M, in arrays of the parameters",
        1.01,
        lambda: option_peers.accumulating(_N, 8),
    ),
)
