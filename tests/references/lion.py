"""Lion as its paper writes it."""

from __future__ import annotations

import numpy as np

from . import enter, zeros


def steps(p, grads, *, lr, beta1=0.9, beta2=0.99, **decay):
    """Chen et al. (2023), algorithm 2."""
    p, m = zeros(p, 1)
    for t, gradient in enumerate(grads, 1):
        p, g, alpha = enter(p, gradient, lr, t, **decay)
        p = p - alpha * np.sign(beta1 * m + (1 - beta1) * g)
        m = beta2 * m + (1 - beta2) * g
    return p, {"m": m}
