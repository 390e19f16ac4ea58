"""The rules as their papers write them, in plain NumPy: nothing here comes from numadam.

Two kinds of functions:

* `adam`, `rmsprop`, `sgd` follow the papers over a whole list of gradients, in float64.
* `adam_bits`, `rmsprop_bits`, `sgd_bits` are the expressions that numadam promises bit for bit:
  one step in the dtype of the arrays, whose scalars are formed in float64 and cast once.
"""

from __future__ import annotations

import math

import numpy as np


def _quotient(a, d):
    """``a / d``, and 0 where the denominator is zero: such an element does not move."""
    return np.where(d == 0, np.zeros_like(d), a / np.where(d == 0, np.ones_like(d), d))


def adam(p, grads, *, lr, beta1=0.9, beta2=0.999, eps=1e-8, eps_form="paper", amsgrad=False):
    """Algorithm 1 of Kingma & Ba (2015), or the last formula of its section 2 ("hat").

    AMSGrad (Reddi, Kale & Kumar 2018) with the bias corrections of Adam and the maximum of the
    raw second moment. `lr` may be a list, one entry a step. Returns (p, m, v, vmax).
    """
    p = np.array(p, np.float64)
    m, v, vmax = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    for t, gradient in enumerate(grads, 1):
        g = np.asarray(gradient, np.float64)
        alpha = lr[t - 1] if isinstance(lr, list) else lr
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        vmax = np.maximum(vmax, v)
        second = vmax if amsgrad else v
        c1, c2 = 1 - beta1**t, 1 - beta2**t
        if eps_form == "paper":
            p = p - _quotient(alpha * (m / c1), np.sqrt(second / c2) + eps)
        else:
            p = p - _quotient(alpha * math.sqrt(c2) / c1 * m, np.sqrt(second) + eps)
    return p, m, v, vmax


def rmsprop(p, grads, *, lr, beta2=0.99, eps=1e-8):
    """Tieleman & Hinton (2012), lecture 6.5. Returns (p, v)."""
    p = np.array(p, np.float64)
    v = np.zeros_like(p)
    for gradient in grads:
        g = np.asarray(gradient, np.float64)
        v = beta2 * v + (1 - beta2) * g**2
        p = p - _quotient(lr * g, np.sqrt(v) + eps)
    return p, v


def sgd(p, grads, *, lr, momentum=0.0, nesterov=False):
    """Heavy ball (Polyak 1964), and Nesterov's form as Sutskever et al. (2013) and torch write it.

    Returns (p, m).
    """
    p = np.array(p, np.float64)
    m = np.zeros_like(p)
    for gradient in grads:
        g = np.asarray(gradient, np.float64)
        m = momentum * m + g
        p = p - lr * (g + momentum * m if nesterov else m)
    return p, m


def flush(m):
    """What becomes of a first moment below the smallest normal number: zero. NaN stays."""
    return np.where(np.abs(m) < np.finfo(m.dtype).smallest_normal, np.zeros_like(m), m)


def adam_bits(p, g, m, v, t, vmax=None, *, lr, beta1, beta2, eps, eps_form):
    """One step in the dtype of `p`. Returns (p, m, v, vmax).

    The paper's form is multiplied through by sqrt(c2): its eps becomes eps*sqrt(c2).
    """
    cast = p.dtype.type
    root = math.sqrt(1.0 - beta2**t)
    s = cast(lr * root / (1.0 - beta1**t))
    e = cast(eps if eps_form == "hat" else eps * root)
    a1, a2, b1, b2 = cast(1.0 - beta1), cast(1.0 - beta2), cast(beta1), cast(beta2)
    with np.errstate(all="ignore"):
        m = flush(b1 * m + a1 * g)
        v = b2 * v + a2 * (g * g)
        vmax = None if vmax is None else np.maximum(vmax, v)
        p = p - _quotient(s * m, np.sqrt(v if vmax is None else vmax) + e)
    return p, m, v, vmax


def rmsprop_bits(p, g, v, *, lr, beta2, eps):
    """One step in the dtype of `p`. Returns (p, v)."""
    cast = p.dtype.type
    with np.errstate(all="ignore"):
        v = cast(beta2) * v + cast(1.0 - beta2) * (g * g)
        p = p - _quotient(cast(lr) * g, np.sqrt(v) + cast(eps))
    return p, v


def sgd_bits(p, g, m=None, *, lr, momentum=0.0, nesterov=False):
    """One step in the dtype of `p`. Returns (p, m)."""
    cast = p.dtype.type
    with np.errstate(all="ignore"):
        if m is None:
            return p - cast(lr) * g, None
        m = flush(cast(momentum) * m + g)
        return p - cast(lr) * (g + cast(momentum) * m if nesterov else m), m
