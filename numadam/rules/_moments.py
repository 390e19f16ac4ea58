"""Adam's arithmetic: the formula on one element and the scalars of one step. Kin rules share it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numadam._core.rule import Scalars
from numadam._core.scalars import f32

# --- the momentum buffer of rules that have one only where `momentum` is not 0 -------------------


def refuse_lone_buffer(m: Any, momentum: float) -> None:
    """Refuse a buffer `m` without momentum, and momentum without one, in an update function."""
    if (m is None) != (momentum == 0.0):
        raise ValueError(
            "m: a momentum buffer is needed where momentum is not 0, and only there; "
            f"got momentum={momentum!r} and m {'missing' if m is None else 'given'}."
        )


# --- Adam's arithmetic ---------------------------------------------------------------------------
# A factor of 0 is no memory at all. Where finite gradients may have made a moment infinite, its
# term is a choice, in every rule: 0 times infinity is NaN.


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
        if lerp:
            m = m + (g - m) * h.alpha1
            v = v + (gg - v) * h.alpha2
        else:
            m = h.beta1 * m + h.alpha1 * g
            v = h.beta2 * v if h.beta2 != h.zero else h.zero
            if h.alpha2 != h.zero:
                v = v + h.alpha2 * gg
        u = v / h.c2 if vhat else v
        if vmax is not None:
            if not vmax >= u:  # also where v is NaN
                vmax = u
            u = vmax
        if textbook and not vhat:
            u = u / h.c2
        d = math.sqrt(u + h.root_e) + h.e
        if nesterov:
            n = h.s * m + h.look * g
        elif textbook:
            n = h.s * (m / h.c1)
        else:
            n = h.s * m
        step = n / d if d != h.zero else h.zero
        return step, m, v, vmax

    return element


def adam_scalars(c: Any, q: Any, lr: float, t: float) -> Scalars:
    """Bias corrections folded into three scalars, the same formula for both eps forms.

    The paper's (m/c1) / (sqrt(v/c2 + eps_root) + eps), multiplied through by sqrt(c2), has
    eps*sqrt(c2) and eps_root*c2 where the hat form has eps and eps_root.
    """
    c1 = c2 = c1_next = 1.0
    if c.corrected != 0.0:
        c1, c2 = 1.0 - q.beta1_product, 1.0 - q.beta2_product
        c1_next = 1.0 - q.beta1_product * c.beta1
    root = math.sqrt(c2)
    s, e, root_e, look = lr * root / c1, c.eps, c.eps_root, 0.0
    if c.textbook != 0.0:
        s, root = lr, 1.0
    elif c.vhat != 0.0:
        s, root = lr / c1, 1.0
    elif c.hat == 0.0:
        e, root_e = e * root, root_e * c2
    if c.nesterov != 0.0:
        s, look = lr * root * c.beta1 / c1_next, lr * root * (1.0 - c.beta1) / c1
    return dict(
        beta1=c.beta1,
        alpha1=1.0 - c.beta1,
        beta2=c.beta2,
        alpha2=1.0 - c.beta2,
        s=s,  # the step size, with the corrections that are folded into it
        e=e,  # eps, beside the root
        root_e=root_e,  # eps_root, under the root
        c1=c1,  # the bias corrections 1 - beta^t
        c2=c2,
        look=look,  # share of the gradient in a numerator that looks ahead
    )


def tf1_scalars(is_float32: bool) -> Callable[..., Scalars]:
    """The hat form of TensorFlow 1, which rounds on the way.

    It holds all hyperparameters in float32, and the powers as running products; every operation is
    as the arrays are.
    """

    def scalars(c, q, lr, t):
        b1, b2, eps, lr = f32(c.beta1), f32(c.beta2), f32(c.eps), f32(lr)
        a1, a2, c1, c2 = 1.0 - b1, 1.0 - b2, 1.0 - q.beta1_product, 1.0 - q.beta2_product
        if is_float32:
            a1, a2, c1, c2 = f32(a1), f32(a2), f32(c1), f32(c2)
        if c.corrected == 0.0:
            c1 = c2 = 1.0
        root, look = math.sqrt(c2), 0.0
        s = f32(f32(f32(lr) * f32(root)) / c1) if is_float32 else lr * root / c1
        if c.nesterov != 0.0:  # TensorFlow's kernel corrects both terms alike
            s, look = s * b1, s * a1
        return dict(
            beta1=b1,
            alpha1=a1,
            beta2=b2,
            alpha2=a2,
            s=s,
            e=eps,
            root_e=c.eps_root,
            c1=c1,
            c2=c2,
            look=look,
        )

    return scalars


def tf1_advance(c: Any, q: Any, t: float) -> Scalars:
    """The products of the betas in float32, as TensorFlow 1 carries them."""
    return dict(
        beta1_product=f32(q.beta1_product * f32(c.beta1)),
        beta2_product=f32(q.beta2_product * f32(c.beta2)),
    )


def amsgrad_by_array(arguments: dict[str, Any], options: dict[str, Any]) -> None:
    """Take AMSGrad where its array is given."""
    if arguments["vmax"] is not None and options["amsgrad"] is False:
        options["amsgrad"] = True
