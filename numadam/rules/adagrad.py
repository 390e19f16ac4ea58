"""Adagrad (Duchi, Hazan & Singer 2011): the gradient over the root of the sum of its squares."""

from __future__ import annotations

import math
from typing import Any

from numadam._core.hyper import EPS, EPS_ROOT, Hyper
from numadam._core.rule import RuleSpec, Scalars
from numadam._optimizer.declared import optimizer_class, update_function
from numadam._optimizer.optimizer import Optimizer


def element(p, g, gg, v, h):
    """V = v + g^2;  step = lr g / (sqrt(v + eps_root) + eps)."""
    v = v + gg
    d = math.sqrt(v + h.root_e) + h.e
    step = (h.lr * g) / d if d != h.zero else h.zero
    return step, v


def scalars(c: Any, q: Any, lr: float, t: float) -> Scalars:
    """The same at every step."""
    return dict(lr=lr, e=c.eps, root_e=c.eps_root)


ADAGRAD = RuleSpec(
    name="adagrad",
    state=("v",),
    nonnegative=("v",),
    lasting=("v",),
    hypers=(EPS, EPS_ROOT, Hyper("initial_accumulator")),
    lr=1e-2,
    defaults=dict(eps=1e-10, eps_root=0.0, initial_accumulator=0.0),
    kinds={"initial_accumulator": "float"},
    formula=lambda: element,
    scalars=scalars,
    initial=lambda options: {"v": options["initial_accumulator"]},
    modulus=lambda options: ("v",),
    presets={
        "torch": {"lr": 1e-2, "eps": 1e-10},
        "keras": {
            "lr": 1e-3,
            "eps": 0.0,
            "eps_root": 1e-7,
            "initial_accumulator": 0.1,
            "decoupled": True,
        },
        "optax": {
            "eps": 0.0,
            "eps_root": 1e-7,
            "initial_accumulator": 0.1,
            "complex_form": "modulus",
        },
    },
)


@optimizer_class
class Adagrad(Optimizer):
    r"""Adagrad: steps that shrink as gradients add up, for sparse features.

    .. math::
        v_t = v_{t-1} + g_t^2, \qquad
        p_t = p_{t-1} - lr \, \frac{g_t}{\sqrt{v_t + eps_{root}} + eps}

    Parameters
    ----------
    {{params}}
    {{lr}}
    {{eps}}
    eps_root : float >= 0 or callable, default 0.0
        Added under the root, in units of the gradient squared (Keras, optax).
    initial_accumulator : float >= 0, default 0.0
        Start of the sum of squares, in units of the gradient squared.
    {{shared}}

    Attributes
    ----------
    state : mapping
        ``"t"`` and ``"v"``.

    See Also
    --------
    adagrad_update : the same step on arrays that the caller owns.

    References
    ----------
    Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization", JMLR 12, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> x = np.array([3.0, -2.0])
    >>> opt = na.Adagrad(x, lr=0.5)
    >>> for _ in range(300):
    ...     opt.step(2 * x)
    >>> bool(np.all(abs(x) < 0.05))
    True
    """

    rule = ADAGRAD


adagrad_update = update_function(Adagrad, omit=("initial_accumulator",))
