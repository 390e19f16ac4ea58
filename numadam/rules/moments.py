"""Adam's arithmetic: the formula on one element and the scalars of one step. Kin rules share it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numba.extending import register_jitable

from numadam._core.rule import Scalars


def adam_formula(lerp: bool, textbook: bool, nesterov: bool, vhat: bool) -> Callable[..., Any]:
    """M = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;  step = s m / (sqrt(v) + e).

    Parameters
    ----------
    lerp : bool
        Moments as m + (1 - beta1)(g - m): other roundings (Keras, TensorFlow 1).
    textbook : bool
        Divide by the corrections element by element (the usual NumPy expression).
    nesterov : bool
        The numerator looks ahead: s m + look g.
    vhat : bool
        AMSGrad's maximum is that of the corrected v (optax).
    """

    def element(p, g, gg, m, v, vmax, h):
        beta1, alpha1, beta2, alpha2, s, e, root_e, c1, c2, look, tiny, zero = h
        if lerp:
            m = m + (g - m) * alpha1
            v = v + (gg - v) * alpha2
        else:
            m = beta1 * m + alpha1 * g
            v = beta2 * v + alpha2 * gg
        if abs(m) < tiny:  # a denormal m would slow the CPU down for ever; NaN stays
            m = zero
        u = v / c2 if vhat else v
        if vmax is not None:
            if not vmax >= u:  # also where v is NaN
                vmax = u
            u = vmax
        if textbook and not vhat:
            u = u / c2
        d = math.sqrt(u + root_e) + e
        if nesterov:
            n = s * m + look * g
        elif textbook:
            n = s * (m / c1)
        else:
            n = s * m
        step = n / d if d != zero else zero
        return step, m, v, vmax

    return element


# places in Adam's control block after beta1, beta2 and the two eps
HAT, CORRECTED, VHAT, TEXTBOOK, NESTEROV = range(4, 9)


@register_jitable
def f32(x):
    """Round to float32, and go on in float64 (`float` of a float32 is one for Numba)."""
    return np.float64(np.float32(x))


def changing(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The powers of the betas as running products, where the betas change and have no powers."""
    callables = callable(options["beta1"]) or callable(options["beta2"])
    return ("beta1_product", "beta2_product") if callables else ()


@register_jitable
def to_power(beta, t):
    """beta^t; 0 where ``1 - beta^t`` is 1 anyway: beta^t < exp(-(1 - beta) t) < exp(-60).

    `math.pow` takes 16 ns, and 40 where it underflows.
    """
    return 0.0 if (1.0 - beta) * t > 60.0 else math.pow(beta, t)


@register_jitable
def powers(c, q, t):
    """beta1^t and beta2^t; the betas are the first two hyperparameters."""
    if len(q) > 0:
        return q[0] * c[0], q[1] * c[1]
    return to_power(c[0], t), to_power(c[1], t)


def advance(c: Any, q: Any, t: float, single: float) -> Scalars:
    """The products of betas that change."""
    return q[0] * c[0], q[1] * c[1]


def adam_scalars(c: Any, q: Any, lr: float, t: float, single: float) -> Scalars:
    """Bias corrections folded into three scalars, the same formula for both eps forms.

    The paper's (m/c1) / (sqrt(v/c2 + eps_root) + eps), multiplied through by sqrt(c2), has
    eps*sqrt(c2) and eps_root*c2 where the hat form has eps and eps_root.
    """
    beta1, beta2, e, root_e = c[0], c[1], c[2], c[3]
    c1 = c2 = c1_next = 1.0
    if c[CORRECTED] != 0.0:
        power1, power2 = powers(c, q, t)
        c1, c2, c1_next = 1.0 - power1, 1.0 - power2, 1.0 - power1 * beta1
    root = math.sqrt(c2)
    s = lr * root / c1
    if c[TEXTBOOK] != 0.0:
        s, root = lr, 1.0
    elif c[VHAT] != 0.0:
        s, root = lr / c1, 1.0
    elif c[HAT] == 0.0:
        e, root_e = e * root, root_e * c2
    look = 0.0
    if c[NESTEROV] != 0.0:
        s, look = lr * root * beta1 / c1_next, lr * root * (1.0 - beta1) / c1
    return beta1, 1.0 - beta1, beta2, 1.0 - beta2, s, e, root_e, c1, c2, look


@register_jitable
def _as_keras(b1, a1, b2, a2, c1, c2, lr, e, root_e, nesterov, single):
    """The scalars of the hat form, with every operation rounded where the arrays are float32."""
    root = math.sqrt(c2)
    s = f32(f32(f32(lr) * f32(root)) / c1) if single != 0.0 else lr * root / c1
    if nesterov != 0.0:  # TensorFlow's kernel corrects both terms alike
        return b1, a1, b2, a2, s * b1, e, root_e, c1, c2, s * a1
    return b1, a1, b2, a2, s, e, root_e, c1, c2, 0.0


def keras_scalars(c: Any, q: Any, lr: float, t: float, single: float) -> Any:
    """Keras takes the powers of betas that were rounded to float32; 1 - beta is exact."""
    b1, b2 = c[0], c[1]
    if len(q) > 0:
        p1, p2 = powers(c, q, t)
    else:
        p1, p2 = to_power(f32(b1), t), to_power(f32(b2), t)
    c1, c2 = 1.0 - p1, 1.0 - p2
    if single != 0.0:
        c1, c2 = f32(1.0 - f32(p1)), f32(1.0 - f32(p2))
    if c[CORRECTED] == 0.0:
        c1 = c2 = 1.0
    return _as_keras(b1, 1.0 - b1, b2, 1.0 - b2, c1, c2, lr, c[2], c[3], c[NESTEROV], single)


def tf1_scalars(c: Any, q: Any, lr: float, t: float, single: float) -> Any:
    """TensorFlow 1 holds all hyperparameters in float32, and the powers as running products."""
    b1, b2 = f32(c[0]), f32(c[1])
    c1, c2 = 1.0 - f32(q[0] * b1), 1.0 - f32(q[1] * b2)
    a1, a2 = 1.0 - b1, 1.0 - b2
    if single != 0.0:
        c1, c2, a1, a2 = f32(c1), f32(c2), f32(a1), f32(a2)
    if c[CORRECTED] == 0.0:
        c1 = c2 = 1.0
    return _as_keras(b1, a1, b2, a2, c1, c2, f32(lr), f32(c[2]), c[3], c[NESTEROV], single)


def tf1_advance(c: Any, q: Any, t: float, single: float) -> Scalars:
    """The products of the betas in float32, as TensorFlow 1 carries them."""
    return f32(q[0] * f32(c[0])), f32(q[1] * f32(c[1]))
