"""AdaBelief (Zhuang et al. 2020): Adam with the variance of the gradient about its mean."""

from __future__ import annotations

import math
from typing import Any

from numadam._core.hyper import BETA1, BETA2, EPS, EPS_ROOT
from numadam._core.rule import RuleSpec, Scalars
from numadam._optimizer.declared import optimizer_class, update_function
from numadam._optimizer.optimizer import Optimizer


def element(p, g, m, v, h):
    """M = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2)(g - m)^2 + eps_root;  as Adam."""
    m = h.beta1 * m + h.alpha1 * g
    error = g - m
    v = h.beta2 * v if h.beta2 != h.zero else h.zero
    v = v + h.alpha2 * (error * error) + h.root_e
    d = math.sqrt(v) + h.e
    step = (h.s * m) / d if d != h.zero else h.zero
    return step, m, v


def scalars(c: Any, q: Any, lr: float, t: float) -> Scalars:
    """Bias corrections as in Adam, multiplied through by sqrt(1 - beta2^t)."""
    root = math.sqrt(1.0 - q.beta2_product)
    return dict(
        beta1=c.beta1,
        alpha1=1.0 - c.beta1,
        beta2=c.beta2,
        alpha2=1.0 - c.beta2,
        s=lr * root / (1.0 - q.beta1_product),
        e=c.eps * root,
        root_e=c.eps_root,
    )


ADABELIEF = RuleSpec(
    name="adabelief",
    state=("m", "v"),
    nonnegative=("v",),
    hypers=(BETA1, BETA2, EPS, EPS_ROOT),
    defaults=dict(beta1=0.9, beta2=0.999, eps=1e-16, eps_root=1e-16),
    formula=lambda: element,
    scalars=scalars,
    decoupled=True,
    powers=("beta1", "beta2"),
    presets={
        "optax": {"eps": 1e-16, "eps_root": 1e-16, "complex_form": "modulus"},
    },
)


@optimizer_class
class AdaBelief(Optimizer):
    r"""AdaBelief: Adam with longer steps where successive gradients agree.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) (g_t - m_t)^2 + eps_{root} \\
        p_t &= p_{t-1} - lr \, \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + eps}

    Parameters
    ----------
    {{params}}
    {{lr}}
    {{beta1}}
    beta2 : float in [0, 1) or callable, default 0.999
        Decay of `v`, the running variance of the gradient about `m`.
    {{eps}}
    eps_root : float >= 0 or callable, default 1e-16
        Added to `v` at every step and kept in it, in units of the gradient squared.
    {{shared}}

    Attributes
    ----------
    state : mapping
        ``"t"``, ``"m"`` and ``"v"``.

    See Also
    --------
    adabelief_update : the same step on arrays that the caller owns.

    References
    ----------
    Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients",
    NeurIPS 2020.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> x = np.array([3.0, -2.0])
    >>> opt = na.AdaBelief(x, lr=0.1)
    >>> for _ in range(200):
    ...     opt.step(2 * x)
    >>> bool(np.all(abs(x) < 0.05))
    True
    """

    rule = ADABELIEF


adabelief_update = update_function(AdaBelief)
