"""Gradient descent, with momentum (Polyak 1964) and Nesterov's look ahead (Nesterov 1983)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numadam.functional import update
from numadam.optimizer import Optimizer, Schedule, fixed, hyper
from numadam.rules.base import Hyper, RuleSpec, Scalars


def formula(nesterov: bool) -> Callable[..., Any]:
    """M = momentum m + g;  step = lr m, or with Nesterov lr (g + momentum m)."""

    def element(p, g, m, _s1, _s2, h):
        momentum, lr, tiny, zero = h
        if m is None:
            direction = g
        else:
            m = momentum * m + g
            if abs(m) < tiny:
                m = zero
            direction = g + momentum * m if nesterov else m
        return lr * direction, m, _s1, _s2

    return element


def scalars(c: Any, lr: float, t: float) -> Scalars:
    """The same at every step."""
    return c[0], lr


def present(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Without momentum there is no state at all."""
    return ("m",) if options["momentum"] != 0.0 else ()


def refuse(options: Mapping[str, Any]) -> str:
    """What is wrong with these options together."""
    if options["nesterov"] and options["momentum"] == 0.0:
        return "nesterov: needs momentum > 0, e.g. momentum=0.9."
    return ""


SGD_RULE = RuleSpec(
    name="sgd",
    state=("m",),
    hypers=(Hyper("momentum", 0.0, 1.0),),
    formula=formula,
    scalars=scalars,
    present=present,
    variant=("nesterov",),
    switches=("nesterov",),
    refuse=refuse,
)


class SGD(Optimizer):
    r"""Gradient descent, plain, with momentum, or with Nesterov's look ahead.

    .. math::
        m = momentum \cdot m + g, \qquad p = p - lr \cdot m

    With `nesterov` the step is ``lr * (g + momentum * m)``; without momentum it is ``lr * g``.

    Parameters
    ----------
    params : array or nesting of lists, tuples and dicts of arrays
        float32 or float64 arrays of any shape, NumPy or CuPy; modified in place by `step`.
    lr : float or callable, default 1e-2
        Learning rate, in units of the parameters over those of the gradient. A callable gets the
        steps already taken.
    momentum : float in [0, 1), default 0.0
        Decay of the buffer `m`; 0.0 has no buffer.
    nesterov : bool, default False
        Look ahead along the momentum, as torch and Keras do.

    Attributes
    ----------
    state : mapping
        ``"t"`` and, with momentum, ``"m"``.

    References
    ----------
    Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in
    deep learning", ICML 2013.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> x = np.array([3.0, -2.0])
    >>> opt = na.SGD(x, lr=0.05, momentum=0.9)
    >>> for _ in range(200):
    ...     opt.step(2 * x)
    >>> bool(np.all(abs(x) < 1e-3))
    True
    """

    rule = SGD_RULE
    momentum, nesterov = hyper(), fixed()

    def __init__(
        self,
        params: Any,
        lr: float | Schedule = 1e-2,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        self._setup(params, lr, momentum=momentum, nesterov=nesterov)


def sgd_update(
    p: Any,
    g: Any,
    m: Any = None,
    *,
    lr: float = 1e-2,
    momentum: float = 0.0,
    nesterov: bool = False,
    out: Any = None,
) -> None:
    """One step of gradient descent on arrays that the caller owns; formula as in `SGD`.

    Parameters
    ----------
    p : array
        Parameters, float32 or float64, NumPy or CuPy, any shape; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    m : array, optional
        Momentum buffer, zeros before the first step; modified in place. It is there exactly
        where `momentum` is not 0.
    lr, momentum, nesterov
        As in `SGD`.
    out : array, optional
        Gets the direction instead: `p` would become ``p + out``, and stays as it is.

    Raises
    ------
    TypeError, ValueError
        Before anything is written: the message names the argument and says what to do.

    References
    ----------
    Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> p = np.ones(2)
    >>> na.sgd_update(p, np.array([1.0, -1.0]), lr=0.5)
    >>> p
    array([0.5, 1.5])
    """
    if (m is None) != (momentum == 0.0):
        raise ValueError(
            "m: a momentum buffer is needed where momentum is not 0, and only there; "
            f"got momentum={momentum!r} and m {'missing' if m is None else 'given'}."
        )
    update(SGD_RULE, p, g, {"m": m}, 1, lr, out, momentum=momentum, nesterov=nesterov)
