"""Work of a step around a rule, in plain NumPy: every option, in the documented order.

Nothing here comes from numadam, and nothing is fast: `Steps` is Adam with lists of arrays, where
each option stands in a line of its own.
"""

from __future__ import annotations

import math

import numpy as np

DEFAULTS = {
    "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "maximize": False,
    "weight_decay": 0.0, "decoupled": False, "decay_times_lr": True,
    "clip_value": None, "clip_norm": None, "clip_array_norm": None, "margin": 0.0,
    "bounds": (None, None), "ema": None, "ema_warmup": False,
    "ema_debias": False,
}  # fmt: skip


def norm(arrays):
    """The Euclidean norm of all of them together, exactly rounded sums in float64."""
    parts = [part for a in arrays for part in (np.real(a), np.imag(a))]
    return math.sqrt(math.fsum(float(x) ** 2 for part in parts for x in np.ravel(part)))


def within(x, pair):
    lo, hi = (-np.inf if pair[0] is None else pair[0], np.inf if pair[1] is None else pair[1])
    return np.minimum(np.maximum(x, lo), hi)


def inside(g, x, pair):
    """The gradient, but 0 where it would push x out of an active bound (steps go against it)."""
    lo, hi = (-np.inf if pair[0] is None else pair[0], np.inf if pair[1] is None else pair[1])
    return np.where(((x <= lo) & (g > 0)) | ((x >= hi) & (g < 0)), 0.0, g)


class Steps:
    """Adam in float64 over a list of arrays.

    `lr`, `weight_decay` and `bounds` may be lists with an entry for each array; every
    hyperparameter may be a callable of the steps taken.
    """

    def __init__(self, params, **options):
        self._options = {**DEFAULTS, **options}
        count = len(params)
        self.p = [
            within(np.array(x, np.float64), self._of("bounds", k)) for k, x in enumerate(params)
        ]
        self.m = [np.zeros_like(x) for x in self.p]
        self.v = [np.zeros_like(x) for x in self.p]
        debiased = self._options["ema_debias"]
        self.average = [np.zeros_like(x) if debiased else x.copy() for x in self.p]
        self.t, self.norm = 0, math.nan
        self.product1 = self.product2 = self.product_ema = 1.0
        self.norms = [math.nan] * count

    def _of(self, name, k=0):
        """The value of an option now, for array k."""
        value = self._options[name]
        value = value[k] if isinstance(value, list) else value
        return value(self.t) if callable(value) else value

    def step(self, grads):
        sign = -1.0 if self._of("maximize") else 1.0
        grads = [sign * np.array(g, np.float64) for g in grads]
        pairs = [self._of("bounds", k) for k in range(len(self.p))]
        grads = [inside(g, x, pair) for g, x, pair in zip(grads, self.p, pairs, strict=True)]
        self.norm, self.norms = norm(grads), [norm([g]) for g in grads]
        grads = self._clipped(grads)
        b1, b2 = self._of("beta1"), self._of("beta2")
        self.product1, self.product2 = self.product1 * b1, self.product2 * b2
        for k, g in enumerate(grads):
            self._one(k, g, b1, b2)
        self._follow()
        self.t += 1

    def _clipped(self, grads):
        value, limit = self._of("clip_value"), self._of("clip_norm")
        each, margin = self._of("clip_array_norm"), self._of("margin")
        if value is not None:
            grads = [np.clip(g, -value, value) for g in grads]
        for k, own in enumerate(self.norms):
            size, most = (self.norm, limit) if each is None else (own, each)
            if most is not None and size + margin > most:
                grads[k] = grads[k] * (most / (size + margin))
        return grads

    def _one(self, k, g, b1, b2):
        x, lr, decay = self.p[k], self._of("lr", k), self._of("weight_decay", k)
        lost = 0.0
        if not self._of("decoupled"):
            g = g + decay * x
        else:
            lost = decay * (lr if self._of("decay_times_lr") else 1.0)
        self.m[k] = b1 * self.m[k] + (1 - b1) * g
        self.v[k] = b2 * self.v[k] + (1 - b2) * g**2
        first = self.m[k] / (1 - self.product1)
        root = np.sqrt(self.v[k] / (1 - self.product2)) + self._of("eps")
        step = np.where(root == 0, 0.0, first / np.where(root == 0, 1.0, root))
        self.p[k] = within(x - lr * step - lost * x, self._of("bounds", k))

    def _follow(self):
        ema, number = self._of("ema"), self.t + 1
        if ema is None:
            return
        if self._of("ema_warmup"):
            ema = min(ema, (1 + number) / (10 + number))
        self.product_ema *= ema
        for k, x in enumerate(self.p):
            self.average[k] = ema * self.average[k] + (1 - ema) * x

    @property
    def averaged(self):
        scale = 1 - self.product_ema if self._of("ema_debias") else 1.0
        return [a / scale for a in self.average]
