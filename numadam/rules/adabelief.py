"""AdaBelief (Zhuang et al. 2020): Adam with the variance of the gradient about its mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

from numadam._core.hyper import EPS, Hyper, Schedule
from numadam._core.options import FunctionalOptions, Shared
from numadam._core.rule import RuleSpec
from numadam._optimizer.functional import update
from numadam._optimizer.optimizer import Optimizer, hyper
from numadam._settings.presets import with_presets
from numadam.rules._moments import advance, changing, power


class Scalars(NamedTuple):
    """Scalars of the formula."""

    beta1: float
    alpha1: float  # 1 - beta1
    beta2: float
    alpha2: float
    s: float  # the step size, with the corrections
    e: float
    root_e: float


def formula() -> Callable[..., Any]:
    """M = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2)(g - m)^2 + eps_root;  as Adam."""

    def element(p, g, m, v, h):
        m = h.beta1 * m + h.alpha1 * g
        if abs(m) < h.tiny:
            m = h.zero
        error = g - m
        v = h.beta2 * v + h.alpha2 * (error * error) + h.root_e
        d = math.sqrt(v) + h.e
        step = (h.s * m) / d if d != h.zero else h.zero
        return step, m, v

    return element


def scalars(c: Any, q: Any, lr: float, t: float, is_float32: bool) -> Scalars:
    """Bias corrections as in Adam, multiplied through by sqrt(1 - beta2^t)."""
    power1, power2 = power(q.beta1_product, c.beta1, t), power(q.beta2_product, c.beta2, t)
    root = math.sqrt(1.0 - power2)
    return Scalars(
        beta1=c.beta1,
        alpha1=1.0 - c.beta1,
        beta2=c.beta2,
        alpha2=1.0 - c.beta2,
        s=lr * root / (1.0 - power1),
        e=c.eps * root,
        root_e=c.eps_root,
    )


ADABELIEF = RuleSpec(
    name="adabelief",
    state=("m", "v"),
    hypers=(Hyper("beta1", 0.0, 1.0), Hyper("beta2", 0.0, 1.0), EPS, Hyper("eps_root")),
    formula=formula,
    scalars=scalars,
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
