# Written by `python tests/generate.py`: do not edit.
# fmt: off
# ruff: noqa
from numadam._optimizer.attributes import fixed, hyper
from numadam._core.keywords import FunctionalOptions, Shared
from typing import Any, Unpack
from numadam._core.hyper import Rate, Schedule
from numadam._optimizer.optimizer import Optimizer

class Lion(Optimizer):
    r"""Lion: steps of length `lr` by the sign of the momentum, with half the state of Adam.

    .. math::
        p = p - lr \, \mathrm{sign}(\beta_1 m + (1 - \beta_1) g), \qquad
        m = \beta_2 m + (1 - \beta_2) g

    Parameters
    ----------
    params : array or nesting of lists, tuples and dicts of arrays
        Real or complex arrays of any shape, NumPy or CuPy, all of one dtype; modified in place by
        `step`. Of complex numbers each part has a sign of its own.
    lr : float >= 0, callable, array, or nesting of these, default 1e-4
        Length of every step, in units of the parameters. Take a third to a tenth of Adam's. A
        callable gets the steps already taken, 0 at the first. An array, or a nesting as that of
        `params`, sets it by element or array.
    beta1 : float in [0, 1) or callable, default 0.9
        Weight of the momentum beside the gradient in the step.
    beta2 : float in [0, 1) or callable, default 0.99
        Decay of the momentum `m`.
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
        ``"t"`` and ``"m"``.

    See Also
    --------
    lion_update : the same step on arrays that the caller owns.

    References
    ----------
    Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> x = np.array([3.0, -2.0])
    >>> opt = na.Lion(x, lr=0.01)
    >>> opt.step(np.array([100.0, -0.001]))
    >>> x
    array([ 2.99, -1.99])
    """

    beta1: hyper
    """Weight of the momentum beside the gradient in the step. Type: float in [0, 1) or callable,
    default 0.9."""

    beta2: hyper
    """Decay of the momentum `m`. Type: float in [0, 1) or callable, default 0.99."""

    def __init__(self, params: Any, lr: Rate = 0.0001, *, beta1: float | Schedule = 0.9, beta2: float | Schedule = 0.99, **shared: Unpack[Shared]) -> None: ...

def lion_update(p: Any, g: Any, m: Any, *, lr: float = 0.0001, beta1: float = 0.9, beta2: float = 0.99, out: Any = None, **shared: Unpack[FunctionalOptions]) -> None:
    """One step of Lion on arrays that the caller owns; formula as in `Lion`.

    Parameters
    ----------
    p : array or None
        Parameters, real or complex, NumPy or CuPy, any shape; modified in place. With `out` it may be
        None: the direction depends on them only by `weight_decay` and `bounds`.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    m : array
        State, zeros before the first step; modified in place.
    lr, beta1, beta2
        As in `Lion`, but no callables.
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
    Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam import lion_update
    >>> p, m = np.ones(2), np.zeros(2)
    >>> lion_update(p, np.array([1.0, -1.0]), m, lr=0.1)
    >>> bool(p[0] < 1.0 < p[1])
    True

    """
