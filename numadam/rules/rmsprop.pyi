# Written by `python tests/generate.py`: do not edit.
# fmt: off
# ruff: noqa
from numadam._optimizer.attributes import fixed, hyper
from numadam._core.keywords import FunctionalOptions, Shared
from typing import Any, Unpack
from numadam._core.hyper import Rate, Schedule
from numadam._optimizer.optimizer import Optimizer

class RMSprop(Optimizer):
    r"""RMSprop: the gradient divided by the root of its running mean square.

    .. math::
        v = \beta_2 v + (1 - \beta_2) g^2, \qquad
        p = p - lr \, \frac{g}{\sqrt{v + eps_{root}} + eps}

    With `centered` the root is that of the variance, ``v - mean**2``. With `momentum` the
    quotients are summed up, ``m = momentum*m + quotient``, and the step is ``lr * m``.

    Parameters
    ----------
    params : array or nesting of lists, tuples and dicts of arrays
        Real or complex arrays of any shape, NumPy or CuPy, all of one dtype; modified in place by
        `step`.
    lr : float >= 0, callable, array, or nesting of these, default 0.01
        Learning rate, in units of the parameters. A callable gets the steps already taken, 0 at
        the first. An array, or a nesting as that of `params`, sets it by element or array.
    beta2 : float in [0, 1) or callable, default 0.99
        Decay of the mean square `v` and of the mean. Called alpha in torch, rho in Keras.
    eps : float >= 0 or callable, default 1e-8
        Added to the root, in units of the gradient. Where the sum is 0, nothing moves.
    eps_root : float >= 0 or callable, default 0.0
        Added under the root, in units of the gradient squared (Keras, optax).
    momentum : float in [0, 1) or callable, default 0.0
        Decay of the buffer `m`; 0.0 has no buffer. `lr` stays outside of it, as in torch.
    centered : bool, default False
        Divide by the standard deviation of the gradient (Graves 2013).
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
        ``"t"``, ``"v"``, with `centered` ``"mean"`` and with `momentum` ``"m"``.

    See Also
    --------
    rmsprop_update : the same step on arrays that the caller owns.

    References
    ----------
    Tieleman and Hinton, "Lecture 6.5: RMSProp", COURSERA Neural Networks, 2012.
    Graves, "Generating Sequences With Recurrent Neural Networks", 2013.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> x = np.array([3.0, -2.0])
    >>> opt = na.RMSprop(x, lr=0.02)
    >>> for _ in range(300):
    ...     opt.step(2 * x)
    >>> bool(np.all(abs(x) < 0.05))
    True
    """

    beta2: hyper
    """Decay of the mean square `v` and of the mean. Type: float in [0, 1) or callable, default
    0.99."""

    eps: hyper
    """Added to the root, in units of the gradient. Type: float >= 0 or callable, default 1e-8."""

    eps_root: hyper
    """Added under the root, in units of the gradient squared (Keras, optax). Type: float >= 0 or
    callable, default 0.0."""

    momentum: hyper
    """Decay of the buffer `m`; 0.0 has no buffer. Type: float in [0, 1) or callable, default
    0.0."""

    centered: fixed
    """Divide by the standard deviation of the gradient (Graves 2013). Type: bool, default False."""

    def __init__(self, params: Any, lr: Rate = 0.01, *, beta2: float | Schedule = 0.99, eps: float | Schedule = 1e-08, eps_root: float | Schedule = 0.0, momentum: float | Schedule = 0.0, centered: bool = False, **shared: Unpack[Shared]) -> None: ...

def rmsprop_update(p: Any, g: Any, v: Any, *, lr: float = 0.01, beta2: float = 0.99, eps: float = 1e-08, eps_root: float = 0.0, momentum: float = 0.0, mean: Any = None, m: Any = None, out: Any = None, **shared: Unpack[FunctionalOptions]) -> None:
    """One step of RMSprop on arrays that the caller owns; formula as in `RMSprop`.

    Parameters
    ----------
    p : array or None
        Parameters, real or complex, NumPy or CuPy, any shape; modified in place. With `out` it may be
        None: the direction depends on them only by `weight_decay` and `bounds`.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    v : array
        State, zeros before the first step; modified in place.
    lr, beta2, eps, eps_root, momentum
        As in `RMSprop`, but no callables.
    mean : array, optional
        Mean of the gradient, zeros before the first step: RMSprop is centered; modified in place.
    m : array, optional
        Momentum buffer, zeros before the first step; modified in place. It is there exactly where
        `momentum` is not 0.
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
    Tieleman and Hinton, "Lecture 6.5: RMSProp", COURSERA Neural Networks, 2012.
    Graves, "Generating Sequences With Recurrent Neural Networks", 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam import rmsprop_update
    >>> p, v = np.ones(2), np.zeros(2)
    >>> rmsprop_update(p, np.array([1.0, -1.0]), v, lr=0.1)
    >>> bool(p[0] < 1.0 < p[1])
    True

    """
