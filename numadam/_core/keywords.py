"""Keywords of optimiser classes and update functions, with their types; for signatures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from numadam._core.hyper import Schedule


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
    nonfinite: str
    max_skips: int | None
    bounds: Any
    ema: float | Schedule | None
    ema_warmup: bool
    ema_debias: bool
    groups: Mapping[str, Mapping[str, Any]] | None
    sparse: str | None
    state_dtype: Any
    master: bool
    complex_form: str
    like: str | None
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
    bounds: Any
    complex_form: str
    like: str | None


class FunctionalOptions(FunctionalButDecay, total=False):
    """Keywords that every update function takes."""

    weight_decay: float
