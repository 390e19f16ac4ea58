"""AdaBelief (Zhuang et al. 2020): Adam with the variance of the gradient about its mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Unpack

from numadam._core.hyper import EPS, Hyper, Schedule
from numadam._core.options import FunctionalOptions, Shared
from numadam._core.rule import RuleSpec, Scalars
from numadam._optimizer.functional import update
from numadam._optimizer.optimizer import Optimizer, hyper
from numadam._settings.presets import with_presets
from numadam.rules.moments import advance, changing, powers


def formula() -> Callable[..., Any]:
    """M = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2)(g - m)^2 + eps_root;  as Adam."""

    def element(p, g, gg, m, v, _s2, h):
        beta1, alpha1, beta2, alpha2, s, e, root_e, tiny, zero = h
        m = beta1 * m + alpha1 * g
        if abs(m) < tiny:
            m = zero
        error = g - m
        v = beta2 * v + alpha2 * (error * error) + root_e
        d = math.sqrt(v) + e
        step = (s * m) / d if d != zero else zero
        return step, m, v, _s2

    return element


def scalars(c: Any, q: Any, lr: float, t: float, single: float) -> Scalars:
    """Bias corrections as in Adam, multiplied through by sqrt(1 - beta2^t)."""
    beta1, beta2, eps, eps_root = c[0], c[1], c[2], c[3]
    power1, power2 = powers(c, q, t)
    root = math.sqrt(1.0 - power2)
    s = lr * root / (1.0 - power1)
    return beta1, 1.0 - beta1, beta2, 1.0 - beta2, s, eps * root, eps_root


def present(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Always both moments."""
    return ("m", "v")


ADABELIEF = RuleSpec(
    name="adabelief",
    state=("m", "v"),
    hypers=(Hyper("beta1", 0.0, 1.0), Hyper("beta2", 0.0, 1.0), EPS, Hyper("eps_root")),
    formula=formula,
    scalars=scalars,
    present=present,
    decoupled=True,
    products=changing,
    advance=advance,
)


class AdaBelief(Optimizer):
    r"""AdaBelief: long steps where the gradient is as its mean foretold, short ones elsewhere.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad
            v = \beta_2 v + (1 - \beta_2) (g - m)^2 + eps_{root} \\
        p &= p - lr \, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + eps}

    Parameters
    ----------
    params : array or nesting of lists, tuples and dicts of arrays
        Real or complex arrays of any shape, NumPy or CuPy, all of one dtype; modified in place by
        `step`.
    lr : float, callable, array, or nesting of these, default 1e-3
        Learning rate, in units of the parameters. A callable gets the steps already taken, 0 at
        the first. An array, or a nesting as that of `params`, sets it by element or array.
    beta1 : float in [0, 1) or callable, default 0.9
        Decay of the first moment `m`, the running mean of the gradient.
    beta2 : float in [0, 1) or callable, default 0.999
        Decay of `v`, the running variance of the gradient about `m`.
    eps : float or callable, default 1e-16
        Added to the root, in units of the gradient. Where the sum is 0, nothing moves.
    eps_root : float or callable, default 1e-16
        Added to `v` at every step and kept in it, in units of the gradient squared.
    **shared
        Options of every rule, such as `weight_decay`, `clip_norm`, `bounds` and `like`. Further
        options: see `numadam.Optimizer`.

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
    beta1, beta2, eps, eps_root = hyper(), hyper(), hyper(), hyper()

    @with_presets("AdaBelief")
    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        *,
        beta1: float | Schedule = 0.9,
        beta2: float | Schedule = 0.999,
        eps: float | Schedule = 1e-16,
        eps_root: float | Schedule = 1e-16,
        **shared: Unpack[Shared],
    ) -> None:
        own = {"beta1": beta1, "beta2": beta2, "eps": eps, "eps_root": eps_root}
        self._setup(params, lr, shared, own)


@with_presets("AdaBelief")
def adabelief_update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    t: int,
    *,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-16,
    eps_root: float = 1e-16,
    out: Any = None,
    **shared: Unpack[FunctionalOptions],
) -> None:
    """One step of AdaBelief on arrays that the caller owns; formula as in `AdaBelief`.

    Parameters
    ----------
    p : array
        Parameters, real or complex, NumPy or CuPy, any shape; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    m, v : array
        First moment and variance, zeros before the first step; modified in place.
    t : int
        Number of this step: 1 at the first.
    lr, beta1, beta2, eps, eps_root
        As in `AdaBelief`, but no callables.
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
    Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients",
    NeurIPS 2020.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    >>> na.adabelief_update(p, np.array([1.0, -1.0]), m, v, 1, lr=0.09)
    >>> p.round(6)
    array([0.9, 1.1])
    """
    own = {"beta1": beta1, "beta2": beta2, "eps": eps, "eps_root": eps_root}
    update(ADABELIEF, "adabelief_update", p, g, {"m": m, "v": v}, t, lr, out, shared, own)
