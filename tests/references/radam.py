"""RAdam as its paper writes it."""

from __future__ import annotations

import math

import numpy as np

from . import enter, quotient, zeros

VARIANTS = [{}, {"eps_form": "paper"}]


def steps(p, grads, *, lr, beta1=0.9, beta2=0.999, eps=1e-8, eps_form="paper", **decay):
    """Liu et al. (2020), algorithm 2, which has no eps and the threshold 4.

    Threshold 5 and eps as in Adam: the "paper" form is optax's, the "hat" form torch's.
    """
    p, m, v = zeros(p, 2)
    longest = 2 / (1 - beta2) - 1
    for t, gradient in enumerate(grads, 1):
        p, g, alpha = enter(p, gradient, lr, t, **decay)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        c1, c2 = 1 - beta1**t, 1 - beta2**t
        rho = longest - 2 * t * beta2**t / c2
        if rho <= 5:
            p = p - alpha * (m / c1)
            continue
        r = (rho - 4) * (rho - 2) * longest / ((longest - 4) * (longest - 2) * rho)
        if eps_form == "paper":
            d = np.sqrt(v / c2) + eps
        else:
            d = (np.sqrt(v) + eps) / math.sqrt(c2)
        p = p - quotient(alpha * math.sqrt(r) * (m / c1), d)
    return p, {"m": m, "v": v}
