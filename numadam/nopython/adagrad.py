"""Adagrad for the user's own compiled loops."""

from __future__ import annotations

from typing import Any

from numadam.nopython.core import Array, Number, compiled, kit
from numadam.rules.adagrad import Adagrad

_Hypers, _scalars, _element, _walk, _ = kit(Adagrad)


@compiled
def adagrad_scalars(
    lr: float = 1e-2,
    eps: float = 1e-10,
    eps_root: float = 0.0,
) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `adagrad_element`.

    Parameters
    ----------
    {{lr}}
    {{eps}}
    {{eps_root}}

    Returns
    -------
    {{scalars}}

    References
    ----------
    Duchi, Hazan and Singer, "Adaptive Subgradient Methods", JMLR 12, 2011.

    Examples
    --------
    >>> from numadam.nopython import adagrad_scalars
    >>> h = adagrad_scalars(lr=0.1)
    """
    own = _Hypers(eps=eps, eps_root=eps_root, initial_accumulator=0.0)
    return _scalars(own, 1, lr, 0.0)


@compiled
def adagrad_element(p: Number, g: Number, v: Number, h: tuple[float, ...]) -> tuple[Any, ...]:
    """One step of one element; formula as in `adagrad_update`.

    Parameters
    ----------
    {{p_and_g}}
    v : float
        State of the element.
    h : tuple of float
        From `adagrad_scalars`.

    Returns
    -------
    tuple of float
        The new p and v.

    References
    ----------
    Duchi, Hazan and Singer, "Adaptive Subgradient Methods", JMLR 12, 2011.

    Examples
    --------
    >>> from numadam.nopython import adagrad_element, adagrad_scalars
    >>> p, v = adagrad_element(1.0, 2.0, 0.0, adagrad_scalars(lr=0.1))
    >>> round(p, 6)
    0.9
    """
    return _element(p, g, (v,), h)


@compiled
def adagrad_update(
    p: Array,
    g: Array,
    v: Array,
    lr: float = 1e-2,
    eps: float = 1e-10,
    eps_root: float = 0.0,
) -> None:
    """One step in place, inside compiled code; the same numbers as `numadam.Adagrad`.

    ::

        v = v + g**2;  p = p - lr * g / (sqrt(v + eps_root) + eps)

    Parameters
    ----------
    {{p}}
    {{g}}
    v : array
        Sum of squares of the gradient, zeros (or another start) before the first step; modified in
        place.
    {{lr}}
    {{eps}}
    {{eps_root}}

    Raises
    ------
    ValueError
        For arrays of unlike shapes. Unlike dtypes are refused when it is compiled. A CUDA kernel
        shows no such error: its thread goes no further.

    References
    ----------
    Duchi, Hazan and Singer, "Adaptive Subgradient Methods", JMLR 12, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam.nopython import adagrad_update
    >>> p, v = np.ones(2), np.zeros(2)
    >>> adagrad_update(p, np.array([2.0, -0.5]), v, lr=0.1)
    >>> p.round(6)
    array([0.9, 1.1])
    """
    _walk(p, g, (v,), adagrad_scalars(lr, eps, eps_root))
