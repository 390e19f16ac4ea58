# Written by `python tests/generate.py`: do not edit.
# fmt: off
# ruff: noqa
from numadam._optimizer.attributes import fixed, hyper
from numadam._core.keywords import FunctionalOptions, Shared
from typing import Any, Unpack
from numadam._core.hyper import Rate, Schedule
from numadam._optimizer.optimizer import Optimizer

class NAdam(Optimizer):
    r"""NAdam: Adam with Nesterov momentum, whose beta1 grows over the first steps.

    .. math::
        \mu_t &= \beta_1 (1 - 0.96^{t \, momentum\_decay} / 2), \qquad
            P_t = \mu_1 \mu_2 \cdots \mu_t \\
        m &= \beta_1 m + (1 - \beta_1) g, \qquad v = \beta_2 v + (1 - \beta_2) g^2 \\
        p &= p - lr \, \frac{\mu_{t+1} m / (1 - P_{t+1}) + (1 - \mu_t) g / (1 - P_t)}
            {\sqrt{v / (1 - \beta_2^t)} + eps}

    Parameters
    ----------
    params : array or nesting of lists, tuples and dicts of arrays
        Real or complex arrays of any shape, NumPy or CuPy, all of one dtype; modified in place by
        `step`.
    lr : float >= 0, callable, array, or nesting of these, default 2e-3
        Learning rate, in units of the parameters. A callable gets the steps already taken, 0 at
        the first. An array, or a nesting as that of `params`, sets it by element or array.
    beta1 : float in [0, 1) or callable, default 0.9
        Decay of the first moment `m`, and the momentum in the end.
    beta2 : float in [0, 1) or callable, default 0.999
        Decay of the second moment `v`.
    eps : float >= 0 or callable, default 1e-8
        Added to the root, in units of the gradient. Where the sum is 0, nothing moves.
    momentum_decay : float >= 0 or callable, default 4e-3
        Rate at which the momentum grows from ``beta1/2`` to `beta1`. 4e-3 in torch, 1.0 in Keras.
        With ``numpy.inf`` it is `beta1` from the start (optax).
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
        ``"t"``, ``"m"``, ``"v"`` and ``"mu_product"``, :math:`P_t`.

    See Also
    --------
    nadam_update : the same step on arrays that the caller owns.

    References
    ----------
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> x = np.array([3.0, -2.0])
    >>> opt = na.NAdam(x, lr=0.1)
    >>> for _ in range(200):
    ...     opt.step(2 * x)
    >>> bool(np.all(abs(x) < 1e-3))
    True
    """

    beta1: hyper
    """Decay of the first moment `m`, and the momentum in the end. Type: float in [0, 1) or
    callable, default 0.9."""

    beta2: hyper
    """Decay of the second moment `v`. Type: float in [0, 1) or callable, default 0.999."""

    eps: hyper
    """Added to the root, in units of the gradient. Type: float >= 0 or callable, default 1e-8."""

    momentum_decay: hyper
    """Rate at which the momentum grows from ``beta1/2`` to `beta1`. Type: float >= 0 or
    callable, default 4e-3."""

    def __init__(self, params: Any, lr: Rate = 0.002, *, beta1: float | Schedule = 0.9, beta2: float | Schedule = 0.999, eps: float | Schedule = 1e-08, momentum_decay: float | Schedule = 0.004, **shared: Unpack[Shared]) -> None: ...

def nadam_update(p: Any, g: Any, m: Any, v: Any, t: int, *, lr: float = 0.002, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-08, momentum_decay: float = 0.004, out: Any = None, **shared: Unpack[FunctionalOptions]) -> None:
    """One step of NAdam on arrays that the caller owns; formula as in `NAdam`.

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
        Number of this step: 1 at the first. The momenta of all steps before are taken to be those that
        these options give.
    lr, beta1, beta2, eps, momentum_decay
        As in `NAdam`, but no callables.
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
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam import nadam_update
    >>> p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    >>> nadam_update(p, np.array([1.0, -1.0]), m, v, 1, lr=0.1)
    >>> bool(p[0] < 1.0 < p[1])
    True

    """
