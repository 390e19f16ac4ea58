"""NAdam (Dozat 2016): Adam with Nesterov's look ahead and a schedule of the momentum."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Unpack

from numba.extending import register_jitable

from numadam._core.hyper import EPS, Hyper, Schedule
from numadam._core.options import FunctionalOptions, Shared
from numadam._core.rule import RuleSpec, Scalars
from numadam._optimizer.functional import update
from numadam._optimizer.optimizer import Optimizer, hyper
from numadam._settings.presets import with_presets
from numadam.rules.moments import adam_formula, f32, to_power


def formula() -> Callable[..., Any]:
    """Adam's moments;  step = (s m + look g) / (sqrt(v) + e)."""
    return adam_formula(lerp=False, textbook=False, nesterov=True, vhat=False)


@register_jitable
def _mu(beta1, base, decay, t):
    """Momentum of step t: from about beta1/2 at the start to beta1."""
    return beta1 * (1.0 - 0.5 * math.pow(base, t * decay))


@register_jitable
def _power(beta2, c, q, t):
    """beta2^t, or the product of a beta2 that changes."""
    return q[1] * c[1] if len(q) > 1 else to_power(beta2, t)


@register_jitable
def _folded(beta1, beta2, mu, mu_next, product, power, lr, eps):
    """Both corrections, multiplied through by sqrt(1 - beta2^t), which the root then lacks."""
    root = math.sqrt(1.0 - power)
    s = lr * root * mu_next / (1.0 - product * mu_next)
    look = lr * root * (1.0 - mu) / (1.0 - product)
    return beta1, 1.0 - beta1, beta2, 1.0 - beta2, s, eps * root, 0.0, 1.0, 1.0, look


def scalars(c: Any, q: Any, lr: float, t: float, single: float) -> Any:
    """The momenta of this step and the next, and the product up to this one."""
    beta1, beta2, eps, decay = c[0], c[1], c[2], c[3]
    mu, mu_next = _mu(beta1, 0.96, decay, t), _mu(beta1, 0.96, decay, t + 1.0)
    return _folded(beta1, beta2, mu, mu_next, q[0] * mu, _power(beta2, c, q, t), lr, eps)


def torch_scalars(c: Any, q: Any, lr: float, t: float, single: float) -> Any:
    """Torch carries the product in float32."""
    beta1, beta2, eps, decay = c[0], c[1], c[2], c[3]
    mu, mu_next = _mu(beta1, 0.96, decay, t), _mu(beta1, 0.96, decay, t + 1.0)
    product = f32(q[0] * f32(mu))
    return _folded(beta1, beta2, mu, mu_next, product, _power(beta2, c, q, t), lr, eps)


def keras_scalars(c: Any, q: Any, lr: float, t: float, single: float) -> Any:
    """Keras rounds betas and base to float32, but not in the product."""
    beta1, beta2, base, eps, decay = f32(c[0]), f32(c[1]), f32(0.96), c[2], c[3]
    mu, mu_next = _mu(beta1, base, decay, t), _mu(beta1, base, decay, t + 1.0)
    product = q[0] * _mu(c[0], 0.96, decay, t)
    return _folded(beta1, beta2, mu, mu_next, product, _power(beta2, c, q, t), lr, eps)


