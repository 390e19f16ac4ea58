"""AdaBelief as its paper writes it."""

from __future__ import annotations

import numpy as np

from . import enter, quotient, zeros


def steps(p, grads, *, lr, beta1=0.9, beta2=0.999, eps=1e-16, eps_root=1e-16, **decay):
    """Zhuang et al. (2020), algorithm 2: the error is against the new m, eps_root stays in v."""
    p, m, v = zeros(p, 2)
    for t, gradient in enumerate(grads, 1):
        p, g, alpha = enter(p, gradient, lr, t, **decay)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * (g - m) ** 2 + eps_root
        p = p - quotient(alpha * m / (1 - beta1**t), np.sqrt(v / (1 - beta2**t)) + eps)
    return p, {"m": m, "v": v}
