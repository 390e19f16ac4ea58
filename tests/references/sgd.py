"""SGD as its paper writes it."""

from __future__ import annotations

from . import enter, zeros

VARIANTS = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.1},
    {"momentum": 0.9, "nesterov": True},
]


def steps(p, grads, *, lr, momentum=0.0, dampening=0.0, nesterov=False, **decay):
    """Heavy ball (Polyak 1964), and Nesterov's form as Sutskever et al. (2013) and torch write it.

    The first gradient is not dampened (torch).
    """
    p, m = zeros(p, 1)
    for t, gradient in enumerate(grads, 1):
        p, g, alpha = enter(p, gradient, lr, t, **decay)
        m = momentum * m + (g if t == 1 else (1 - dampening) * g)
        if momentum == 0:
            p = p - alpha * g
        else:
            p = p - alpha * (g + momentum * m if nesterov else m)
    return p, {"m": m} if momentum else {}
