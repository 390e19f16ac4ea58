"""Adam with decoupled weight decay for the user's own compiled loops."""

from __future__ import annotations

from typing import Any

from numadam.nopython.core import Array, Number, compiled, kit, present
from numadam.rules.adamw import AdamW

_Hypers, _scalars, _element, _walk, _ = kit(AdamW)


@compiled
def adamw_scalars(
    t: int,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `adamw_element`.

    Parameters
    ----------
    {{t}}
    {{lr}}
    {{weight_decay}}
    {{beta1}}
    {{beta2}}
    {{eps}}
    {{eps_root}}

    Returns
    -------
    {{scalars}}

    References
    ----------
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Examples
    --------
    >>> from numadam.nopython import adamw_scalars
    >>> h = adamw_scalars(1, lr=0.1)
    """
    own = _Hypers(beta1=beta1, beta2=beta2, eps=eps, eps_root=eps_root)
    return _scalars(own, t, lr, weight_decay)


@compiled
def adamw_element(
    p: Number, g: Number, m: Number, v: Number, h: tuple[float, ...], vmax: Number | None = None
) -> tuple[Any, ...]:
    """One step of one element; formula as in `adamw_update`.

    Parameters
    ----------
    {{p_and_g}}
    {{moments_of_one}}
    h : tuple of float
        From `adamw_scalars`.
    vmax : float, optional
        As in `adamw_update`.

    Returns
    -------
    tuple of float
        The new p, m, v and, with `vmax`, its new value.

    References
    ----------
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Examples
    --------
    >>> from numadam.nopython import adamw_element, adamw_scalars
    >>> h = adamw_scalars(1, lr=0.1, weight_decay=0.5)
    >>> p, m, v = adamw_element(1.0, 1.0, 0.0, 0.0, h)
    >>> round(p, 6)
    0.85
    """
    return present(_element(p, g, (m, v, vmax), h), (p, m, v, vmax))


@compiled
def adamw_update(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    t: int,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    vmax: Array | None = None,
) -> None:
    """One step in place, inside compiled code; the same numbers as `numadam.AdamW`.

    ::

        m = beta1*m + (1-beta1)*g;  v = beta2*v + (1-beta2)*g**2
        step = m/(1-beta1**t) / (sqrt(v/(1-beta2**t) + eps_root) + eps)
        p = p - lr * (step + weight_decay*p)

    Parameters
    ----------
    {{p}}
    {{g}}
    {{moments}}
    {{t}}
    {{lr}}
    {{weight_decay}}
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
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam.nopython import adamw_update
    >>> p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    >>> g = np.array([1.0, -1.0])
    >>> adamw_update(p, g, m, v, 1, lr=0.1, weight_decay=0.5)
    >>> p.round(6)
    array([0.85, 1.05])
    """
    _walk(p, g, (m, v, vmax), adamw_scalars(t, lr, weight_decay, beta1, beta2, eps, eps_root))
