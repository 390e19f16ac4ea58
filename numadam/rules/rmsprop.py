"""RMSprop (Tieleman & Hinton 2012): the gradient over the root of its running mean square."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from numadam.functional import update
from numadam.optimizer import Optimizer, Schedule, hyper
from numadam.rules.base import EPS, Hyper, RuleSpec, Scalars


def formula() -> Callable[..., Any]:
    """V = beta2 v + (1 - beta2) g^2;  step = lr g / (sqrt(v) + eps)."""

    def element(p, g, v, _s1, _s2, h):
        beta2, alpha2, lr, eps, _tiny, zero = h
        v = beta2 * v + alpha2 * (g * g)
        d = math.sqrt(v) + eps
        step = (lr * g) / d if d != zero else zero
        return step, v, _s1, _s2

    return element


def scalars(c: Any, lr: float, t: float) -> Scalars:
    """RMSprop has no bias correction: its scalars do not depend on t."""
    beta2, eps = c[0], c[1]
    return beta2, 1.0 - beta2, lr, eps


def present(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Always the mean square."""
    return ("v",)


RMSPROP = RuleSpec(
    name="rmsprop",
    state=("v",),
    hypers=(Hyper("beta2", 0.0, 1.0), EPS),
    formula=formula,
    scalars=scalars,
    present=present,
)


class RMSprop(Optimizer):
    r"""RMSprop: the gradient over the root of its running mean square.

    .. math::
        v = \beta_2 v + (1 - \beta_2) g^2, \qquad p = p - lr \, \frac{g}{\sqrt{v} + eps}

    Parameters
    ----------
    params : array or nesting of lists, tuples and dicts of arrays
        float32 or float64 arrays of any shape, NumPy or CuPy; modified in place by `step`.
    lr : float or callable, default 1e-2
        Learning rate, in units of the parameters. A callable gets the steps already taken.
    beta2 : float in [0, 1), default 0.99
        Decay of the mean square `v` (torch calls it alpha, Keras rho).
    eps : float, default 1e-8
        Added to the root, in units of the gradient. Where the sum is 0, nothing moves.

    Attributes
    ----------
    state : mapping
        ``"t"`` and ``"v"``.

    References
    ----------
    Tieleman and Hinton, "Lecture 6.5: RMSProp", COURSERA Neural Networks, 2012.

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
    beta2, eps = hyper(), hyper()

    def __init__(
        self,
        params: Any,
        lr: float | Schedule = 1e-2,
        *,
        beta2: float = 0.99,
        eps: float = 1e-8,
    ) -> None:
        self._setup(params, lr, beta2=beta2, eps=eps)


def rmsprop_update(
    p: Any,
    g: Any,
    v: Any,
    *,
    lr: float = 1e-2,
    beta2: float = 0.99,
    eps: float = 1e-8,
    out: Any = None,
) -> None:
    """One step of RMSprop on arrays that the caller owns; formula as in `RMSprop`.

    Parameters
    ----------
    p : array
        Parameters, float32 or float64, NumPy or CuPy, any shape; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    v : array
        Mean square of the gradient, zeros before the first step; modified in place.
    lr, beta2, eps
        As in `RMSprop`.
    out : array, optional
        Gets the direction instead: `p` would become ``p + out``, and stays as it is.

    Raises
    ------
    TypeError, ValueError
        Before anything is written: the message names the argument and says what to do.

    References
    ----------
    Tieleman and Hinton, "Lecture 6.5: RMSProp", COURSERA Neural Networks, 2012.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> p, v = np.ones(2), np.zeros(2)
    >>> na.rmsprop_update(p, np.array([1.0, -1.0]), v, lr=0.1, beta2=0.75)
    >>> p.round(6)
    array([0.8, 1.2])
    """
    update(RMSPROP, p, g, {"v": v}, 1, lr, out, beta2=beta2, eps=eps)
