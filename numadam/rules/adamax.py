"""AdaMax (Kingma & Ba 2015): Adam over the largest recent gradient instead of the root of v."""

from __future__ import annotations

from typing import Any

from numadam._core.hyper import BETA1, BETA2, EPS
from numadam._core.rule import RuleSpec, Scalars
from numadam._optimizer.declared import optimizer_class, update_function
from numadam._optimizer.optimizer import Optimizer


def element(p, g, m, u, h):
    """M = beta1 m + (1 - beta1) g;  u = max(beta2 u, |g| + inner);  step = s m / (u + outer)."""
    m = h.beta1 * m + h.alpha1 * g
    u = h.beta2 * u if h.beta2 != h.zero else h.zero
    size = abs(g) + h.inner
    if size > u:  # not where u is NaN: it stays
        u = size
    if size != size:  # a NaN comes in
        u = size
    d = u + h.outer
    step = (h.s * m) / d if d != h.zero else h.zero
    return step, m, u


def scalars(c: Any, q: Any, lr: float, t: float) -> Scalars:
    """The correction of m, and eps."""
    return dict(
        beta1=c.beta1,
        alpha1=1.0 - c.beta1,
        beta2=c.beta2,
        s=lr / (1.0 - q.beta1_product),
        inner=c.eps if c.norm != 0.0 else 0.0,  # eps where it is added to |g|
        outer=0.0 if c.norm != 0.0 else c.eps,  # eps where it is added to u
    )


ADAMAX = RuleSpec(
    name="adamax",
    state=("m", "u"),
    nonnegative=("u",),
    hypers=(BETA1, BETA2, EPS),
    lr=2e-3,
    defaults=dict(beta1=0.9, beta2=0.999, eps=1e-8, eps_form="norm"),
    kinds={"eps_form": "EpsFormOfMax"},
    formula=lambda: element,
    scalars=scalars,
    control={"norm": lambda options: options["eps_form"] == "norm"},
    decoupled=True,
    powers=("beta1",),
    presets={
        "torch": {"lr": 2e-3, "eps": 1e-8, "eps_form": "norm", "decoupled": False},
        "keras": {"lr": 1e-3, "eps": 1e-7, "eps_form": "denominator"},
        "optax": {"eps": 1e-8, "eps_form": "norm", "complex_form": "modulus"},
    },
)


@optimizer_class
class AdaMax(Optimizer):
    r"""AdaMax: Adam scaled by the largest recent gradient, for a few huge gradients among many.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad
            u_t = \max(\beta_2 u_{t-1}, |g_t| + eps) \\
        p_t &= p_{t-1} - \frac{lr}{1 - \beta_1^t} \, \frac{m_t}{u_t}

    Parameters
    ----------
    {{params}}
    lr : float >= 0, callable, array, or nesting of these, default 2e-3
        Learning rate, in units of the parameters. No step is longer than ``lr / (1-beta1^t)``. A
        callable gets the number of steps already taken, 0 at the first. An array sets it by
        element, a nesting as that of `params` by array.
    {{beta1}}
    beta2 : float in [0, 1) or callable, default 0.999
        Decay of the norm `u`.
    eps : float >= 0 or callable, default 1e-8
        Smallest divisor, in units of the gradient. If the denominator is 0, the element does not
        move.
    eps_form : {"norm", "denominator"}, default "norm"
        Place of eps. "norm": as above (torch, optax). "denominator": ``u = max(beta2*u, |g|)``
        and ``m / (u + eps)`` (Keras).
    {{shared}}

    Attributes
    ----------
    state : mapping
        ``"t"``, ``"m"`` and ``"u"``.

    See Also
    --------
    adamax_update : the same step on arrays that the caller owns.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, section 7.1.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> x = np.array([3.0, -2.0])
    >>> opt = na.AdaMax(x, lr=0.1)
    >>> for _ in range(200):
    ...     opt.step(2 * x)
    >>> bool(np.all(abs(x) < 0.05))
    True
    """

    rule = ADAMAX


adamax_update = update_function(AdaMax)
