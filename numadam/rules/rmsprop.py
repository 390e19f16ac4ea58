"""RMSprop (Tieleman & Hinton 2012): the gradient over the root of its running mean square."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from numadam._core.hyper import BETA2, EPS, EPS_ROOT, Hyper
from numadam._core.rule import RuleSpec, Scalars
from numadam._optimizer.declared import optimizer_class, update_function
from numadam._optimizer.optimizer import Optimizer
from numadam.rules._moments import refuse_lone_buffer


def element(p, g, gg, v, mean, m, h):
    """V = beta2 v + (1 - beta2) g^2;  step = lr g / (sqrt(v) + eps).

    With `mean`, v - mean^2 instead of v; with `m`, lr times the running sum of the quotients.
    """
    v = (h.beta2 * v if h.beta2 != h.zero else h.zero) + h.alpha2 * gg
    u = v
    if mean is not None:
        mean = h.beta2 * mean + h.alpha2 * g
        u = v - mean * mean
        if u < h.zero:  # rounding alone makes it negative; NaN stays
            u = h.zero
    d = math.sqrt(u + h.root_e) + h.e
    n = h.lr * g if m is None else g
    step = n / d if d != h.zero else h.zero
    if m is not None:
        m = (h.momentum * m if h.momentum != h.zero else h.zero) + step
        step = h.lr * m
    return step, v, mean, m


def scalars(c: Any, q: Any, lr: float, t: float) -> Scalars:
    """RMSprop has no bias correction: its scalars do not depend on t."""
    return dict(
        beta2=c.beta2,
        alpha2=1.0 - c.beta2,
        momentum=c.momentum,
        lr=lr,
        e=c.eps,
        root_e=c.eps_root,
    )


def present(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The mean square, and what centering and momentum need."""
    mean = ("mean",) if options["centered"] else ()
    return ("v", *mean, "m") if options["momentum"] != 0.0 else ("v", *mean)


RMSPROP = RuleSpec(
    name="rmsprop",
    state=("v", "mean", "m"),
    nonnegative=("v",),
    hypers=(BETA2, EPS, EPS_ROOT, Hyper("momentum", 0.0, 1.0)),
    lr=1e-2,
    defaults=dict(beta2=0.99, eps=1e-8, eps_root=0.0, momentum=0.0, centered=False),
    formula=lambda: element,
    scalars=scalars,
    present=present,
    # a variance is that of each part: then complex numbers cannot be taken whole
    modulus=lambda options: None if options["centered"] else ("v",),
    presets={
        "torch": {"lr": 1e-2, "beta2": 0.99, "eps": 1e-8},
        "keras": {"lr": 1e-3, "beta2": 0.9, "eps": 0.0, "eps_root": 1e-7, "decoupled": True},
        "optax": {"beta2": 0.9, "eps": 0.0, "eps_root": 1e-8, "complex_form": "modulus"},
    },
)


@optimizer_class
class RMSprop(Optimizer):
    r"""RMSprop: the gradient divided by the root of its running mean square.

    .. math::
        v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \qquad
        p_t = p_{t-1} - lr \, \frac{g_t}{\sqrt{v_t + eps_{root}} + eps}

    With `centered` the root is that of the variance, ``v - mean**2``. With `momentum` the
    quotients are summed up, ``m = momentum*m + quotient``, and the step is ``lr * m``.

    Parameters
    ----------
    {{params}}
    {{lr}}
    beta2 : float in [0, 1) or callable, default 0.99
        Decay of the mean square `v` and of the mean. Called alpha in torch, rho in Keras.
    {{eps}}
    eps_root : float >= 0 or callable, default 0.0
        Added under the root, in units of the gradient squared (Keras, optax).
    momentum : float in [0, 1) or callable, default 0.0
        Decay of the buffer `m`; 0.0 has no buffer. `m` does not contain `lr`, as in torch.
    centered : bool, default False
        Divide by the standard deviation of the gradient (Graves 2013).
    {{shared}}

    Attributes
    ----------
    state : mapping
        ``"t"``, ``"v"``, with `centered` ``"mean"`` and with `momentum` ``"m"``.

    See Also
    --------
    rmsprop_update : the same step on arrays that the caller owns.

    References
    ----------
    Tieleman and Hinton, "Lecture 6.5: RMSProp", COURSERA Neural Networks, 2012.
    Graves, "Generating Sequences With Recurrent Neural Networks", 2013.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> x = np.array([3.0, -2.0])
    >>> opt = na.RMSprop(x, lr=0.02)
    >>> for _ in range(300):
    ...     opt.step(2 * x)
    >>> bool(np.all(abs(x) < 0.05))
    True
    """

    rule = RMSPROP


def _by_arrays(arguments: dict[str, Any], options: dict[str, Any]) -> None:
    """Center where the array of the mean is given."""
    refuse_lone_buffer(arguments["m"], options["momentum"])
    options["centered"] = arguments["mean"] is not None


rmsprop_update = update_function(RMSprop, _by_arrays, omit=("centered",))
