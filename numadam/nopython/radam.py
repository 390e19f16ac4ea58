"""RAdam for the user's own compiled loops."""

from __future__ import annotations

from typing import Any

from numadam.nopython.core import Array, Number, compiled, kit
from numadam.rules.radam import RAdam

_Hypers, _scalars, _element, _walk, _ = kit(RAdam)


@compiled
def radam_scalars(
    t: int,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `radam_element`.

    Parameters
    ----------
    {{t}}
    {{lr}}
    {{beta1}}
    {{beta2}}
    {{eps}}
    {{weight_decay}}

    Returns
    -------
    {{scalars}}

    References
    ----------
    Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", ICLR 2020.

    Examples
    --------
    >>> from numadam.nopython import radam_scalars
    >>> h = radam_scalars(1, lr=0.1)
    """
    own = _Hypers(beta1=beta1, beta2=beta2, eps=eps)
    return _scalars(own, t, lr, weight_decay)


@compiled
def radam_element(
    p: Number, g: Number, m: Number, v: Number, h: tuple[float, ...]
) -> tuple[Any, ...]:
    """One step of one element; formula as in `radam_update`.

    Parameters
    ----------
    {{p_and_g}}
    {{moments_of_one}}
    h : tuple of float
        From `radam_scalars`.

    Returns
    -------
    tuple of float
        The new p, m and v.

    References
    ----------
    Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", ICLR 2020.

    Examples
    --------
    >>> from numadam.nopython import radam_element, radam_scalars
    >>> p, m, v = radam_element(1.0, 1.0, 0.0, 0.0, radam_scalars(1, lr=0.1))
    >>> round(p, 6)
    0.9
    """
    return _element(p, g, (m, v), h)


@compiled
def radam_update(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    t: int,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> None:
    """One step in place, inside compiled code; the same numbers as `numadam.RAdam`.

    ::

        m = beta1*m + (1-beta1)*g;  v = beta2*v + (1-beta2)*g**2
        p = p - lr * m/(1-beta1**t) * r*sqrt(1-beta2**t) / (sqrt(v) + eps)
        p = p - lr * m/(1-beta1**t)    in the first steps

    The rectification r is that of `numadam.RAdam`.

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
    {{weight_decay}}

    Raises
    ------
    {{errors}}

    References
    ----------
    Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", ICLR 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam.nopython import radam_update
    >>> p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    >>> radam_update(p, np.array([1.0, -4.0]), m, v, 1, lr=0.1)
    >>> p.round(6)
    array([0.9, 1.4])
    """
    _walk(p, g, (m, v), radam_scalars(t, lr, beta1, beta2, eps, weight_decay))
