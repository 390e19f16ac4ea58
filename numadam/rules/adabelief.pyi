# Written by `python tests/generate.py`: do not edit.
# fmt: off
# ruff: noqa
from numadam._optimizer.attributes import fixed, hyper
from numadam._core.keywords import FunctionalOptions, Shared
from typing import Any, Unpack
from numadam._core.hyper import Rate, Schedule
from numadam._optimizer.optimizer import Optimizer

class AdaBelief(Optimizer):
    r"""AdaBelief: Adam with longer steps where successive gradients agree.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g \\
        v &= \beta_2 v + (1 - \beta_2) (g - m)^2 + eps_{root} \\
        p &= p - lr \, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + eps}

    Parameters
    ----------
    params : array or nesting of lists, tuples and dicts of arrays
        Real or complex arrays of any shape, NumPy or CuPy, all of one dtype; modified in place by
        `step`.
    lr : float >= 0, callable, array, or nesting of these, default 1e-3
        Learning rate, in units of the parameters. A callable gets the steps already taken, 0 at
        the first. An array, or a nesting as that of `params`, sets it by element or array.
    beta1 : float in [0, 1) or callable, default 0.9
        Decay of the first moment `m`, the running mean of the gradient.
    beta2 : float in [0, 1) or callable, default 0.999
        Decay of `v`, the running variance of the gradient about `m`.
    eps : float >= 0 or callable, default 1e-16
        Added to the root, in units of the gradient. Where the sum is 0, nothing moves.
    eps_root : float >= 0 or callable, default 1e-16
        Added to `v` at every step and kept in it, in units of the gradient squared.
    **shared
        Options of every rule. `numadam.Optimizer` says more about each:

        - `weight_decay`: Strength of the decay of the parameters towards 0.
        - `decoupled`: Subtract ``lr * weight_decay * p`` beside the step (False: L2 decay).
        - `decay_times_lr`: False: the decoupled decay is ``weight_decay * p``, without lr.
        - `maximize`: Maximise instead of minimise.
        - `loss_scale`: Factor by which the loss was multiplied: the gradient is divided by it.
        - `clip_value`: Every element of the gradient is clipped to [-clip_value, clip_value].
        - `clip_norm`: All gradients together are multiplied by ``min(1, clip_norm / norm)``.
        - `clip_array_norm`: As `clip_norm`, for each array by itself.
        - `accumulate`: Take a step at every `accumulate`-th call only.
        - `nonfinite`: Policy for non-finite gradients.
        - `max_skips`: Largest number of steps skipped in a row; the next one raises FloatingPointError.
        - `bounds`: Box for the parameters.
        - `ema`: Decay of a running average of the parameters, read by `averaged`.
        - `ema_warmup`: The average uses ``min(ema, (1 + t) / (10 + t))``, t at the step.
        - `ema_debias`: The average starts as 0 and is divided by ``1 - ema^t`` when read.
        - `groups`: Options of their own for some arrays.
        - `sparse`: Accept gradients of a few rows (`numadam.Rows`, CSR matrices).
        - `state_dtype`: Dtype in which moments are stored: half the memory of float32, 8 significant bits.
        - `master`: Keep a float32 copy of float16 or bfloat16 parameters, so that small steps add up.
        - `complex_form`: Second moment of complex parameters.
        - `like`: Defaults and arithmetic of another library; keywords override them.
        - `capturable`: Steps may be captured in a CUDA graph and replayed, for CuPy parameters.
        - `comm`: The parameters are this rank's block of a larger problem.

    Attributes
    ----------
    state : mapping
        ``"t"``, ``"m"`` and ``"v"``.

    See Also
    --------
    adabelief_update : the same step on arrays that the caller owns.

    References
    ----------
    Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients",
    NeurIPS 2020.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> x = np.array([3.0, -2.0])
    >>> opt = na.AdaBelief(x, lr=0.1)
    >>> for _ in range(200):
    ...     opt.step(2 * x)
    >>> bool(np.all(abs(x) < 0.05))
    True
    """

    beta1: hyper
    """Decay of the first moment `m`, the running mean of the gradient. Type: float in [0, 1) or
    callable, default 0.9."""

    beta2: hyper
    """Decay of `v`, the running variance of the gradient about `m`. Type: float in [0, 1) or
    callable, default 0.999."""

    eps: hyper
    """Added to the root, in units of the gradient. Type: float >= 0 or callable, default 1e-16."""

    eps_root: hyper
    """Added to `v` at every step and kept in it, in units of the gradient squared. Type: float
    >= 0 or callable, default 1e-16."""

    def __init__(self, params: Any, lr: Rate = 0.001, *, beta1: float | Schedule = 0.9, beta2: float | Schedule = 0.999, eps: float | Schedule = 1e-16, eps_root: float | Schedule = 1e-16, **shared: Unpack[Shared]) -> None: ...

def adabelief_update(p: Any, g: Any, m: Any, v: Any, t: int, *, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-16, eps_root: float = 1e-16, out: Any = None, **shared: Unpack[FunctionalOptions]) -> None:
    """One step of AdaBelief on arrays that the caller owns; formula as in `AdaBelief`.

    Parameters
    ----------
    p : array or None
        Parameters, real or complex, NumPy or CuPy, any shape; modified in place. With `out` it may be
        None: the direction depends on them only by `weight_decay` and `bounds`.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    m, v : array
        State, zeros before the first step; modified in place.
    t : int
        Number of this step: 1 at the first.
    lr, beta1, beta2, eps, eps_root
        As in `AdaBelief`, but no callables.
    out : array, optional
        Gets the direction instead: `p` would become ``p + out``, and stays as it is.
    **shared
        `weight_decay`, `decoupled`, `decay_times_lr`, `maximize`, `loss_scale`, `clip_value`,
        `clip_norm`, `bounds`, `complex_form` and `like`: see `numadam.Optimizer`.

    Raises
    ------
    TypeError, ValueError
        Before anything is written: the message names the argument and says what to do.

    References
    ----------
    Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients",
    NeurIPS 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam import adabelief_update
    >>> p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    >>> adabelief_update(p, np.array([1.0, -1.0]), m, v, 1, lr=0.1)
    >>> bool(p[0] < 1.0 < p[1])
    True

    """
