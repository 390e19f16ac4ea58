"""NAdam's product of momenta, which is no power: it is carried from step to step, or multiplied up.

`numadam.nopython.functions` makes the other functions, and the docstrings.
"""

from __future__ import annotations

import numpy as np

from numadam._jit.functions import jit_once
from numadam.nopython.core import Array, compiled, kit
from numadam.nopython.typed import doubles
from numadam.rules.nadam import NAdam, Products, advance

_Hypers, _, _, _walk, _scalars = kit(NAdam)
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
        The `mu_product` that `nadam_scalars` takes at the next step.

    References
    ----------
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> from numadam.nopython import nadam_product, nadam_scalars
    >>> round(nadam_product(1, 1.0, momentum_decay=0.0), 6)
    0.45
    >>> nadam_scalars(2, mu_product=nadam_product(1, 1.0)) == nadam_scalars(2)
    True
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
    """Scalars of one step."""
    own = _Hypers(beta1=beta1, beta2=beta2, eps=eps, momentum_decay=momentum_decay)
    if mu_product is None:
        before = _product_before(t, beta1, momentum_decay)
        product = nadam_product(t, before, beta1, momentum_decay)
    else:
        product = nadam_product(t, mu_product, beta1, momentum_decay)
    return _scalars(own, (product,), t, lr, weight_decay)


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
    """One step in place."""
    own = (lr, beta1, beta2, eps, momentum_decay, weight_decay)
    if mu_product is None:
        _walk(p, g, (m, v), nadam_scalars(t, *own))
    else:
        if mu_product.size != 1 or mu_product.itemsize != 8:
            raise ValueError("mu_product: expected an array of one float64, np.ones(1).")
        _walk(p, g, (m, v), nadam_scalars(t, *own, mu_product[0]))
        mu_product[0] = nadam_product(t, mu_product[0], beta1, momentum_decay)
