"""Lion (Chen et al. 2023): the sign of a momentum that looks ahead."""

from __future__ import annotations

from typing import Any

from numadam._core.hyper import BETA1, BETA2
from numadam._core.rule import RuleSpec, Scalars
from numadam._optimizer.declared import optimizer_class, update_function
from numadam._optimizer.optimizer import Optimizer


def element(p, g, m, h):
    """Step = lr sign(beta1 m + (1 - beta1) g);  m = beta2 m + (1 - beta2) g."""
    u = (h.beta1 * m if h.beta1 != h.zero else h.zero) + h.alpha1 * g
    m = (h.beta2 * m if h.beta2 != h.zero else h.zero) + h.alpha2 * g
    step = u - u  # 0 where u is 0, and NaN where it is NaN
    if u > h.zero:
        step = h.lr
    if u < h.zero:
        step = -h.lr
    return step, m


def scalars(c: Any, q: Any, lr: float, t: float) -> Scalars:
    """The same at every step."""
    return dict(beta1=c.beta1, alpha1=1.0 - c.beta1, beta2=c.beta2, alpha2=1.0 - c.beta2, lr=lr)


LION = RuleSpec(
    name="lion",
    state=("m",),
    hypers=(BETA1, BETA2),
    lr=1e-4,
    defaults=dict(beta1=0.9, beta2=0.99),
    formula=lambda: element,
    scalars=scalars,
    decoupled=True,
    presets={
        "keras": {"lr": 1e-3, "beta2": 0.99},
        "optax": {"beta2": 0.99, "weight_decay": 1e-3, "complex_form": "modulus"},
    },
)


@optimizer_class
class Lion(Optimizer):
    r"""Lion: steps of length `lr` by the sign of the momentum, with half the state of Adam.

    .. math::
        p_t = p_{t-1} - lr \, \mathrm{sign}(\beta_1 m_{t-1} + (1 - \beta_1) g_t), \qquad
        m_t = \beta_2 m_{t-1} + (1 - \beta_2) g_t

    Parameters
    ----------
    params : array or nesting of lists, tuples and dicts of arrays
        Real or complex arrays of any shape, NumPy or CuPy, all of one dtype; modified in place by
        `step`. Each part of a complex number has its own sign.
    lr : float >= 0, callable, array, or nesting of these, default 1e-4
        Length of every step, in units of the parameters. Take a third to a tenth of Adam's. A
        callable gets the number of steps already taken, 0 at the first. An array sets it by
        element, a nesting as that of `params` by array.
    beta1 : float in [0, 1) or callable, default 0.9
        Weight of the momentum in the step; that of the gradient is ``1 - beta1``.
    beta2 : float in [0, 1) or callable, default 0.99
        Decay of the momentum `m`.
    {{shared}}

    Attributes
    ----------
    state : mapping
        ``"t"`` and ``"m"``.

    See Also
    --------
    lion_update : the same step on arrays that the caller owns.

    References
    ----------
    Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> x = np.array([3.0, -2.0])
    >>> opt = na.Lion(x, lr=0.01)
    >>> opt.step(np.array([100.0, -0.001]))
    >>> x
    array([ 2.99, -1.99])
    """

    rule = LION


lion_update = update_function(Lion)
