"""Adam as its paper writes it."""

from __future__ import annotations

import math

import numpy as np

from . import enter, quotient, zeros

VARIANTS = [
    {},
    {"amsgrad": True},
    {"amsgrad": "vhat"},
    {"nesterov": True},
    {"like": "numpy"},
    {"like": "sklearn", "eps_form": "hat"},
    {"like": "keras", "eps_form": "hat", "eps": 1e-8, "decoupled": False},
]


def steps(
    p,
    grads,
    *,
    lr,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    eps_form="paper",
    eps_root=0.0,
    bias_correction=True,
    amsgrad=False,
    nesterov=False,
    **decay,
):
    """Algorithm 1 of Kingma & Ba (2015), or the last formula of its section 2 ("hat").

    `amsgrad` (Reddi, Kale & Kumar 2018): "v" keeps the largest v (torch, Keras), "vhat" the
    largest v/c2 (optax; the paper's form only), "paper" the largest v without any bias
    correction. `nesterov`: Dozat (2016) with a constant beta1, as optax. `eps_root` stands under
    the root: beside v/c2 in the paper's form, beside v in the hat form.
    """
    p, m, v, vmax = zeros(p, 3)
    for t, gradient in enumerate(grads, 1):
        p, g, alpha = enter(p, gradient, lr, t, **decay)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        c1, c1_next, c2 = 1 - beta1**t, 1 - beta1 ** (t + 1), 1 - beta2**t
        if amsgrad == "paper" or not bias_correction:
            c1 = c1_next = c2 = 1.0
        vmax = np.maximum(vmax, v / c2 if amsgrad == "vhat" else v)
        second = vmax if amsgrad else v
        first = beta1 * m / c1_next + (1 - beta1) * g / c1 if nesterov else m / c1
        if amsgrad == "vhat":
            p = p - quotient(alpha * first, np.sqrt(vmax + eps_root) + eps)
        elif eps_form == "paper":
            p = p - quotient(alpha * first, np.sqrt(second / c2 + eps_root) + eps)
        else:
            p = p - quotient(alpha * math.sqrt(c2) * first, np.sqrt(second + eps_root) + eps)
    return p, {"m": m, "v": v} | ({"vmax": vmax} if amsgrad else {})
