# Written by `python tests/generate.py`: do not edit.
# fmt: off
# ruff: noqa
from typing import Any
from numadam.nopython.core import Array, Number

def adamax_scalars(
    t: int,
    lr: float = 2e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `adamax_element`.

    Parameters
    ----------
    t : int
        Number of this step: 1 at the first.
    lr : float, default 2e-3
        Learning rate.
    beta1 : float, default 0.9
        Decay of the first moment, in [0, 1).
    beta2 : float, default 0.999
        Decay of the norm, in [0, 1).
    eps : float, default 1e-8
        Added to the size of the gradient.
    weight_decay : float, default 0.0
        Share of `p` that each step subtracts, times lr.

    Returns
    -------
    tuple of float64
        The same for all elements, which round them to their dtype.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, section 7.1.

    Examples
    --------
    >>> from numadam.nopython import adamax_scalars
    >>> h = adamax_scalars(1, lr=0.1)
    """

def adamax_element(
    p: Number, g: Number, m: Number, u: Number, h: tuple[float, ...]
) -> tuple[Any, ...]:
    """One step of one element; formula as in `adamax_update`.

    Parameters
    ----------
    p, g : float32 or float64
        Parameter and gradient. The computation is in the type of `p`.
    m, u : float
        State of the element.
    h : tuple of float
        From `adamax_scalars`.

    Returns
    -------
    tuple of float
        The new p, m and u.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, section 7.1.

    Examples
    --------
    >>> from numadam.nopython import adamax_element, adamax_scalars
    >>> p, m, u = adamax_element(1.0, 1.0, 0.0, 0.0, adamax_scalars(1, lr=0.1))
    >>> round(p, 6)
    0.9
    """

def adamax_update(
    p: Array,
    g: Array,
    m: Array,
    u: Array,
    t: int,
    lr: float = 2e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> None:
    """One step in place, inside compiled code; the same numbers as `numadam.AdaMax`.

    ::

        m = beta1*m + (1-beta1)*g;  u = max(beta2*u, abs(g) + eps)
        p = p - lr/(1-beta1**t) * m/u

    Parameters
    ----------
    p : array
        Parameters, float32 or float64, any shape and layout; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    m, u : array
        First moment and norm, zeros before the first step; modified in place.
    t : int
        Number of this step: 1 at the first.
    lr : float, default 2e-3
        Learning rate.
    beta1 : float, default 0.9
        Decay of the first moment, in [0, 1).
    beta2 : float, default 0.999
        Decay of the norm, in [0, 1).
    eps : float, default 1e-8
        Added to the size of the gradient.
    weight_decay : float, default 0.0
        Share of `p` that each step subtracts, times lr.

    Raises
    ------
    ValueError
        For arrays of different shapes and for t below 1. Different dtypes are a compile error.
        A CUDA kernel shows no such error: its thread ends.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, section 7.1.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam.nopython import adamax_update
    >>> p, m, u = np.ones(2), np.zeros(2), np.zeros(2)
    >>> adamax_update(p, np.array([1.0, -1.0]), m, u, 1, lr=0.1)
    >>> p.round(6)
    array([0.9, 1.1])
    """
