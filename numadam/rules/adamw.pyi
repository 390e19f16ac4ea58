# Written by `python tests/generate.py`: do not edit.
# fmt: off
# ruff: noqa
from numadam._optimizer.attributes import fixed, hyper
from numadam._core.keywords import FunctionalButDecay, SharedButDecay
from typing import Any, Unpack
from numadam._core.hyper import AMSGrad, EpsForm, Rate, Schedule
from numadam.rules.adam import Adam

class AdamW(Adam):
    r"""AdamW: Adam with decoupled weight decay, the usual choice for neural networks.

    .. math::
        p = p - lr \left( \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + eps}
            + weight\_decay \cdot p \right)

    The moments m and v are those of `Adam`. The decay is equally strong for all elements, while
    L2 decay is part of the gradient and is divided by the root as well.

    Parameters
    ----------
    params : array or nesting of lists, tuples and dicts of arrays
        Real or complex arrays of any shape, NumPy or CuPy, all of one dtype; modified in place by
        `step`.
    lr : float >= 0, callable, array, or nesting of these, default 1e-3
        Learning rate, in units of the parameters. A callable gets the steps already taken, 0 at
        the first. An array, or a nesting as that of `params`, sets it by element or array.
    weight_decay : float >= 0 or callable, default 0.01
        Share of the parameters that is lost, times lr, at every step; in units of 1 / lr.
    beta1, beta2, eps, eps_root, eps_form, bias_correction, amsgrad, nesterov
        As in `Adam`.
    **shared
        Options of every rule. `numadam.Optimizer` says more about each:

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
        ``"t"``, ``"m"``, ``"v"`` and, with `amsgrad`, ``"vmax"``.

    See Also
    --------
    adamw_update : the same step on arrays that the caller owns.

    References
    ----------
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> x = np.array([3.0, -2.0])
    >>> opt = na.AdamW(x, lr=0.1, weight_decay=0.5)
    >>> opt.step(np.zeros(2))  # the decay alone
    >>> x
    array([ 2.85, -1.9 ])
    """

    weight_decay: hyper
    """Share of the parameters that is lost, times lr, at every step; in units of 1 / lr. Type:
    float >= 0 or callable, default 0.01."""

    def __init__(self, params: Any, lr: Rate = 0.001, *, weight_decay: float | Schedule = 0.01, beta1: float | Schedule = 0.9, beta2: float | Schedule = 0.999, eps: float | Schedule = 1e-08, eps_root: float | Schedule = 0.0, eps_form: EpsForm = 'paper', bias_correction: bool = True, amsgrad: bool | AMSGrad = False, nesterov: bool = False, **shared: Unpack[SharedButDecay]) -> None: ...

def adamw_update(p: Any, g: Any, m: Any, v: Any, t: int, *, lr: float = 0.001, weight_decay: float = 0.01, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-08, eps_root: float = 0.0, eps_form: EpsForm = 'paper', bias_correction: bool = True, amsgrad: bool | AMSGrad = False, nesterov: bool = False, vmax: Any = None, out: Any = None, **shared: Unpack[FunctionalButDecay]) -> None:
    """One step of AdamW on arrays that the caller owns; formula as in `AdamW`.

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
    lr, weight_decay, beta1, beta2, eps, eps_root, eps_form, bias_correction, amsgrad, nesterov
        As in `AdamW`, but no callables.
    vmax : array, optional
        Largest second moment so far, zeros before the first step: AMSGrad, "v" unless said otherwise;
        modified in place.
    out : array, optional
        Gets the direction instead: `p` would become ``p + out``, and stays as it is.
    **shared
        `decoupled`, `decay_times_lr`, `maximize`, `loss_scale`, `clip_value`, `clip_norm`,
        `bounds`, `complex_form` and `like`: see `numadam.Optimizer`.

    Raises
    ------
    TypeError, ValueError
        Before anything is written: the message names the argument and says what to do.

    References
    ----------
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam import adamw_update
    >>> p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    >>> adamw_update(p, np.array([1.0, -1.0]), m, v, 1, lr=0.1)
    >>> bool(p[0] < 1.0 < p[1])
    True

    """
