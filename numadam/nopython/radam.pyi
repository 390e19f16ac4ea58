# Written by `python tests/generate.py`: do not edit.
# fmt: off
# ruff: noqa
from typing import Any
from numadam.nopython.core import Array, Number

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
    t : int
        Number of this step: 1 at the first.
    lr : float, default 1e-3
        Learning rate.
    beta1 : float, default 0.9
        Decay of the first moment, in [0, 1).
    beta2 : float, default 0.999
        Decay of the second moment, in [0, 1).
    eps : float, default 1e-8
        Added to the root, in units of the gradient.
    weight_decay : float, default 0.0
        Share of `p` that each step subtracts, times lr.

    Returns
    -------
    tuple of float64
        The same for all elements, which round them to their dtype.

    References
    ----------
    Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", ICLR 2020.

    Examples
    --------
    >>> from numadam.nopython import radam_scalars
    >>> h = radam_scalars(1, lr=0.1)
    """

def radam_element(
    p: Number, g: Number, m: Number, v: Number, h: tuple[float, ...]
) -> tuple[Any, ...]:
    """One step of one element; formula as in `radam_update`.

    Parameters
    ----------
    p, g : float32 or float64
        Parameter and gradient. The computation is in the type of `p`.
    m, v : float
        State of the element.
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
    p : array
        Parameters, float32 or float64, any shape and layout; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    m, v : array
        First and second moment, zeros before the first step; modified in place.
    t : int
        Number of this step: 1 at the first.
    lr : float, default 1e-3
        Learning rate.
    beta1 : float, default 0.9
        Decay of the first moment, in [0, 1).
    beta2 : float, default 0.999
        Decay of the second moment, in [0, 1).
    eps : float, default 1e-8
        Added to the root, in units of the gradient.
    weight_decay : float, default 0.0
        Share of `p` that each step subtracts, times lr.

    Raises
    ------
    ValueError
        For arrays of different shapes and for t below 1. Different dtypes are a compile error.
        A CUDA kernel shows no such error: its thread ends.

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
