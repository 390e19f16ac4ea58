"""Rules in plain NumPy, as numadam promises them bit for bit: nothing here comes from numadam.

Each function is one step in the dtype of the arrays, whose scalars are formed in float64 and cast
once. The rules as their papers write them are in tests/references.
"""

from __future__ import annotations

import math

import numpy as np


def _quotient(a, d):
    """``a / d``, and 0 where the denominator is zero: such an element does not move."""
    return np.where(d == 0, np.zeros_like(d), a / np.where(d == 0, np.ones_like(d), d))


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
