"""AdamW (Loshchilov & Hutter 2019): Adam with decoupled weight decay, in the same compiled loop."""

from __future__ import annotations

import dataclasses
from typing import Any, Unpack

from numadam._core.hyper import Schedule
from numadam._core.options import FunctionalOptions, Shared
from numadam._optimizer.functional import update
from numadam._settings.presets import with_presets
from numadam.rules.adam import ADAM, Adam

ADAMW = dataclasses.replace(ADAM, decoupled=True)


class AdamW(Adam):
    r"""Adam with weight decay beside the step instead of in the gradient.

    .. math::
        p = p - lr \left( \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + eps}
            + weight\_decay \cdot p \right)

    with the moments of `Adam`: the decay is as strong for all elements, while L2 decay in the
    gradient is divided by the root as the gradient is.

    Parameters
    ----------
    params : array or nesting of lists, tuples and dicts of arrays
        Real or complex arrays of any shape, NumPy or CuPy, all of one dtype; modified in place by
        `step`.
    lr : float, callable, array, or nesting of these, default 1e-3
        Learning rate, in units of the parameters. A callable gets the steps already taken, 0 at
        the first. An array, or a nesting as that of `params`, sets it by element or array.
    weight_decay : float or callable, default 0.01
        Share of the parameters that is lost, times lr, at every step; in units of 1 / lr.
    beta1, beta2, eps, eps_root, eps_form, bias_correction, amsgrad, nesterov
        As in `Adam`.
    **shared
        Options of every rule, such as `decay_times_lr`, `clip_norm`, `bounds` and `like`. Further
        options: see `numadam.Optimizer`.

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

    rule = ADAMW

    @with_presets("AdamW")
    def __init__(  # type: ignore[misc]  # mypy: weight_decay is in Shared too
        self,
        params: Any,
        lr: Any = 1e-3,
        *,
        weight_decay: float | Schedule = 0.01,
        beta1: float | Schedule = 0.9,
        beta2: float | Schedule = 0.999,
        eps: float | Schedule = 1e-8,
        eps_root: float | Schedule = 0.0,
        eps_form: str = "paper",
        bias_correction: bool = True,
        amsgrad: bool | str = False,
        nesterov: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        own = {
            "beta1": beta1,
            "beta2": beta2,
            "eps": eps,
            "eps_root": eps_root,
            "eps_form": eps_form,
            "bias_correction": bias_correction,
            "amsgrad": amsgrad,
            "nesterov": nesterov,
        }
        self._setup(params, lr, {**shared, "weight_decay": weight_decay}, own)


@with_presets("AdamW")
def adamw_update(  # type: ignore[misc]  # mypy: weight_decay is in Bare too
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    t: int,
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    eps_form: str = "paper",
    bias_correction: bool = True,
    amsgrad: bool | str = False,
    nesterov: bool = False,
    vmax: Any = None,
    out: Any = None,
    **shared: Unpack[FunctionalOptions],
) -> None:
    """One step of AdamW on arrays that the caller owns; formula as in `AdamW`.

    Parameters
    ----------
    p : array
        Parameters, real or complex, NumPy or CuPy, any shape; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    m, v : array
        First and second moment, zeros before the first step; modified in place.
    t : int
        Number of this step: 1 at the first.
    lr, weight_decay, beta1, beta2, eps, eps_root, eps_form, bias_correction, nesterov
        As in `AdamW`, but no callables.
    amsgrad : bool or {"v", "vhat", "paper"}, default False
        As in `Adam`; with `vmax` it is "v" unless said otherwise.
    vmax : array, optional
        Largest second moment so far, zeros before the first step: AMSGrad; modified in place.
    out : array, optional
        Gets the direction instead: `p` would become ``p + out``, and stays as it is.
    **shared
        `decoupled`, `decay_times_lr`, `maximize`, `loss_scale`, `clip_value`, `clip_norm`,
        `bounds` and `like`: see `numadam.Optimizer`.

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
    >>> import numadam as na
    >>> p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    >>> na.adamw_update(p, np.array([1.0, -1.0]), m, v, 1, lr=0.1, weight_decay=0.5)
    >>> p.round(6)
    array([0.85, 1.05])
    """
    own = {
        "beta1": beta1,
        "beta2": beta2,
        "eps": eps,
        "eps_root": eps_root,
        "eps_form": eps_form,
        "bias_correction": bias_correction,
        "amsgrad": True if amsgrad is False and vmax is not None else amsgrad,
        "nesterov": nesterov,
    }
    decayed = {**shared, "weight_decay": weight_decay}
    update(ADAMW, "adamw_update", p, g, {"m": m, "v": v, "vmax": vmax}, t, lr, out, decayed, own)
