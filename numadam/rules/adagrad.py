"""Adagrad (Duchi, Hazan & Singer 2011): the gradient over the root of the sum of its squares."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Unpack

from numadam._core.hyper import EPS, Hyper, Schedule
from numadam._core.options import FunctionalOptions, Shared
from numadam._core.rule import RuleSpec
from numadam._optimizer.functional import update
from numadam._optimizer.optimizer import Optimizer, fixed, hyper
from numadam._settings.presets import with_presets


class Scalars(NamedTuple):
    """Scalars of the formula."""

    lr: float
    e: float
    root_e: float


def formula() -> Callable[..., Any]:
    """V = v + g^2;  step = lr g / (sqrt(v + eps_root) + eps)."""

    def element(p, g, gg, v, h):
        v = v + gg
        d = math.sqrt(v + h.root_e) + h.e
        step = (h.lr * g) / d if d != h.zero else h.zero
        return step, v

    return element


def scalars(c: Any, q: Any, lr: float, t: float, is_float32: bool) -> Scalars:
    """The same at every step."""
    return Scalars(lr=lr, e=c.eps, root_e=c.eps_root)


def refuse(options: Mapping[str, Any]) -> str:
    """What is wrong with these options together."""
    if callable(options["initial_accumulator"]):
        return "initial_accumulator: is used once, at the start, and cannot be a schedule."
    return ""


ADAGRAD = RuleSpec(
    name="adagrad",
    state=("v",),
    hypers=(EPS, Hyper("eps_root"), Hyper("initial_accumulator")),
    formula=formula,
    scalars=scalars,
    refuse=refuse,
    initial=lambda options: {"v": options["initial_accumulator"]},
    modulus=("v",),
)


class Adagrad(Optimizer):
    r"""Adagrad: steps that become shorter where gradients have been large or many.

    .. math::
        v = v + g^2, \qquad p = p - lr \, \frac{g}{\sqrt{v + eps_{root}} + eps}

    Parameters
    ----------
    params : array or nesting of lists, tuples and dicts of arrays
        Real or complex arrays of any shape, NumPy or CuPy, all of one dtype; modified in place by
        `step`.
    lr : float, callable, array, or nesting of these, default 1e-2
        Learning rate, in units of the parameters. A callable gets the steps already taken, 0 at
        the first. An array, or a nesting as that of `params`, sets it by element or array.
    eps : float or callable, default 1e-10
        Added to the root, in units of the gradient. Where the sum is 0, nothing moves.
    eps_root : float or callable, default 0.0
        Added under the root, in units of the gradient squared (Keras, optax).
    initial_accumulator : float, default 0.0
        What the sum of squares begins with, in units of the gradient squared.
    **shared
        Options of every rule, such as `weight_decay`, `clip_norm`, `bounds` and `like`. Further
        options: see `numadam.Optimizer`.

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
    eps, eps_root, initial_accumulator = hyper(), hyper(), fixed()

    @with_presets("Adagrad")
    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        *,
        eps: float | Schedule = 1e-10,
        eps_root: float | Schedule = 0.0,
        initial_accumulator: float = 0.0,
        **shared: Unpack[Shared],
    ) -> None:
        own = {"eps": eps, "eps_root": eps_root, "initial_accumulator": initial_accumulator}
        self._setup(params, lr, shared, own)


@with_presets("Adagrad")
def adagrad_update(
    p: Any,
    g: Any,
    v: Any,
    *,
    lr: float = 1e-2,
    eps: float = 1e-10,
    eps_root: float = 0.0,
    out: Any = None,
    **shared: Unpack[FunctionalOptions],
) -> None:
    """One step of Adagrad on arrays that the caller owns; formula as in `Adagrad`.

    Parameters
    ----------
    p : array
        Parameters, real or complex, NumPy or CuPy, any shape; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    v : array
        Sum of squares of the gradient, zeros (or another start) before the first step; modified
        in place.
    lr, eps, eps_root
        As in `Adagrad`, but no callables.
    out : array, optional
        Gets the direction instead: `p` would become ``p + out``, and stays as it is.
    **shared
        `weight_decay`, `decoupled`, `decay_times_lr`, `maximize`, `loss_scale`, `clip_value`,
        `clip_norm`, `bounds` and `like`: see `numadam.Optimizer`.

    Raises
    ------
    TypeError, ValueError
        Before anything is written: the message names the argument and says what to do.

    References
    ----------
    Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization", JMLR 12, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> p, v = np.ones(2), np.zeros(2)
    >>> na.adagrad_update(p, np.array([2.0, -0.5]), v, lr=0.1)
    >>> p.round(6)
    array([0.9, 1.1])
    """
    own = {"eps": eps, "eps_root": eps_root, "initial_accumulator": 0.0}
    update(ADAGRAD, "adagrad_update", p, g, {"v": v}, 1, lr, out, shared, own)
