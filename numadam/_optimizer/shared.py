# Written by `python tests/generate.py`: do not edit.
"""Options that all rules share, as attributes of an optimiser."""

from __future__ import annotations

from numadam._optimizer.attributes import fixed, hyper


class SharedAttributes:
    """Names and texts for editors; `with_options` makes them."""

    weight_decay: hyper
    """Strength of the decay of the parameters towards 0. Type: float >= 0 or callable, default
    0.0 (AdamW: 0.01)."""

    decoupled: fixed
    """Subtract ``lr * weight_decay * p`` beside the step (False: L2 decay). Type: bool."""

    decay_times_lr: fixed
    """False: the decoupled decay is ``weight_decay * p``, without lr. Type: bool, default True."""

    maximize: fixed
    """Maximise instead of minimise. Type: bool, default False."""

    loss_scale: hyper
    """Factor by which the loss was multiplied: the gradient is divided by it. Type: float > 0 or
    callable, default 1.0."""

    clip_value: hyper
    """Every element of the gradient is clipped to [-clip_value, clip_value]. Type: float > 0 or
    callable, optional."""

    clip_norm: hyper
    """All gradients together are multiplied by ``min(1, clip_norm / norm)``. Type: float > 0 or
    callable, optional."""

    clip_array_norm: hyper
    """As `clip_norm`, for each array by itself. Type: float > 0 or callable, optional."""

    accumulate: fixed
    """Take a step at every `accumulate`-th call only. Type: int >= 1, default 1."""

    nonfinite: fixed
    """Policy for non-finite gradients. Type: {"propagate", "raise", "skip"}, default
    "propagate"."""

    max_skips: fixed
    """Largest number of steps skipped in a row; the next one raises FloatingPointError. Type:
    int >= 1, optional."""

    bounds: fixed
    """Box for the parameters. Type: (lo, hi), sequence of (lo, hi), scipy.optimize.Bounds, or
    nesting, optional."""

    ema: hyper
    """Decay of a running average of the parameters, read by `averaged`. Type: float in [0, 1) or
    callable, optional."""

    ema_warmup: fixed
    """The average uses ``min(ema, (1 + t) / (10 + t))``, t at the step. Type: bool, default
    False."""

    ema_debias: fixed
    """The average starts as 0 and is divided by ``1 - ema^t`` when read. Type: bool, default
    False."""

    groups: fixed
    """Options of their own for some arrays. Type: mapping of str to mapping, optional."""

    sparse: fixed
    """Accept gradients of a few rows (`numadam.Rows`, CSR matrices). Type: {"lazy", "dense"},
    optional."""

    state_dtype: fixed
    """Dtype in which moments are stored: half the memory of float32, 8 significant bits. Type:
    "bfloat16", optional."""

    master: fixed
    """Keep a float32 copy of float16 or bfloat16 parameters, so that small steps add up. Type:
    bool, default False."""

    complex_form: fixed
    """Second moment of complex parameters. Type: {"parts", "modulus"}, default "parts"."""

    like: fixed
    """Defaults and arithmetic of another library; keywords override them. Type: str, optional."""

    capturable: fixed
    """Steps may be captured in a CUDA graph and replayed, for CuPy parameters. Type: bool,
    default False."""

    comm: fixed
    """The parameters are this rank's block of a larger problem. Type: mpi4py.MPI.Intracomm or
    numadam.mpi.Decomposition, optional."""
