"""NAdam (Dozat 2016): Adam with Nesterov's look ahead and a schedule of the momentum."""

from __future__ import annotations

import math
from typing import Any

from numba.extending import register_jitable

from numadam._core.hyper import BETA1, BETA2, EPS, Hyper
from numadam._core.rule import RuleSpec, Scalars
from numadam._core.scalars import f32
from numadam._optimizer.declared import optimizer_class, update_function
from numadam._optimizer.optimizer import Optimizer


def element(p, g, gg, m, v, h):
    """Adam's moments;  step = (s m + look g) / (sqrt(v) + e)."""
    m = h.beta1 * m + h.alpha1 * g
    v = (h.beta2 * v if h.beta2 != h.zero else h.zero) + h.alpha2 * gg
    d = math.sqrt(v) + h.e
    n = h.s * m + h.look * g
    step = n / d if d != h.zero else h.zero
    return step, m, v


@register_jitable
def _mu(beta1, decay, t):
    """Momentum of step t: from about beta1/2 at the start to beta1."""
    return beta1 * (1.0 - 0.5 * math.pow(0.96, t * decay))


def scalars(c: Any, q: Any, lr: float, t: float) -> Scalars:
    """The momenta of this step and the next, and both corrections folded into three scalars.

    The formula is multiplied through by sqrt(1 - beta2^t), which the root then lacks.
    """
    mu = _mu(c.beta1, c.momentum_decay, t)
    mu_next = _mu(c.beta1, c.momentum_decay, t + 1.0)
    root, product = math.sqrt(1.0 - q.beta2_product), q.mu_product
    return dict(
        beta1=c.beta1,
        alpha1=1.0 - c.beta1,
        beta2=c.beta2,
        alpha2=1.0 - c.beta2,
        s=lr * root * mu_next / (1.0 - product * mu_next),
        e=c.eps * root,
        look=lr * root * (1.0 - mu) / (1.0 - product),
    )


def advance(c: Any, q: Any, t: float) -> Scalars:
    """The momentum changes at every step: it has a product and no power."""
    return dict(mu_product=q.mu_product * _mu(c.beta1, c.momentum_decay, t))


def torch_advance(c: Any, q: Any, t: float) -> Scalars:
    """Torch carries the product of the momenta in float32."""
    return dict(mu_product=f32(q.mu_product * f32(_mu(c.beta1, c.momentum_decay, t))))


NADAM = RuleSpec(
    name="nadam",
    state=("m", "v"),
    nonnegative=("v",),
    hypers=(BETA1, BETA2, EPS, Hyper("momentum_decay", closed=True)),
    lr=2e-3,
    defaults=dict(beta1=0.9, beta2=0.999, eps=1e-8, momentum_decay=4e-3),
    formula=lambda: element,
    scalars=scalars,
    decoupled=True,
    powers=("beta2",),
    advance=advance,
    advance_like={"torch": torch_advance},
    modulus=lambda options: ("v",),
    presets={
        "torch": {"lr": 2e-3, "eps": 1e-8, "momentum_decay": 4e-3, "decoupled": False},
        "keras": {"lr": 1e-3, "eps": 1e-7, "momentum_decay": 1.0},
        "optax": {"eps": 1e-8, "momentum_decay": math.inf, "complex_form": "modulus"},
    },
)


@optimizer_class
class NAdam(Optimizer):
    r"""NAdam: Adam with Nesterov momentum, whose beta1 grows over the first steps.

    .. math::
        \mu_t &= \beta_1 (1 - 0.96^{t \, momentum\_decay} / 2), \qquad
            P_t = \mu_1 \mu_2 \cdots \mu_t \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad
            v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        p_t &= p_{t-1} - lr \, \frac{\mu_{t+1} m_t / (1 - P_{t+1}) + (1 - \mu_t) g_t / (1 - P_t)}
            {\sqrt{v_t / (1 - \beta_2^t)} + eps}

    Parameters
    ----------
    {{params}}
    {{lr}}
    beta1 : float in [0, 1) or callable, default 0.9
        Decay of the first moment `m`, and final value of the momentum.
    {{beta2}}
    {{eps}}
    momentum_decay : float >= 0 or callable, default 4e-3
        Rate at which the momentum grows from ``beta1/2`` to `beta1`. 4e-3 in torch, 1.0 in Keras.
        With ``numpy.inf`` it is `beta1` from the start (optax).
    {{shared}}

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

    rule = NADAM


nadam_update = update_function(
    NAdam,
    t="""\
t : int
    Number of this step: 1 at the first. The momenta of all steps before are taken to be those that
    these options give.
""",
)
