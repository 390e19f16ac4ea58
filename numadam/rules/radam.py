"""RAdam (Liu et al. 2020): Adam that leaves the root out while it rests on few gradients."""

from __future__ import annotations

import math
from typing import Any

from numadam._core.hyper import BETA1, BETA2, EPS
from numadam._core.rule import RuleSpec, Scalars
from numadam._optimizer.declared import optimizer_class, update_function
from numadam._optimizer.optimizer import Optimizer


def element(p, g, gg, m, v, h):
    """Adam's moments;  step = s m / (sqrt(v) + e), or s m while `plain` is 1."""
    m = h.beta1 * m + h.alpha1 * g
    v = (h.beta2 * v if h.beta2 != h.zero else h.zero) + h.alpha2 * gg
    d = math.sqrt(v) + h.e
    if h.plain != h.zero:  # instead of the root, not times it: v may be inf
        d = h.plain
    step = (h.s * m) / d if d != h.zero else h.zero
    return step, m, v


#: Above this number of gradients in effect the root is trusted (torch, optax; the paper: 4).
THRESHOLD = 5.0


def scalars(c: Any, q: Any, lr: float, t: float) -> Scalars:
    """The step size with the rectification, and whether the root is left out."""
    c1, c2 = 1.0 - q.beta1_product, 1.0 - q.beta2_product
    longest = 2.0 / (1.0 - c.beta2) - 1.0
    rho = longest - 2.0 * t * q.beta2_product / c2
    s, e, plain = lr / c1, 0.0, 1.0
    if rho > THRESHOLD:
        root, plain = math.sqrt(c2), 0.0
        shrink = (rho - 4.0) * (rho - 2.0) * longest
        s = s * root * math.sqrt(shrink / ((longest - 4.0) * (longest - 2.0) * rho))
        e = c.eps if c.hat != 0.0 else c.eps * root
    return dict(
        beta1=c.beta1,
        alpha1=1.0 - c.beta1,
        beta2=c.beta2,
        alpha2=1.0 - c.beta2,
        s=s,  # the step size, with corrections and rectification
        e=e,
        plain=plain,  # 1 while the root is left out, else 0
    )


RADAM = RuleSpec(
    name="radam",
    state=("m", "v"),
    nonnegative=("v",),
    hypers=(BETA1, BETA2, EPS),
    defaults=dict(beta1=0.9, beta2=0.999, eps=1e-8, eps_form="hat"),
    kinds={"eps_form": "EpsForm"},
    formula=lambda: element,
    scalars=scalars,
    control={"hat": lambda options: options["eps_form"] == "hat"},
    decoupled=True,
    powers=("beta1", "beta2"),
    modulus=lambda options: ("v",),
    presets={
        "torch": {"lr": 1e-3, "eps": 1e-8, "eps_form": "hat", "decoupled": False},
        "optax": {"eps": 1e-8, "eps_form": "paper", "complex_form": "modulus"},
    },
)


@optimizer_class
class RAdam(Optimizer):
    r"""RAdam: Adam with built-in warm-up, for runs whose first steps are too long.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad
            v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \rho_\infty &= \frac{2}{1 - \beta_2} - 1, \qquad
            \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t} \\
        r_t &= \sqrt{\frac{(\rho_t - 4)(\rho_t - 2) \rho_\infty}
                {(\rho_\infty - 4)(\rho_\infty - 2) \rho_t}} \\
        p_t &= p_{t-1} - lr \, \frac{m_t}{1 - \beta_1^t} \cdot
            \frac{r_t \sqrt{1 - \beta_2^t}}{\sqrt{v_t} + eps} \quad \text{if} \quad \rho_t > 5 \\
        p_t &= p_{t-1} - lr \, \frac{m_t}{1 - \beta_1^t} \quad \text{otherwise}

    Parameters
    ----------
    {{params}}
    lr : float >= 0, callable, array, or nesting of these, default 1e-3
        Learning rate, in units of the parameters. In the first steps (five with the default
        `beta2`) these units are divided by the gradient's. A callable gets the number of steps
        already taken, 0 at the first. An array sets it by element, a nesting as that of `params`
        by array.
    {{beta1}}
    beta2 : float in [0, 1) or callable, default 0.999
        Decay of the second moment `v`. With values up to 2/3 `v` is never used.
    {{eps}}
    eps_form : {"hat", "paper"}, default "hat"
        Place of eps. "hat": as above (torch). "paper": ``sqrt(v / (1-beta2^t)) + eps`` (optax).
    {{shared}}

    Attributes
    ----------
    state : mapping
        ``"t"``, ``"m"`` and ``"v"``.

    See Also
    --------
    radam_update : the same step on arrays that the caller owns.

    References
    ----------
    Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", ICLR 2020.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> x = np.array([3.0, -2.0])
    >>> opt = na.RAdam(x, lr=0.1)
    >>> for _ in range(300):
    ...     opt.step(2 * x)
    >>> bool(np.all(abs(x) < 1e-2))
    True
    """

    rule = RADAM


radam_update = update_function(RAdam)
