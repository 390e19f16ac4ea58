"""Adam for the user's own compiled loops."""

from __future__ import annotations

from typing import Any

from numadam.nopython.core import Array, Number, compiled, kit, present
from numadam.rules.adam import Adam

_Hypers, _scalars, _element, _walk, _ = kit(Adam)


@compiled
def adam_scalars(
    t: int,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `adam_element`.

    Parameters
    ----------
    {{t}}
    {{lr}}
    {{beta1}}
    {{beta2}}
    {{eps}}
    {{eps_root}}

    Returns
    -------
    {{scalars}}

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.

    Examples
    --------
    >>> from numadam.nopython import adam_scalars
    >>> h = adam_scalars(1, lr=0.1)
    """
    own = _Hypers(beta1=beta1, beta2=beta2, eps=eps, eps_root=eps_root)
    return _scalars(own, t, lr, 0.0)


@compiled
def adam_element(
    p: Number, g: Number, m: Number, v: Number, h: tuple[float, ...], vmax: Number | None = None
) -> tuple[Any, ...]:
    """One step of one element; formula as in `adam_update`.

    Parameters
    ----------
    {{p_and_g}}
    {{moments_of_one}}
    h : tuple of float
        From `adam_scalars`.
    vmax : float, optional
        As in `adam_update`.

    Returns
    -------
    tuple of float
        The new p, m, v and, with `vmax`, its new value.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.

    Examples
    --------
    >>> from numadam.nopython import adam_element, adam_scalars
    >>> p, m, v = adam_element(1.0, 1.0, 0.0, 0.0, adam_scalars(1, lr=0.1))
    >>> round(p, 6)
    0.9
    """
    return present(_element(p, g, (m, v, vmax), h), (p, m, v, vmax))


@compiled
def adam_update(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    t: int,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    vmax: Array | None = None,
) -> None:
    """One step in place, inside compiled code; the same numbers as `numadam.Adam`.

    ::

        m = beta1*m + (1-beta1)*g;  v = beta2*v + (1-beta2)*g**2
        p = p - lr * m/(1-beta1**t) / (sqrt(v/(1-beta2**t) + eps_root) + eps)

    Parameters
    ----------
    {{p}}
    {{g}}
    {{moments}}
    {{t}}
    {{lr}}
    {{beta1}}
    {{beta2}}
    {{eps}}
    {{eps_root}}
    vmax : array, optional
        Largest second moment so far, zeros before the first step: AMSGrad, in the form "v" of
        `numadam.Adam`; modified in place.

    Raises
    ------
    {{errors}}

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam.nopython import adam_update
    >>> p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    >>> adam_update(p, np.array([1.0, -1.0]), m, v, 1, lr=0.1)
    >>> p.round(6)
    array([0.9, 1.1])
    """
    _walk(p, g, (m, v, vmax), adam_scalars(t, lr, beta1, beta2, eps, eps_root))
