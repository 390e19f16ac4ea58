"""Adam (Kingma & Ba 2015), and AMSGrad (Reddi et al. 2018) on the same formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from numadam.functional import update
from numadam.optimizer import Optimizer, Schedule, fixed, hyper
from numadam.rules.base import EPS, Hyper, RuleSpec, Scalars


def formula() -> Callable[..., Any]:
    """M = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;  step = s m / (sqrt(v) + e)."""

    def element(p, g, m, v, vmax, h):
        beta1, alpha1, beta2, alpha2, s, e, tiny, zero = h
        m = beta1 * m + alpha1 * g
        if abs(m) < tiny:  # a denormal m would slow the CPU down for ever; NaN stays
            m = zero
        v = beta2 * v + alpha2 * (g * g)
        if vmax is None:
            u = v
        else:
            if not vmax >= v:  # also where v is NaN
                vmax = v
            u = vmax
        d = math.sqrt(u) + e
        step = (s * m) / d if d != zero else zero
        return step, m, v, vmax

    return element


def scalars(c: Any, lr: float, t: float) -> Scalars:
    """Bias corrections folded into two scalars, the same formula for both eps forms.

    The paper's (m/c1) / (sqrt(v/c2) + eps), multiplied through by sqrt(c2), has eps*sqrt(c2)
    where the hat form has eps.
    """
    beta1, beta2, eps, hat = c[0], c[1], c[2], c[3]
    c1 = 1.0 - math.pow(beta1, t)
    root = math.sqrt(1.0 - math.pow(beta2, t))
    e = eps if hat != 0.0 else eps * root
    return beta1, 1.0 - beta1, beta2, 1.0 - beta2, lr * root / c1, e


def present(options: Mapping[str, Any]) -> tuple[str, ...]:
    """AMSGrad's running maximum is there only when asked for."""
    return ("m", "v", "vmax") if options["amsgrad"] else ("m", "v")


def control(options: Mapping[str, Any]) -> tuple[float, ...]:
    """The eps form is a switch in the control block: no second kernel."""
    return (1.0 if options["eps_form"] == "hat" else 0.0,)


def refuse(options: Mapping[str, Any]) -> str:
    """What is wrong with these options together."""
    if options["eps_form"] not in ("paper", "hat"):
        return f"eps_form: expected 'paper' or 'hat', got {options['eps_form']!r}."
    if options["beta2"] == 1.0 and options["eps_form"] == "paper":
        return "beta2: 1.0 is only possible with eps_form='hat'; use a number in [0, 1)."
    return ""


ADAM = RuleSpec(
    name="adam",
    state=("m", "v", "vmax"),
    hypers=(
        Hyper("beta1", 0.0, 1.0),
        Hyper("beta2", 0.0, 1.0, closed=True),
        EPS,
    ),
    formula=formula,
    scalars=scalars,
    present=present,
    switches=("amsgrad",),
    control=control,
    refuse=refuse,
)


class Adam(Optimizer):
    r"""Adam: steps of about `lr`, whatever the scale of the gradient.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad v = \beta_2 v + (1 - \beta_2) g^2 \\
        p &= p - lr \, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + eps}

    Parameters
    ----------
    params : array or nesting of lists, tuples and dicts of arrays
        float32 or float64 arrays of any shape, NumPy or CuPy; modified in place by `step`.
    lr : float or callable, default 1e-3
        Learning rate, in units of the parameters. A callable gets the steps already taken, 0 at
        the first.
    beta1 : float in [0, 1), default 0.9
        Decay of the first moment `m`, the running mean of the gradient.
    beta2 : float in [0, 1), default 0.999
        Decay of the second moment `v`. 1.0 is possible with ``eps_form="hat"``.
    eps : float, default 1e-8
        Added to the root, in units of the gradient. Where the sum is 0, nothing moves.
    amsgrad : bool, default False
        Divide by the largest `v` so far (state ``"vmax"``), as torch and Keras do.
    eps_form : {"paper", "hat"}, default "paper"
        Where eps sits: as above, or ``lr*sqrt(1-beta2^t)/(1-beta1^t) * m / (sqrt(v) + eps)``
        (Keras, TensorFlow 1, scikit-learn).

    Attributes
    ----------
    state : mapping
        ``"t"``, ``"m"``, ``"v"`` and, with `amsgrad`, ``"vmax"``.

    See Also
    --------
    adam_update : the same step on arrays that the caller owns.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond", ICLR 2018 (AMSGrad).

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> x = np.array([3.0, -2.0])
    >>> opt = na.Adam(x, lr=0.1)
    >>> for _ in range(200):
    ...     opt.step(2 * x)  # the gradient of sum(x**2)
    >>> bool(np.all(abs(x) < 1e-3))
    True
    """

    rule = ADAM
    beta1, beta2, eps = hyper(), hyper(), hyper()
    amsgrad, eps_form = fixed(), fixed()

    def __init__(
        self,
        params: Any,
        lr: float | Schedule = 1e-3,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        amsgrad: bool = False,
        eps_form: str = "paper",
    ) -> None:
        self._setup(
            params, lr, beta1=beta1, beta2=beta2, eps=eps, amsgrad=amsgrad, eps_form=eps_form
        )


def adam_update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    t: int,
    *,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_form: str = "paper",
    vmax: Any = None,
    out: Any = None,
) -> None:
    """One step of Adam on arrays that the caller owns; formula as in `Adam`.

    Parameters
    ----------
    p : array
        Parameters, float32 or float64, NumPy or CuPy, any shape; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    m, v : array
        First and second moment, zeros before the first step; modified in place.
    t : int
        Number of this step: 1 at the first.
    lr, beta1, beta2, eps, eps_form
        As in `Adam`.
    vmax : array, optional
        Largest `v` so far: AMSGrad; modified in place.
    out : array, optional
        Gets the direction instead: `p` would become ``p + out``, and stays as it is.

    Raises
    ------
    TypeError, ValueError
        Before anything is written: the message names the argument and says what to do.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> p, m, v = np.ones(3), np.zeros(3), np.zeros(3)
    >>> na.adam_update(p, np.array([1.0, -1.0, 0.0]), m, v, 1, lr=0.1)
    >>> p.round(6)
    array([0.9, 1.1, 1. ])
    """
    update(
        ADAM,
        p,
        g,
        {"m": m, "v": v, "vmax": vmax},
        t,
        lr,
        out,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        amsgrad=vmax is not None,
        eps_form=eps_form,
    )
