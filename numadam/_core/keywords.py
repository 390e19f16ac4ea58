"""Keywords of optimiser classes and update functions, with their types; for signatures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from numadam._core.annotations import Bounds
from numadam._core.choices import ComplexForm, Like, Nonfinite, Sparse, StateDtype
from numadam._core.hyper import Schedule

if TYPE_CHECKING:
    import numpy as np


class SharedButDecay(TypedDict, total=False):
    """Keywords of every rule but `weight_decay`, for a rule that declares that one itself."""

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
    sparse: Sparse | None
    state_dtype: StateDtype | type[Any] | np.dtype[Any] | None
    master: bool
    complex_form: ComplexForm
    like: Like | None
    capturable: bool
    comm: Any


class Shared(SharedButDecay, total=False):
    """Keywords that every rule takes; `numadam.Optimizer` describes each."""

    weight_decay: float | Schedule


class FunctionalButDecay(TypedDict, total=False):
    """Keywords of every update function but `weight_decay`: no array or counter is kept."""

    decoupled: bool
    decay_times_lr: bool
    maximize: bool
    loss_scale: float
    clip_value: float | None
    clip_norm: float | None
    bounds: Bounds | None
    complex_form: ComplexForm
    like: Like | None


class FunctionalOptions(FunctionalButDecay, total=False):
    """Keywords that every update function takes."""

    weight_decay: float
