"""Adagrad as its paper writes it."""

from __future__ import annotations

import numpy as np

from . import enter, quotient, zeros

VARIANTS = [{}, {"initial_accumulator": 0.1, "eps": 0.0, "eps_root": 1e-7}]


def steps(p, grads, *, lr, initial_accumulator=0.0, eps=1e-10, eps_root=0.0, **decay):
    """Duchi, Hazan & Singer (2011), the diagonal form."""
    p, v = zeros(p, 1)
    v = v + initial_accumulator
    for t, gradient in enumerate(grads, 1):
        p, g, alpha = enter(p, gradient, lr, t, **decay)
        v = v + g**2
        p = p - quotient(alpha * g, np.sqrt(v + eps_root) + eps)
    return p, {"v": v}
