"""Rules in plain NumPy, as numadam promises them bit for bit: nothing here comes from numadam.

Each function is one step in the dtype of the arrays, whose scalars are formed in float64 and cast
once; `emulated` are all steps as another library takes them. The rules as their papers write them
are in tests/references.
"""

from __future__ import annotations

import math

import numpy as np


def _quotient(a, d):
    """``a / d``, and 0 where the denominator is zero: such an element does not move."""
    return np.where(d == 0, np.zeros_like(d), a / np.where(d == 0, np.ones_like(d), d))


def _term(factor, a):
    """``factor * a``; a factor of 0 is no term, also where `a` is infinite."""
    return factor * a if factor != 0.0 else np.zeros_like(a)


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
        m = b1 * m + a1 * g
        v = _term(b2, v) + _term(a2, g * g)
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
        m = cast(momentum) * m + g
        return p - cast(lr) * (g + cast(momentum) * m if nesterov else m), m


# --- the presets, as the libraries write them -----------------------------------------------------

F32 = np.float32


def classic(like, t, lr, b1, b2, eps, cast):
    """NumPy codes: everything in float64 and rounded once."""
    c1, c2 = 1.0 - b1**t, 1.0 - b2**t
    s = lr if like in ("numpy", "quimb") else lr * math.sqrt(c2) / c1
    return [cast(x) for x in (1.0 - b1, 1.0 - b2, c1, c2, s, eps)]


def tensorflow(like, t, lr, b1, b2, eps, cast):
    """Keras 3 on JAX and TF1: which of it is in float32 (a1, a2, c1, c2, alpha, eps)."""
    if like != "tf1":
        a1, a2 = cast(1.0 - b1), cast(1.0 - b2)
        c1, c2 = (cast(1) - cast(math.pow(float(cast(b)), t)) for b in (b1, b2))
    else:
        lr, b1, b2, eps = F32(lr), F32(b1), F32(b2), F32(eps)
        a1, a2 = cast(1) - cast(b1), cast(1) - cast(b2)
        c1, c2 = (cast(1) - cast(np.multiply.reduce(np.full(t, b))) for b in (b1, b2))
    return a1, a2, c1, c2, cast(lr) * np.sqrt(c2) / c1, cast(eps)


def emulated(like, p, grads, amsgrad=False, lr=1e-3, b1=0.9, b2=0.999, eps=1e-8, root=0.0):
    """(p, m, v, vmax) after every step, by a library's NumPy expression; lr may depend on t."""
    cast = p.dtype.type
    m, v, vmax = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    form = tensorflow if like in ("keras", "keras-jax", "tf1") else classic
    for t, g in enumerate(grads, 1):
        rate = lr(t) if callable(lr) else lr
        a1, a2, c1, c2, s, e = form(like, t, rate, b1, b2, eps, cast)
        if form is tensorflow:
            m, v = m + (g - m) * a1, v + (g * g - v) * a2
        else:
            m, v = cast(b1) * m + a1 * g, cast(b2) * v
            v = v + (a2 * g * g if like == "qiskit" else a2 * (g * g))
        vmax = np.maximum(vmax, v)
        u = vmax if amsgrad else v
        if like == "numpy":
            p = p - (s * (m / c1)) / (np.sqrt(u / c2 + cast(root)) + e)
        elif like == "quimb":
            p = p - s * ((m / c1) / (np.sqrt(u / c2) + e))
        else:
            p = p - (m * s) / (np.sqrt(u) + e)
        yield p, m, v, vmax
