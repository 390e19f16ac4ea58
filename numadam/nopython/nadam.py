"""NAdam for the user's own compiled loops."""

from __future__ import annotations

from typing import Any

import numpy as np

from numadam._jit.functions import jit_once
from numadam.nopython.core import Array, Number, compiled, kit
from numadam.nopython.typed import doubles
from numadam.rules.nadam import NAdam, Products, advance

_Hypers, _, _element, _walk, _scalars = kit(NAdam)
_advance = jit_once(advance)


@compiled
def nadam_product(
    t: int, mu_product: float, beta1: float = 0.9, momentum_decay: float = 4e-3
) -> float:
    """The product of the momenta up to step t, from that of the step before.

    ``mu_product * mu_t`` with ``mu_t = beta1 * (1 - 0.96**(t*momentum_decay) / 2)``

    Parameters
    ----------
    t : int
        Number of the step: 1 at the first.
    mu_product : float
        The product before it: 1.0 at the first.
    beta1, momentum_decay : float
        As in `nadam_update`.

    Returns
    -------
    float64
        What `nadam_scalars` takes at the next step.

    References
    ----------
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> from numadam.nopython import nadam_product
    >>> round(nadam_product(1, 1.0, momentum_decay=0.0), 6)
    0.45
    """
    own = _Hypers(beta1=beta1, beta2=0.0, eps=0.0, momentum_decay=momentum_decay)
    before = Products(mu_product=np.float64(mu_product))
    return _advance(doubles(own), before, np.float64(t), False).mu_product


@compiled
def _product_before(t: int, beta1: float, momentum_decay: float) -> float:
    product = 1.0
    for step in range(1, t):
        product = nadam_product(step, product, beta1, momentum_decay)
    return product


@compiled
def nadam_scalars(
    t: int,
    lr: float = 2e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    momentum_decay: float = 4e-3,
    weight_decay: float = 0.0,
    mu_product: float | None = None,
) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `nadam_element`.

    Parameters
    ----------
    t, lr, beta1, beta2, eps, momentum_decay, weight_decay
        As in `nadam_update`.
    mu_product : float, optional
        The product of the momenta before this step, 1.0 at the first: `nadam_product` carries it
        on. Without it all of them are computed again, t - 1 powers.

    Returns
    -------
    {{scalars}}

    References
    ----------
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> from numadam.nopython import nadam_product, nadam_scalars
    >>> h = nadam_scalars(2, mu_product=nadam_product(1, 1.0))
    >>> h == nadam_scalars(2)
    True
    """
    own = _Hypers(beta1=beta1, beta2=beta2, eps=eps, momentum_decay=momentum_decay)
    if mu_product is None:
        before = _product_before(t, beta1, momentum_decay)
        product = nadam_product(t, before, beta1, momentum_decay)
    else:
        product = nadam_product(t, mu_product, beta1, momentum_decay)
    return _scalars(own, (product,), t, lr, weight_decay)


@compiled
def nadam_element(
    p: Number, g: Number, m: Number, v: Number, h: tuple[float, ...]
) -> tuple[Any, ...]:
    """One step of one element; formula as in `nadam_update`.

    Parameters
    ----------
    {{p_and_g}}
    {{moments_of_one}}
    h : tuple of float
        From `nadam_scalars`.

    Returns
    -------
    tuple of float
        The new p, m and v.

    References
    ----------
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> from numadam.nopython import nadam_element, nadam_scalars
    >>> p, m, v = nadam_element(1.0, 1.0, 0.0, 0.0, nadam_scalars(1, lr=0.1))
    >>> round(p, 3)
    0.894
    """
    return _element(p, g, (m, v), h)


@compiled
def nadam_update(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    t: int,
    lr: float = 2e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    momentum_decay: float = 4e-3,
    weight_decay: float = 0.0,
    mu_product: Array | None = None,
) -> None:
    """One step in place, inside compiled code; the same numbers as `numadam.NAdam`.

    ::

        mu_t = beta1 * (1 - 0.96**(t*momentum_decay) / 2);  P_t = mu_1 * ... * mu_t
        m = beta1*m + (1-beta1)*g;  v = beta2*v + (1-beta2)*g**2
        mean = mu_next*m/(1-P_next) + (1-mu_t)*g/(1-P_t)
        p = p - lr * mean / (sqrt(v/(1-beta2**t)) + eps)

    P is no power, so it has to be carried from step to step: give `mu_product`. Without it each
    step forms all momenta again, t - 1 powers, about 15 ns each.

    Parameters
    ----------
    {{p}}
    {{g}}
    {{moments}}
    {{t}}
    {{lr}}
    beta1 : float, default 0.9
        Decay of the first moment, in [0, 1), and the momentum in the end.
    {{beta2}}
    {{eps}}
    momentum_decay : float, default 4e-3
        How fast the momentum grows.
    {{weight_decay}}
    mu_product : array of one float64, optional
        The product P of the steps before, ``np.ones(1)`` before the first; modified in place.

    Raises
    ------
    {{errors}}

    References
    ----------
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam.nopython import nadam_update
    >>> p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    >>> nadam_update(p, np.array([1.0, -1.0]), m, v, 1, lr=0.1)
    >>> p.round(3)
    array([0.894, 1.106])
    """
    own = (lr, beta1, beta2, eps, momentum_decay, weight_decay)
    if mu_product is None:
        _walk(p, g, (m, v), nadam_scalars(t, *own))
    else:
        if mu_product.size != 1 or mu_product.itemsize != 8:
            raise ValueError("mu_product: expected an array of one float64, np.ones(1).")
        _walk(p, g, (m, v), nadam_scalars(t, *own, mu_product[0]))
        mu_product[0] = nadam_product(t, mu_product[0], beta1, momentum_decay)
