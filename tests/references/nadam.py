"""NAdam as its paper writes it."""

from __future__ import annotations

import numpy as np

from . import enter, quotient, zeros


def steps(p, grads, *, lr, beta1=0.9, beta2=0.999, eps=1e-8, momentum_decay=4e-3, **decay):
    """Dozat (2016), algorithm 2, with its schedule of mu and without its extra beta2."""
    p, m, v = zeros(p, 2)
    product = 1.0
    for t, gradient in enumerate(grads, 1):
        p, g, alpha = enter(p, gradient, lr, t, **decay)
        mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay)) for step in (t, t + 1))
        product *= mu
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        first = mu_next * m / (1 - product * mu_next) + (1 - mu) * g / (1 - product)
        p = p - quotient(alpha * first, np.sqrt(v / (1 - beta2**t)) + eps)
    return p, {"m": m, "v": v, "mu_product": product}
