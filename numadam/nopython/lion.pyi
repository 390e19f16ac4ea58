# Written by `python tests/generate.py`: do not edit.
# fmt: off
# ruff: noqa
from typing import Any
from numadam.nopython.core import Array, Number

def lion_scalars(
    lr: float = 1e-4,
    beta1: float = 0.9,
    beta2: float = 0.99,
    weight_decay: float = 0.0,
) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `lion_element`.

    Parameters
    ----------
    lr : float, default 1e-4
        Learning rate.
    beta1 : float, default 0.9
        Weight of the momentum beside the gradient in the step, in [0, 1).
    beta2 : float, default 0.99
        Decay of the momentum, in [0, 1).
    weight_decay : float, default 0.0
        Share of `p` that each step subtracts, times lr.

    Returns
    -------
    tuple of float64
        The same for all elements, which round them to their dtype.

    References
    ----------
    Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023.

    Examples
    --------
    >>> from numadam.nopython import lion_scalars
    >>> h = lion_scalars(lr=0.1)
    """

def lion_element(p: Number, g: Number, m: Number, h: tuple[float, ...]) -> tuple[Any, ...]:
    """One step of one element; formula as in `lion_update`.

    Parameters
    ----------
    p, g : float32 or float64
        Parameter and gradient. The computation is in the type of `p`.
    m : float
        State of the element.
    h : tuple of float
        From `lion_scalars`.

    Returns
    -------
    tuple of float
        The new p and m.

    References
    ----------
    Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023.

    Examples
    --------
    >>> from numadam.nopython import lion_element, lion_scalars
    >>> p, m = lion_element(1.0, 5.0, 0.0, lion_scalars(lr=0.1))
    >>> round(p, 6)
    0.9
    """

def lion_update(
    p: Array,
    g: Array,
    m: Array,
    lr: float = 1e-4,
    beta1: float = 0.9,
    beta2: float = 0.99,
    weight_decay: float = 0.0,
) -> None:
    """One step in place, inside compiled code; the same numbers as `numadam.Lion`.

    ::

        p = p - lr * sign(beta1*m + (1-beta1)*g);  m = beta2*m + (1-beta2)*g

    Parameters
    ----------
    p : array
        Parameters, float32 or float64, any shape and layout; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    m : array
        Momentum, zeros before the first step; modified in place.
    lr : float, default 1e-4
        Learning rate.
    beta1 : float, default 0.9
        Weight of the momentum beside the gradient in the step, in [0, 1).
    beta2 : float, default 0.99
        Decay of the momentum, in [0, 1).
    weight_decay : float, default 0.0
        Share of `p` that each step subtracts, times lr.

    Raises
    ------
    ValueError
        For arrays of unlike shapes. Unlike dtypes are refused when it is compiled. A CUDA kernel
        shows no such error: its thread goes no further.

    References
    ----------
    Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam.nopython import lion_update
    >>> p, m = np.ones(2), np.zeros(2)
    >>> lion_update(p, np.array([5.0, -1.0]), m, lr=0.1)
    >>> p.round(6)
    array([0.9, 1.1])
    """
