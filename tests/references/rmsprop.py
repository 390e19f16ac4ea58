"""RMSprop as its paper writes it."""

from __future__ import annotations

import numpy as np

from . import enter, quotient, zeros

VARIANTS = [
    {},
    {"centered": True},
    {"momentum": 0.9},
    {"centered": True, "momentum": 0.9},
]


def steps(
    p, grads, *, lr, beta2=0.99, eps=1e-8, eps_root=0.0, centered=False, momentum=0.0, **decay
):
    """Tieleman & Hinton (2012), lecture 6.5; centered and with momentum: Graves (2013).

    The momentum is of the directions, before lr (torch). v - mean^2 is no variance below 0:
    rounding alone makes it negative.
    """
    p, v, mean, m = zeros(p, 3)
    for t, gradient in enumerate(grads, 1):
        p, g, alpha = enter(p, gradient, lr, t, **decay)
        v = beta2 * v + (1 - beta2) * g**2
        mean = beta2 * mean + (1 - beta2) * g
        second = np.maximum(v - mean**2, 0.0) if centered else v
        m = momentum * m + quotient(g, np.sqrt(second + eps_root) + eps)
        p = p - alpha * m
    state = {"v": v} | ({"mean": mean} if centered else {}) | ({"m": m} if momentum else {})
    return p, state
