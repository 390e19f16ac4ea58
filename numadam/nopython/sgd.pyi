# Written by `python tests/generate.py`: do not edit.
# fmt: off
# ruff: noqa
from typing import Any
from numadam.nopython.core import Array, Number

def sgd_scalars(
    lr: float = 1e-2,
    momentum: float = 0.0,
) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `sgd_element`.

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate.
    momentum : float, default 0.0
        Decay of the momentum buffer, in [0, 1).

    Returns
    -------
    tuple of float64
        The same for all elements, which round them to their dtype.

    References
    ----------
    Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.

    Examples
    --------
    >>> from numadam.nopython import sgd_scalars
    >>> h = sgd_scalars(lr=0.5)
    """

def sgd_element(p: Number, g: Number, h: tuple[float, ...], m: Number | None = None) -> Any:
    """One step of one element; formula as in `sgd_update`.

    Parameters
    ----------
    p, g : float32 or float64
        Parameter and gradient. The computation is in the type of `p`.
    h : tuple of float
        From `sgd_scalars`.
    m : float, optional
        As in `sgd_update`.

    Returns
    -------
    float, or tuple of float
        The new p; with `m`, the new p and m.

    References
    ----------
    Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.

    Examples
    --------
    >>> from numadam.nopython import sgd_element, sgd_scalars
    >>> p = sgd_element(1.0, 1.0, sgd_scalars(lr=0.5))
    >>> round(p, 6)
    0.5
    """

def sgd_update(
    p: Array,
    g: Array,
    m: Array | None = None,
    lr: float = 1e-2,
    momentum: float = 0.0,
) -> None:
    """One step in place, inside compiled code; the same numbers as `numadam.SGD`.

    ::

        m = momentum*m + g;  p = p - lr * m
        or p = p - lr * g without `m`.

    Parameters
    ----------
    p : array
        Parameters, float32 or float64, any shape and layout; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    m : array, optional
        Momentum buffer, zeros before the first step; there exactly where `momentum` is not 0;
        modified in place.
    lr : float, default 0.01
        Learning rate.
    momentum : float, default 0.0
        Decay of the momentum buffer, in [0, 1).

    Raises
    ------
    ValueError
        For arrays of unlike shapes, for momentum without `m`, and the reverse. Unlike dtypes are
        refused when it is compiled. A CUDA kernel shows no such error: its thread goes no further.

    References
    ----------
    Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam.nopython import sgd_update
    >>> p = np.ones(2)
    >>> sgd_update(p, np.array([1.0, -1.0]), lr=0.5)
    >>> p.round(6)
    array([0.5, 1.5])
    """
