# Written by `python tests/generate.py`: do not edit.
# fmt: off
# ruff: noqa
from typing import Any
from numadam.nopython.core import Array, Number

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
    t : int
        Number of this step: 1 at the first.
    lr : float, default 1e-3
        Learning rate.
    weight_decay : float, default 0.01
        Share of `p` that each step subtracts, times lr.
    beta1 : float, default 0.9
        Decay of the first moment, in [0, 1).
    beta2 : float, default 0.999
        Decay of the second moment, in [0, 1).
    eps : float, default 1e-8
        Added to the root, in units of the gradient.
    eps_root : float, default 0.0
        Added under the root, in units of the gradient squared.

    Returns
    -------
    tuple of float64
        The same for all elements, which round them to their dtype.

    References
    ----------
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Examples
    --------
    >>> from numadam.nopython import adamw_scalars
    >>> h = adamw_scalars(1, lr=0.1)
    """

def adamw_element(
    p: Number, g: Number, m: Number, v: Number, h: tuple[float, ...], vmax: Number | None = None
) -> tuple[Any, ...]:
    """One step of one element; formula as in `adamw_update`.

    Parameters
    ----------
    p, g : float32 or float64
        Parameter and gradient. The computation is in the type of `p`.
    m, v : float
        State of the element.
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
    weight_decay : float, default 0.01
        Share of `p` that each step subtracts, times lr.
    beta1 : float, default 0.9
        Decay of the first moment, in [0, 1).
    beta2 : float, default 0.999
        Decay of the second moment, in [0, 1).
    eps : float, default 1e-8
        Added to the root, in units of the gradient.
    eps_root : float, default 0.0
        Added under the root, in units of the gradient squared.
    vmax : array, optional
        Largest second moment so far, zeros before the first step: AMSGrad, in the form "v" of
        `numadam.Adam`; modified in place.

    Raises
    ------
    ValueError
        For arrays of different shapes and for t below 1. Different dtypes are a compile error.
        A CUDA kernel shows no such error: its thread ends.

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
