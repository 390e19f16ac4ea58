"""Yogi (Zaheer et al. 2018) as a user writes it: what `numadam.rule` takes."""

from __future__ import annotations

import math

ARGUMENTS = {
    "state": ("m", "v"),
    "start": {"m": 1e-6, "v": 1e-6},
    "hypers": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-3},
    "powers": ("beta1", "beta2"),
    "lr": 0.01,
}


def element(p, g, gg, m, v, h):
    m = h.beta1 * m + h.alpha1 * g
    v = v - h.alpha2 * (gg if v > gg else -gg if v < gg else h.zero)
    return h.step * m / (math.sqrt(v) * h.root + h.eps), m, v


def scalars(c, q, lr, t):
    return dict(
        beta1=c.beta1,
        alpha1=1 - c.beta1,
        alpha2=1 - c.beta2,
        eps=c.eps,
        step=lr / (1 - q.beta1_product),
        root=1 / math.sqrt(1 - q.beta2_product),
    )
