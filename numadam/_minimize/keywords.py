# Written by `python tests/generate.py`: do not edit.
"""Options of rules as keywords of `minimize` and `minimize_many`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from numadam._core.choices import (
    AMSGrad,
    ComplexForm,
    EpsForm,
    EpsFormOfMax,
    Like,
)
from numadam._core.hyper import Schedule
from numadam._minimize.names import OfSciPy

RuleName = Literal[
    "adam",
    "adamw",
    "nadam",
    "radam",
    "adamax",
    "adabelief",
    "lion",
    "rmsprop",
    "sgd",
    "adagrad",
]


class ManyOptions(OfSciPy, total=False):
    """Keywords of `minimize_many`."""

    decoupled: bool
    decay_times_lr: bool
    clip_value: float | Schedule | None
    clip_norm: float | Schedule | None
    clip_array_norm: float | Schedule | None
    ema: float | Schedule | None
    ema_warmup: bool
    groups: Mapping[str, Mapping[str, Any]] | None
    complex_form: ComplexForm
    like: Like | None
    capturable: bool
    weight_decay: float | Schedule
    beta1: float | Schedule
    beta2: float | Schedule
    eps: float | Schedule
    eps_root: float | Schedule
    eps_form: EpsForm | EpsFormOfMax
    bias_correction: bool
    amsgrad: bool | AMSGrad
    nesterov: bool
    momentum_decay: float | Schedule
    momentum: float | Schedule
    centered: bool
    dampening: float | Schedule
    initial_accumulator: float


class Options(ManyOptions, total=False):
    """Keywords of `minimize`."""

    ema_debias: bool
