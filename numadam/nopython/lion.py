"""Lion for the user's own compiled loops."""

from __future__ import annotations

from typing import Any

from numadam.nopython.core import Array, Number, compiled, kit
from numadam.rules.lion import Lion

_Hypers, _scalars, _element, _walk, _ = kit(Lion)


@compiled
def lion_scalars(
    lr: float = 1e-4,
    beta1: float = 0.9,
    beta2: float = 0.99,
    weight_decay: float = 0.0,
) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `lion_element`.

    Parameters
    ----------
    {{lr}}
    beta1 : float, default 0.9
        Weight of the momentum beside the gradient in the step, in [0, 1).
    beta2 : float, default 0.99
        Decay of the momentum, in [0, 1).
    {{weight_decay}}

    Returns
    -------
    {{scalars}}

    References
    ----------
    Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023.

    Examples
    --------
    >>> from numadam.nopython import lion_scalars
    >>> h = lion_scalars(lr=0.1)
    """
    own = _Hypers(beta1=beta1, beta2=beta2)
    return _scalars(own, 1, lr, weight_decay)


@compiled
def lion_element(p: Number, g: Number, m: Number, h: tuple[float, ...]) -> tuple[Any, ...]:
    """One step of one element; formula as in `lion_update`.

    Parameters
    ----------
    {{p_and_g}}
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
    return _element(p, g, (m,), h)


@compiled
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
    {{p}}
    {{g}}
    m : array
        Momentum, zeros before the first step; modified in place.
    {{lr}}
    beta1 : float, default 0.9
        Weight of the momentum beside the gradient in the step, in [0, 1).
    beta2 : float, default 0.99
        Decay of the momentum, in [0, 1).
    {{weight_decay}}

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
    _walk(p, g, (m,), lion_scalars(lr, beta1, beta2, weight_decay))
