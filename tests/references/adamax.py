"""AdaMax as its paper writes it."""

from __future__ import annotations

import numpy as np

from . import enter, quotient, zeros

VARIANTS = [{}, {"eps_form": "denominator"}]


def steps(p, grads, *, lr, beta1=0.9, beta2=0.999, eps=1e-8, eps_form="norm", **decay):
    """Kingma & Ba (2015), algorithm 2, which has no eps.

    "norm": u = max(beta2 u, |g| + eps) (torch, optax); "denominator": u + eps (Keras).
    """
    p, m, u = zeros(p, 2)
    for t, gradient in enumerate(grads, 1):
        p, g, alpha = enter(p, gradient, lr, t, **decay)
        m = beta1 * m + (1 - beta1) * g
        u = np.maximum(beta2 * u, np.abs(g) + (eps if eps_form == "norm" else 0.0))
        d = u + (eps if eps_form == "denominator" else 0.0)
        p = p - quotient(alpha / (1 - beta1**t) * m, d)
    return p, {"m": m, "u": u}
