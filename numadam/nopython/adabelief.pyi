# Written by `python tests/generate.py`: do not edit.
# fmt: off
# ruff: noqa
from typing import Any
from numadam.nopython.core import Array, Number

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
    t : int
        Number of this step: 1 at the first.
    lr : float, default 1e-3
        Learning rate.
    beta1 : float, default 0.9
        Decay of the first moment, in [0, 1).
    beta2 : float, default 0.999
        Decay of the variance, in [0, 1).
    eps : float, default 1e-16
        Added to the root, in units of the gradient.
    eps_root : float, default 1e-16
        Added to `v` at every step, in units of the gradient squared.
    weight_decay : float, default 0.0
        Share of `p` that each step subtracts, times lr.

    Returns
    -------
    tuple of float64
        The same for all elements, which round them to their dtype.

    References
    ----------
    Zhuang et al., "AdaBelief Optimizer", NeurIPS 2020.

    Examples
    --------
    >>> from numadam.nopython import adabelief_scalars
    >>> h = adabelief_scalars(1, lr=0.1)
    """

def adabelief_element(
    p: Number, g: Number, m: Number, v: Number, h: tuple[float, ...]
) -> tuple[Any, ...]:
    """One step of one element; formula as in `adabelief_update`.

    Parameters
    ----------
    p, g : float32 or float64
        Parameter and gradient. The computation is in the type of `p`.
    m, v : float
        State of the element.
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
    p : array
        Parameters, float32 or float64, any shape and layout; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    m, v : array
        First moment and variance, zeros before the first step; modified in place.
    t : int
        Number of this step: 1 at the first.
    lr : float, default 1e-3
        Learning rate.
    beta1 : float, default 0.9
        Decay of the first moment, in [0, 1).
    beta2 : float, default 0.999
        Decay of the variance, in [0, 1).
    eps : float, default 1e-16
        Added to the root, in units of the gradient.
    eps_root : float, default 1e-16
        Added to `v` at every step, in units of the gradient squared.
    weight_decay : float, default 0.0
        Share of `p` that each step subtracts, times lr.

    Raises
    ------
    ValueError
        For arrays of different shapes and for t below 1. Different dtypes are a compile error.
        A CUDA kernel shows no such error: its thread ends.

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
