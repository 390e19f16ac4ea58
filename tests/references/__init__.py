"""Every rule over a whole list of gradients in float64, as its paper writes it: a file each.

Nothing in these files comes from numadam, so that a mistake is not made twice. ``steps(p, grads,
*, lr, ..., **decay)`` takes in `decay` also `weight_decay` and `decoupled`, `lr` is a number or a
list with one entry a step, and the result is (p, state). The decay comes first in a step:
decoupled, ``p *= 1 - lr*wd`` (Loshchilov & Hutter 2019), or L2, ``g += wd*p``.

`VARIANTS` in a file has one set of options for each formula that the rule can compile; without
it there is one formula, that of the defaults.
"""

from __future__ import annotations

from importlib import import_module

import numpy as np


def quotient(a, d):
    """``a / d``, and 0 where the denominator is zero: such an element does not move."""
    return np.where(d == 0, 0.0, a / np.where(d == 0, 1.0, d))


def zeros(p, number):
    """`p` in float64, and arrays of zeros beside it."""
    p = np.array(p, np.float64)
    return p, *(np.zeros_like(p) for _ in range(number))


def enter(p, gradient, lr, t, weight_decay=0.0, decoupled=False):
    """The beginning of every step: (p, g, lr of this step) after the decay."""
    g = np.array(gradient, np.float64)
    alpha = lr[t - 1] if isinstance(lr, list) else lr
    if decoupled:
        return p * (1 - alpha * weight_decay), g, alpha
    return p, g + weight_decay * p, alpha


def steps(rule):
    """The reference of a rule, by its name in lower case."""
    return import_module(f"{__name__}.{rule}").steps


def variants(rule):
    """One set of options for each compiled formula of a rule."""
    return getattr(import_module(f"{__name__}.{rule}"), "VARIANTS", [{}])
