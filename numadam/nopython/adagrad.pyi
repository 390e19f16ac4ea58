# Written by `python tests/generate.py`: do not edit.
# fmt: off
# ruff: noqa
from typing import Any
from numadam.nopython.core import Array, Number

def adagrad_scalars(
    lr: float = 1e-2,
    eps: float = 1e-10,
    eps_root: float = 0.0,
) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `adagrad_element`.

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate.
    eps : float, default 1e-10
        Added to the root, in units of the gradient.
    eps_root : float, default 0.0
        Added under the root, in units of the gradient squared.

    Returns
    -------
    tuple of float64
        The same for all elements, which round them to their dtype.

    References
    ----------
    Duchi, Hazan and Singer, "Adaptive Subgradient Methods", JMLR 12, 2011.

    Examples
    --------
    >>> from numadam.nopython import adagrad_scalars
    >>> h = adagrad_scalars(lr=0.1)
    """

def adagrad_element(p: Number, g: Number, v: Number, h: tuple[float, ...]) -> tuple[Any, ...]:
    """One step of one element; formula as in `adagrad_update`.

    Parameters
    ----------
    p, g : float32 or float64
        Parameter and gradient. The computation is in the type of `p`.
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
    p : array
        Parameters, float32 or float64, any shape and layout; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    v : array
        Sum of squares of the gradient, zeros (or another start) before the first step; modified in
        place.
    lr : float, default 0.01
        Learning rate.
    eps : float, default 1e-10
        Added to the root, in units of the gradient.
    eps_root : float, default 0.0
        Added under the root, in units of the gradient squared.

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
