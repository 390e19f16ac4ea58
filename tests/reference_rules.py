"""Every rule over a whole list of gradients in float64, as its paper writes it.

Nothing here comes from numadam. All functions take `lr` (a number, or a list with one entry a
step), `weight_decay` and `decoupled`, and return (p, state). The decay comes first in a step:
decoupled, ``p *= 1 - lr*wd`` (Loshchilov & Hutter 2019), or L2, ``g += wd*p``.
"""

from __future__ import annotations

import math

import numpy as np


def _quotient(a, d):
    """``a / d``, and 0 where the denominator is zero: such an element does not move."""
    return np.where(d == 0, 0.0, a / np.where(d == 0, 1.0, d))


def _zeros(p, number):
    """`p` in float64, and arrays of zeros beside it."""
    p = np.array(p, np.float64)
    return p, *(np.zeros_like(p) for _ in range(number))


def _enter(p, gradient, lr, t, weight_decay, decoupled):
    """What every step begins with: (p, g, lr of this step) after the decay."""
    g = np.array(gradient, np.float64)
    alpha = lr[t - 1] if isinstance(lr, list) else lr
    if decoupled:
        return p * (1 - alpha * weight_decay), g, alpha
    return p, g + weight_decay * p, alpha


def adam(
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
    weight_decay=0.0,
    decoupled=False,
):
    """Algorithm 1 of Kingma & Ba (2015), or the last formula of its section 2 ("hat").

    `amsgrad` (Reddi, Kale & Kumar 2018): "v" keeps the largest v (torch, Keras), "vhat" the
    largest v/c2 (optax; the paper's form only), "paper" the largest v without any bias
    correction. `nesterov`: Dozat (2016) with a constant beta1, as optax. `eps_root` stands under
    the root: beside v/c2 in the paper's form, beside v in the hat form.
    """
    p, m, v, vmax = _zeros(p, 3)
    for t, gradient in enumerate(grads, 1):
        p, g, alpha = _enter(p, gradient, lr, t, weight_decay, decoupled)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        c1, c1_next, c2 = 1 - beta1**t, 1 - beta1 ** (t + 1), 1 - beta2**t
        if amsgrad == "paper" or not bias_correction:
            c1 = c1_next = c2 = 1.0
        vmax = np.maximum(vmax, v / c2 if amsgrad == "vhat" else v)
        second = vmax if amsgrad else v
        first = beta1 * m / c1_next + (1 - beta1) * g / c1 if nesterov else m / c1
        if amsgrad == "vhat":
            p = p - _quotient(alpha * first, np.sqrt(vmax + eps_root) + eps)
        elif eps_form == "paper":
            p = p - _quotient(alpha * first, np.sqrt(second / c2 + eps_root) + eps)
        else:
            p = p - _quotient(alpha * math.sqrt(c2) * first, np.sqrt(second + eps_root) + eps)
    return p, {"m": m, "v": v} | ({"vmax": vmax} if amsgrad else {})


def nadam(
    p,
    grads,
    *,
    lr,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    momentum_decay=4e-3,
    weight_decay=0.0,
    decoupled=False,
):
    """Dozat (2016), algorithm 2, with its schedule of mu and without its extra beta2."""
    p, m, v = _zeros(p, 2)
    product = 1.0
    for t, gradient in enumerate(grads, 1):
        p, g, alpha = _enter(p, gradient, lr, t, weight_decay, decoupled)
        mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay)) for step in (t, t + 1))
        product *= mu
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        first = mu_next * m / (1 - product * mu_next) + (1 - mu) * g / (1 - product)
        p = p - _quotient(alpha * first, np.sqrt(v / (1 - beta2**t)) + eps)
    return p, {"m": m, "v": v, "mu_product": product}


def radam(
    p,
    grads,
    *,
    lr,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    eps_form="paper",
    threshold=5.0,
    weight_decay=0.0,
    decoupled=False,
):
    """Liu et al. (2020), algorithm 2, which has no eps and the threshold 4.

    Threshold 5 and eps as in Adam: the "paper" form is optax's, the "hat" form torch's.
    """
    p, m, v = _zeros(p, 2)
    longest = 2 / (1 - beta2) - 1
    for t, gradient in enumerate(grads, 1):
        p, g, alpha = _enter(p, gradient, lr, t, weight_decay, decoupled)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        c1, c2 = 1 - beta1**t, 1 - beta2**t
        rho = longest - 2 * t * beta2**t / c2
        if rho <= threshold:
            p = p - alpha * (m / c1)
            continue
        r = (rho - 4) * (rho - 2) * longest / ((longest - 4) * (longest - 2) * rho)
        if eps_form == "paper":
            d = np.sqrt(v / c2) + eps
        else:
            d = (np.sqrt(v) + eps) / math.sqrt(c2)
        p = p - _quotient(alpha * math.sqrt(r) * (m / c1), d)
    return p, {"m": m, "v": v}


