# Written by `python tests/generate.py`: do not edit.
# fmt: off
# ruff: noqa
from typing import Any
from numadam.nopython.core import Array, Number

def nadam_product(
    t: int, mu_product: float, beta1: float = 0.9, momentum_decay: float = 4e-3
) -> float:
    """The product of the momenta up to step t, from that of the step before.

    ``mu_product * mu_t`` with ``mu_t = beta1 * (1 - 0.96**(t*momentum_decay) / 2)``

    Parameters
    ----------
    t : int
        Number of the step: 1 at the first.
    mu_product : float
        The product before it: 1.0 at the first.
    beta1, momentum_decay : float
        As in `nadam_update`.

    Returns
    -------
    float64
        What `nadam_scalars` takes at the next step.

    References
    ----------
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> from numadam.nopython import nadam_product
    >>> round(nadam_product(1, 1.0, momentum_decay=0.0), 6)
    0.45
    """

def nadam_scalars(
    t: int,
    lr: float = 2e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    momentum_decay: float = 4e-3,
    weight_decay: float = 0.0,
    mu_product: float | None = None,
) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `nadam_element`.

    Parameters
    ----------
    t, lr, beta1, beta2, eps, momentum_decay, weight_decay
        As in `nadam_update`.
    mu_product : float, optional
        The product of the momenta before this step, 1.0 at the first: `nadam_product` carries it
        on. Without it all of them are computed again, t - 1 powers.

    Returns
    -------
    tuple of float64
        The same for all elements, which round them to their dtype.

    References
    ----------
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> from numadam.nopython import nadam_product, nadam_scalars
    >>> h = nadam_scalars(2, mu_product=nadam_product(1, 1.0))
    >>> h == nadam_scalars(2)
    True
    """

def nadam_element(
    p: Number, g: Number, m: Number, v: Number, h: tuple[float, ...]
) -> tuple[Any, ...]:
    """One step of one element; formula as in `nadam_update`.

    Parameters
    ----------
    p, g : float32 or float64
        Parameter and gradient. The computation is in the type of `p`.
    m, v : float
        State of the element.
    h : tuple of float
        From `nadam_scalars`.

    Returns
    -------
    tuple of float
        The new p, m and v.

    References
    ----------
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> from numadam.nopython import nadam_element, nadam_scalars
    >>> p, m, v = nadam_element(1.0, 1.0, 0.0, 0.0, nadam_scalars(1, lr=0.1))
    >>> round(p, 3)
    0.894
    """

def nadam_update(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    t: int,
    lr: float = 2e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    momentum_decay: float = 4e-3,
    weight_decay: float = 0.0,
    mu_product: Array | None = None,
) -> None:
    """One step in place, inside compiled code; the same numbers as `numadam.NAdam`.

    ::

        mu_t = beta1 * (1 - 0.96**(t*momentum_decay) / 2);  P_t = mu_1 * ... * mu_t
        m = beta1*m + (1-beta1)*g;  v = beta2*v + (1-beta2)*g**2
        mean = mu_next*m/(1-P_next) + (1-mu_t)*g/(1-P_t)
        p = p - lr * mean / (sqrt(v/(1-beta2**t)) + eps)

    P is no power, so it has to be carried from step to step: give `mu_product`. Without it each
    step forms all momenta again, t - 1 powers, about 15 ns each.

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
    lr : float, default 2e-3
        Learning rate.
    beta1 : float, default 0.9
        Decay of the first moment, in [0, 1), and the momentum in the end.
    beta2 : float, default 0.999
        Decay of the second moment, in [0, 1).
    eps : float, default 1e-8
        Added to the root, in units of the gradient.
    momentum_decay : float, default 4e-3
        How fast the momentum grows.
    weight_decay : float, default 0.0
        Share of `p` that each step subtracts, times lr.
    mu_product : array of one float64, optional
        The product P of the steps before, ``np.ones(1)`` before the first; modified in place.

    Raises
    ------
    ValueError
        For arrays of different shapes and for t below 1. Different dtypes are a compile error.
        A CUDA kernel shows no such error: its thread ends.

    References
    ----------
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam.nopython import nadam_update
    >>> p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    >>> nadam_update(p, np.array([1.0, -1.0]), m, v, 1, lr=0.1)
    >>> p.round(3)
    array([0.894, 1.106])
    """
