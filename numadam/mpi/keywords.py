# Written by `python tests/generate.py`: do not edit.
"""Options of rules as keywords of `Sharded`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from numadam._core.hyper import (
    AMSGrad,
    Bounds,
    ComplexForm,
    EpsForm,
    EpsFormOfMax,
    Like,
    Nonfinite,
    Schedule,
    StateDtype,
)

if TYPE_CHECKING:
    import numpy as np


class Options(TypedDict, total=False):
    """Keywords of `Sharded`."""

    weight_decay: float | Schedule
    """Strength of the decay of the parameters towards 0. Type: float >= 0 or callable, default
    0.0 (AdamW: 0.01)."""

    decoupled: bool | None
    """Subtract ``lr * weight_decay * p`` beside the step (False: L2 decay). Type: bool."""

    decay_times_lr: bool
    """False: the decoupled decay is ``weight_decay * p``, without lr. Type: bool, default True."""

    maximize: bool
    """Maximise instead of minimise. Type: bool, default False."""

    loss_scale: float | Schedule
    """Factor by which the loss was multiplied: the gradient is divided by it. Type: float > 0 or
    callable, default 1.0."""

    clip_value: float | Schedule | None
    """Every element of the gradient is clipped to [-clip_value, clip_value]. Type: float > 0 or
    callable, optional."""

    clip_norm: float | Schedule | None
    """All gradients together are multiplied by ``min(1, clip_norm / norm)``. Type: float > 0 or
    callable, optional."""

    clip_array_norm: float | Schedule | None
    """As `clip_norm`, for each array by itself. Type: float > 0 or callable, optional."""

    accumulate: int
    """Take a step at every `accumulate`-th call only. Type: int >= 1, default 1."""

    nonfinite: Nonfinite
    """Policy for non-finite gradients. Type: {"propagate", "raise", "skip"}, default
    "propagate"."""

    max_skips: int | None
    """Largest number of steps skipped in a row; the next one raises FloatingPointError. Type:
    int >= 1, optional."""

    bounds: Bounds | None
    """Box for the parameters. Type: (lo, hi), sequence of (lo, hi), scipy.optimize.Bounds, or
    nesting, optional."""

    ema: float | Schedule | None
    """Decay of a running average of the parameters, read by `averaged`. Type: float in [0, 1) or
    callable, optional."""

    ema_warmup: bool
    """The average uses ``min(ema, (1 + t) / (10 + t))``, t at the step. Type: bool, default
    False."""

    ema_debias: bool
    """The average starts as 0 and is divided by ``1 - ema^t`` when read. Type: bool, default
    False."""

    groups: Mapping[str, Mapping[str, Any]] | None
    """Options of their own for some arrays. Type: mapping of str to mapping, optional."""

    state_dtype: StateDtype | type[Any] | np.dtype[Any] | None
    """Dtype in which moments are stored: half the memory of float32, 8 significant bits. Type:
    "bfloat16", optional."""

    master: bool
    """Keep a float32 copy of float16 or bfloat16 parameters, so that small steps add up. Type:
    bool, default False."""

    complex_form: ComplexForm
    """Second moment of complex parameters. Type: {"parts", "modulus"}, default "parts"."""

    like: Like | None
    """Defaults and arithmetic of another library; keywords override them. Type: str, optional."""

    beta1: float | Schedule
    """Decay of the first moment `m`, the running mean of the gradient. Of Adam, AdamW, NAdam,
    RAdam, AdaMax, AdaBelief, Lion."""

    beta2: float | Schedule
    """Decay of the second moment `v`. Of Adam, AdamW, NAdam, RAdam, AdaMax, AdaBelief, Lion,
    RMSprop."""

    eps: float | Schedule
    """Added to the root, in units of the gradient. Of Adam, AdamW, NAdam, RAdam, AdaMax,
    AdaBelief, RMSprop, Adagrad."""

    eps_root: float | Schedule
    """Added under the root, in units of the gradient squared. Of Adam, AdamW, AdaBelief,
    RMSprop, Adagrad."""

    eps_form: EpsForm | EpsFormOfMax
    """Place of the two eps. Of Adam, AdamW, RAdam, AdaMax."""

    bias_correction: bool
    """False leaves out ``1 - beta1^t`` and ``1 - beta2^t``. Of Adam, AdamW."""

    amsgrad: bool | AMSGrad
    """Divide by the largest second moment so far (state ``"vmax"``). Of Adam, AdamW."""

    nesterov: bool
    """Look ahead along the momentum. Of Adam, AdamW, SGD."""

    momentum_decay: float | Schedule
    """Rate at which the momentum grows from ``beta1/2`` to `beta1`. Of NAdam."""

    momentum: float | Schedule
    """Decay of the buffer `m`; 0.0 has no buffer. Of RMSprop, SGD."""

    centered: bool
    """Divide by the standard deviation of the gradient (Graves 2013). Of RMSprop."""

    dampening: float | Schedule
    """Share of the gradient that the buffer does not get. Of SGD."""

    initial_accumulator: float
    """Start of the sum of squares, in units of the gradient squared. Of Adagrad."""