def adamax(
    p,
    grads,
    *,
    lr,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    eps_form="norm",
    weight_decay=0.0,
    decoupled=False,
):
    """Kingma & Ba (2015), algorithm 2, which has no eps.

    "norm": u = max(beta2 u, |g| + eps) (torch, optax); "denominator": u + eps (Keras).
    """
    p, m, u = _zeros(p, 2)
    for t, gradient in enumerate(grads, 1):
        p, g, alpha = _enter(p, gradient, lr, t, weight_decay, decoupled)
        m = beta1 * m + (1 - beta1) * g
        u = np.maximum(beta2 * u, np.abs(g) + (eps if eps_form == "norm" else 0.0))
        d = u + (eps if eps_form == "denominator" else 0.0)
        p = p - _quotient(alpha / (1 - beta1**t) * m, d)
    return p, {"m": m, "u": u}


def adabelief(
    p,
    grads,
    *,
    lr,
    beta1=0.9,
    beta2=0.999,
    eps=1e-16,
    eps_root=1e-16,
    weight_decay=0.0,
    decoupled=False,
):
    """Zhuang et al. (2020), algorithm 2: the error is against the new m, eps_root stays in v."""
    p, m, v = _zeros(p, 2)
    for t, gradient in enumerate(grads, 1):
        p, g, alpha = _enter(p, gradient, lr, t, weight_decay, decoupled)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * (g - m) ** 2 + eps_root
        p = p - _quotient(alpha * m / (1 - beta1**t), np.sqrt(v / (1 - beta2**t)) + eps)
    return p, {"m": m, "v": v}


def lion(p, grads, *, lr, beta1=0.9, beta2=0.99, weight_decay=0.0, decoupled=False):
    """Chen et al. (2023), algorithm 2."""
    p, m = _zeros(p, 1)
    for t, gradient in enumerate(grads, 1):
        p, g, alpha = _enter(p, gradient, lr, t, weight_decay, decoupled)
        p = p - alpha * np.sign(beta1 * m + (1 - beta1) * g)
        m = beta2 * m + (1 - beta2) * g
    return p, {"m": m}


def rmsprop(
    p,
    grads,
    *,
    lr,
    beta2=0.99,
    eps=1e-8,
    eps_root=0.0,
    centered=False,
    momentum=0.0,
    weight_decay=0.0,
    decoupled=False,
):
    """Tieleman & Hinton (2012), lecture 6.5; centered and with momentum: Graves (2013).

    The momentum is of the directions, before lr (torch). v - mean^2 is no variance below 0:
    rounding alone makes it negative.
    """
    p, v, mean, m = _zeros(p, 3)
    for t, gradient in enumerate(grads, 1):
        p, g, alpha = _enter(p, gradient, lr, t, weight_decay, decoupled)
        v = beta2 * v + (1 - beta2) * g**2
        mean = beta2 * mean + (1 - beta2) * g
        second = np.maximum(v - mean**2, 0.0) if centered else v
        m = momentum * m + _quotient(g, np.sqrt(second + eps_root) + eps)
        p = p - alpha * m
    state = {"v": v} | ({"mean": mean} if centered else {}) | ({"m": m} if momentum else {})
    return p, state


def sgd(
    p,
    grads,
    *,
    lr,
    momentum=0.0,
    dampening=0.0,
    nesterov=False,
    weight_decay=0.0,
    decoupled=False,
):
    """Heavy ball (Polyak 1964), and Nesterov's form as Sutskever et al. (2013) and torch write it.

    The first gradient is not dampened (torch).
    """
    p, m = _zeros(p, 1)
    for t, gradient in enumerate(grads, 1):
        p, g, alpha = _enter(p, gradient, lr, t, weight_decay, decoupled)
        m = momentum * m + (g if t == 1 else (1 - dampening) * g)
        if momentum == 0:
            p = p - alpha * g
        else:
            p = p - alpha * (g + momentum * m if nesterov else m)
    return p, {"m": m} if momentum else {}


def adagrad(
    p,
    grads,
    *,
    lr,
    initial_accumulator=0.0,
    eps=1e-10,
    eps_root=0.0,
    weight_decay=0.0,
    decoupled=False,
):
    """Duchi, Hazan & Singer (2011), the diagonal form."""
    p, v = _zeros(p, 1)
    v = v + initial_accumulator
    for t, gradient in enumerate(grads, 1):
        p, g, alpha = _enter(p, gradient, lr, t, weight_decay, decoupled)
        v = v + g**2
        p = p - _quotient(alpha * g, np.sqrt(v + eps_root) + eps)
    return p, {"v": v}
