# Written by `python tests/generate.py`: do not edit.
# fmt: off
# ruff: noqa
from numadam._optimizer.attributes import fixed, hyper
from numadam._core.keywords import FunctionalOptions, Shared
from typing import Any, Unpack
from numadam._core.hyper import Rate, Schedule
from numadam._optimizer.optimizer import Optimizer

class SGD(Optimizer):
    r"""SGD: gradient descent, plain, with momentum, or with Nesterov momentum.

    .. math::
        m = momentum \cdot m + (1 - dampening) \, g, \qquad p = p - lr \cdot m

    With `nesterov` the step is ``lr * (g + momentum * m)``; without momentum it is ``lr * g``.

    Parameters
    ----------
    params : array or nesting of lists, tuples and dicts of arrays
        Real or complex arrays of any shape, NumPy or CuPy, all of one dtype; modified in place by
        `step`.
    lr : float >= 0, callable, array, or nesting of these, default 1e-2
        Learning rate, in units of the parameters over those of the gradient. A callable gets the
        steps already taken, 0 at the first. An array, or a nesting as that of `params`, sets it
        by element or array.
    momentum : float in [0, 1) or callable, default 0.0
        Decay of the buffer `m`; 0.0 has no buffer.
    dampening : float in [0, 1] or callable, default 0.0
        Share of the gradient that the buffer does not get. The first gradient comes in whole, as
        in torch.
    nesterov : bool, default False
        Look ahead along the momentum, as torch and Keras do. Not with `dampening`.
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
        ``"t"`` and, with momentum, ``"m"``.

    See Also
    --------
    sgd_update : the same step on arrays that the caller owns.

    References
    ----------
    Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in
    deep learning", ICML 2013.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> x = np.array([3.0, -2.0])
    >>> opt = na.SGD(x, lr=0.05, momentum=0.9)
    >>> for _ in range(200):
    ...     opt.step(2 * x)
    >>> bool(np.all(abs(x) < 1e-3))
    True
    """

    momentum: hyper
    """Decay of the buffer `m`; 0.0 has no buffer. Type: float in [0, 1) or callable, default
    0.0."""

    dampening: hyper
    """Share of the gradient that the buffer does not get. Type: float in [0, 1] or callable,
    default 0.0."""

    nesterov: fixed
    """Look ahead along the momentum, as torch and Keras do. Type: bool, default False."""

    def __init__(self, params: Any, lr: Rate = 0.01, *, momentum: float | Schedule = 0.0, dampening: float | Schedule = 0.0, nesterov: bool = False, **shared: Unpack[Shared]) -> None: ...

def sgd_update(p: Any, g: Any, m: Any = None, t: int | None = None, *, lr: float = 0.01, momentum: float = 0.0, dampening: float = 0.0, nesterov: bool = False, out: Any = None, **shared: Unpack[FunctionalOptions]) -> None:
    """One step of SGD on arrays that the caller owns; formula as in `SGD`.

    Parameters
    ----------
    p : array or None
        Parameters, real or complex, NumPy or CuPy, any shape; modified in place. With `out` it may be
        None: the direction depends on them only by `weight_decay` and `bounds`.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    t : int, optional
        Number of this step, 1 at the first. Only `dampening` needs it.
    lr, momentum, dampening, nesterov
        As in `SGD`, but no callables.
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
    Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in
    deep learning", ICML 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam import sgd_update
    >>> p = np.ones(2)
    >>> sgd_update(p, np.array([1.0, -1.0]), lr=0.1)
    >>> bool(p[0] < 1.0 < p[1])
    True

    """
