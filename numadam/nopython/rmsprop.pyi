# Written by `python tests/generate.py`: do not edit.
# fmt: off
# ruff: noqa
from typing import Any
from numadam.nopython.core import Array, Number

def rmsprop_scalars(
    lr: float = 1e-2,
    beta2: float = 0.99,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    momentum: float = 0.0,
) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `rmsprop_element`.

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate.
    beta2 : float, default 0.99
        Decay of the mean square, in [0, 1).
    eps : float, default 1e-8
        Added to the root, in units of the gradient.
    eps_root : float, default 0.0
        Added under the root, in units of the gradient squared.
    momentum : float, default 0.0
        Decay of the momentum buffer, in [0, 1).

    Returns
    -------
    tuple of float64
        The same for all elements, which round them to their dtype.

    References
    ----------
    Tieleman and Hinton, "Lecture 6.5: RMSProp", COURSERA Neural Networks, 2012.

    Examples
    --------
    >>> from numadam.nopython import rmsprop_scalars
    >>> h = rmsprop_scalars(lr=0.1)
    """

def rmsprop_element(
    p: Number,
    g: Number,
    v: Number,
    h: tuple[float, ...],
    mean: Number | None = None,
    m: Number | None = None,
) -> tuple[Any, ...]:
    """One step of one element; formula as in `rmsprop_update`.

    Parameters
    ----------
    p, g : float32 or float64
        Parameter and gradient. The computation is in the type of `p`.
    v : float
        State of the element.
    h : tuple of float
        From `rmsprop_scalars`.
    mean, m : float, optional
        As in `rmsprop_update`.

    Returns
    -------
    tuple of float
        The new p and v, then mean and m where they are given.

    References
    ----------
    Tieleman and Hinton, "Lecture 6.5: RMSProp", COURSERA Neural Networks, 2012.

    Examples
    --------
    >>> from numadam.nopython import rmsprop_element, rmsprop_scalars
    >>> h = rmsprop_scalars(lr=0.1, beta2=0.75)
    >>> p, v = rmsprop_element(1.0, 1.0, 0.0, h)
    >>> round(p, 6)
    0.8
    """

def rmsprop_update(
    p: Array,
    g: Array,
    v: Array,
    lr: float = 1e-2,
    beta2: float = 0.99,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    momentum: float = 0.0,
    mean: Array | None = None,
    m: Array | None = None,
) -> None:
    """One step in place, inside compiled code; the same numbers as `numadam.RMSprop`.

    ::

        v = beta2*v + (1-beta2)*g**2;  p = p - lr * g / (sqrt(v + eps_root) + eps)

    Parameters
    ----------
    p : array
        Parameters, float32 or float64, any shape and layout; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    v : array
        Mean square of the gradient, zeros before the first step; modified in place.
    lr : float, default 0.01
        Learning rate.
    beta2 : float, default 0.99
        Decay of the mean square, in [0, 1).
    eps : float, default 1e-8
        Added to the root, in units of the gradient.
    eps_root : float, default 0.0
        Added under the root, in units of the gradient squared.
    momentum : float, default 0.0
        Decay of the momentum buffer, in [0, 1).
    mean : array, optional
        Mean of the gradient, zeros before the first step: RMSprop is centered; modified in place.
    m : array, optional
        Momentum buffer, zeros before the first step; there exactly where `momentum` is not 0;
        modified in place.

    Raises
    ------
    ValueError
        For arrays of unlike shapes, for momentum without `m`, and the reverse. Unlike dtypes are
        refused when it is compiled. A CUDA kernel shows no such error: its thread goes no further.

    References
    ----------
    Tieleman and Hinton, "Lecture 6.5: RMSProp", COURSERA Neural Networks, 2012.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam.nopython import rmsprop_update
    >>> p, v = np.ones(2), np.zeros(2)
    >>> rmsprop_update(p, np.array([1.0, -1.0]), v, lr=0.1, beta2=0.75)
    >>> p.round(6)
    array([0.8, 1.2])
    """
