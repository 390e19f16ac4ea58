# Written by `python tests/generate.py`: do not edit.
"""Options of rules as keywords of `Sharded`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from numadam._core.annotations import Bounds
from numadam._core.choices import (
    AMSGrad,
    ComplexForm,
    EpsForm,
    EpsFormOfMax,
    Like,
    Nonfinite,
    StateDtype,
)
from numadam._core.hyper import Schedule

if TYPE_CHECKING:
    import numpy as np


class Options(TypedDict, total=False):
    """Keywords of `Sharded`."""

    decoupled: bool
    decay_times_lr: bool
    maximize: bool
    loss_scale: float | Schedule
    clip_value: float | Schedule | None
    clip_norm: float | Schedule | None
    clip_array_norm: float | Schedule | None
    accumulate: int
    nonfinite: Nonfinite
    max_skips: int | None
    bounds: Bounds | None
    ema: float | Schedule | None
    ema_warmup: bool
    ema_debias: bool
    groups: Mapping[str, Mapping[str, Any]] | None
    state_dtype: StateDtype | type[Any] | np.dtype[Any] | None
    master: bool
    complex_form: ComplexForm
    like: Like | None
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
