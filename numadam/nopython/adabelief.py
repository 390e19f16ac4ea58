"""AdaBelief for the user's own compiled loops."""

from __future__ import annotations

from typing import Any

from numadam.nopython.core import Array, Number, compiled, kit
from numadam.rules.adabelief import AdaBelief

_Hypers, _scalars, _element, _walk, _ = kit(AdaBelief)


@compiled
def adabelief_scalars(
    t: int,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-16,
    eps_root: float = 1e-16,
    weight_decay: float = 0.0,
) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `adabelief_element`.

    Parameters
    ----------
    {{t}}
    {{lr}}
    {{beta1}}
    beta2 : float, default 0.999
        Decay of the variance, in [0, 1).
    {{eps}}
    eps_root : float, default 1e-16
        Added to `v` at every step, in units of the gradient squared.
    {{weight_decay}}

    Returns
    -------
    {{scalars}}

    References
    ----------
    Zhuang et al., "AdaBelief Optimizer", NeurIPS 2020.

    Examples
    --------
    >>> from numadam.nopython import adabelief_scalars
    >>> h = adabelief_scalars(1, lr=0.1)
    """
    own = _Hypers(beta1=beta1, beta2=beta2, eps=eps, eps_root=eps_root)
    return _scalars(own, t, lr, weight_decay)


@compiled
def adabelief_element(
    p: Number, g: Number, m: Number, v: Number, h: tuple[float, ...]
) -> tuple[Any, ...]:
    """One step of one element; formula as in `adabelief_update`.

    Parameters
    ----------
    {{p_and_g}}
    {{moments_of_one}}
    h : tuple of float
        From `adabelief_scalars`.

    Returns
    -------
    tuple of float
        The new p, m and v.

    References
    ----------
    Zhuang et al., "AdaBelief Optimizer", NeurIPS 2020.

    Examples
    --------
    >>> from numadam.nopython import adabelief_element, adabelief_scalars
    >>> h = adabelief_scalars(1, lr=0.09)
    >>> p, m, v = adabelief_element(1.0, 1.0, 0.0, 0.0, h)
    >>> round(p, 6)
    0.9
    """
    return _element(p, g, (m, v), h)


@compiled
def adabelief_update(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    t: int,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-16,
    eps_root: float = 1e-16,
    weight_decay: float = 0.0,
) -> None:
    """One step in place, inside compiled code; the same numbers as `numadam.AdaBelief`.

    ::

        m = beta1*m + (1-beta1)*g;  v = beta2*v + (1-beta2)*(g-m)**2 + eps_root
        p = p - lr * m/(1-beta1**t) / (sqrt(v/(1-beta2**t)) + eps)

    Parameters
    ----------
    {{p}}
    {{g}}
    m, v : array
        First moment and variance, zeros before the first step; modified in place.
    {{t}}
    {{lr}}
    {{beta1}}
    beta2 : float, default 0.999
        Decay of the variance, in [0, 1).
    {{eps}}
    eps_root : float, default 1e-16
        Added to `v` at every step, in units of the gradient squared.
    {{weight_decay}}

    Raises
    ------
    {{errors}}

    References
    ----------
    Zhuang et al., "AdaBelief Optimizer", NeurIPS 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam.nopython import adabelief_update
    >>> p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    >>> adabelief_update(p, np.array([1.0, -1.0]), m, v, 1, lr=0.09)
    >>> p.round(6)
    array([0.9, 1.1])
    """
    _walk(p, g, (m, v), adabelief_scalars(t, lr, beta1, beta2, eps, eps_root, weight_decay))