def products(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The momentum changes at every step: it has a product and no power."""
    return ("mu_product", "beta2_product") if callable(options["beta2"]) else ("mu_product",)


def advance(c: Any, q: Any, t: float, single: float) -> Scalars:
    """The products with the factors of step t."""
    return q[0] * _mu(c[0], 0.96, c[3], t), _power(c[1], c, q, t)


def torch_advance(c: Any, q: Any, t: float, single: float) -> Scalars:
    """Torch carries the product of the momenta in float32."""
    return f32(q[0] * f32(_mu(c[0], 0.96, c[3], t))), _power(c[1], c, q, t)


def present(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Always both moments."""
    return ("m", "v")


NADAM = RuleSpec(
    name="nadam",
    state=("m", "v"),
    hypers=(
        Hyper("beta1", 0.0, 1.0),
        Hyper("beta2", 0.0, 1.0),
        EPS,
        Hyper("momentum_decay", closed=True),
    ),
    formula=formula,
    scalars=scalars,
    present=present,
    decoupled=True,
    products=products,
    advance=advance,
    scalars_like={"torch": torch_scalars, "keras": keras_scalars},
    advance_like={"torch": torch_advance},
    modulus=lambda options: ("v",),
)


class NAdam(Optimizer):
    r"""NAdam: Adam that looks ahead along a momentum that grows.

    .. math::
        \mu_t &= \beta_1 (1 - 0.96^{t \, momentum\_decay} / 2), \qquad
            P_t = \mu_1 \mu_2 \cdots \mu_t \\
        m &= \beta_1 m + (1 - \beta_1) g, \qquad v = \beta_2 v + (1 - \beta_2) g^2 \\
        p &= p - lr \, \frac{\mu_{t+1} m / (1 - P_{t+1}) + (1 - \mu_t) g / (1 - P_t)}
            {\sqrt{v / (1 - \beta_2^t)} + eps}

    Parameters
    ----------
    params : array or nesting of lists, tuples and dicts of arrays
        Real or complex arrays of any shape, NumPy or CuPy, all of one dtype; modified in place by
        `step`.
    lr : float, callable, array, or nesting of these, default 2e-3
        Learning rate, in units of the parameters. A callable gets the steps already taken, 0 at
        the first. An array, or a nesting as that of `params`, sets it by element or array.
    beta1 : float in [0, 1) or callable, default 0.9
        Decay of the first moment `m`, and the momentum in the end.
    beta2 : float in [0, 1) or callable, default 0.999
        Decay of the second moment `v`.
    eps : float or callable, default 1e-8
        Added to the root, in units of the gradient. Where the sum is 0, nothing moves.
    momentum_decay : float in [0, inf] or callable, default 4e-3
        How fast the momentum grows from ``beta1/2`` to `beta1`: torch's 4e-3, Keras's 1.0.
        With ``numpy.inf`` it is `beta1` from the start (optax).
    **shared
        Options of every rule, such as `weight_decay`, `clip_norm`, `bounds` and `like`. Further
        options: see `numadam.Optimizer`.

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
    beta1, beta2, eps, momentum_decay = hyper(), hyper(), hyper(), hyper()

    @with_presets("NAdam")
    def __init__(
        self,
        params: Any,
        lr: Any = 2e-3,
        *,
        beta1: float | Schedule = 0.9,
        beta2: float | Schedule = 0.999,
        eps: float | Schedule = 1e-8,
        momentum_decay: float | Schedule = 4e-3,
        **shared: Unpack[Shared],
    ) -> None:
        own = {"beta1": beta1, "beta2": beta2, "eps": eps, "momentum_decay": momentum_decay}
        self._setup(params, lr, shared, own)


@with_presets("NAdam")
def nadam_update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    t: int,
    *,
    lr: float = 2e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    momentum_decay: float = 4e-3,
    out: Any = None,
    **shared: Unpack[FunctionalOptions],
) -> None:
    """One step of NAdam on arrays that the caller owns; formula as in `NAdam`.

    Parameters
    ----------
    p : array
        Parameters, real or complex, NumPy or CuPy, any shape; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    m, v : array
        First and second moment, zeros before the first step; modified in place.
    t : int
        Number of this step: 1 at the first. The momenta of all steps before are taken to be
        those that these options give.
    lr, beta1, beta2, eps, momentum_decay
        As in `NAdam`, but no callables.
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
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    >>> na.nadam_update(p, np.array([1.0, -1.0]), m, v, 1, lr=0.1)
    >>> p.round(3)
    array([0.894, 1.106])
    """
    own = {"beta1": beta1, "beta2": beta2, "eps": eps, "momentum_decay": momentum_decay}
    update(NADAM, "nadam_update", p, g, {"m": m, "v": v}, t, lr, out, shared, own)
