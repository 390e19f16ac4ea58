"""Adam, RMSprop and SGD as NumPy expressions to the bit, and gradients of every size."""

from __future__ import annotations

import numpy as np

import numadam as na
from tests import reference as ref

DTYPES = ["float32", "float64"]
STEPS = 50
#: Those of them after which denormal numbers of m and v become 0, where an eps hides that.
SETTLED = {34}


def _run(rule, step, arrays, options):
    """``make(p, lr)``, and one step in ``bits(p, g, t, state, lr)``."""

    def make(p, lr):
        return rule(p, lr=lr, **options)

    def bits(p, g, t, s, lr):
        state = [s.setdefault(name, np.zeros_like(p)) for name in arrays]
        p, *state = step(p, g, t, *state, lr=lr, **options)
        if t in SETTLED and options.get("eps", 1.0) > 0.0:
            for name, moment in zip(arrays, state, strict=False):
                if name in ("m", "v"):
                    moment[abs(moment) < np.finfo(moment.dtype).smallest_normal] = 0.0
        s.update(zip(arrays, state, strict=False))
        return p

    return make, bits


def _adam(**options):
    options = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "eps_form": "paper"} | options

    def step(p, g, t, m, v, vmax=None, *, amsgrad=False, **options):
        return ref.adam_bits(p, g, m, v, t, vmax, **options)

    return _run(na.Adam, step, ["m", "v"] + ["vmax"] * ("amsgrad" in options), options)


def _rmsprop(**options):
    options = {"beta2": 0.99, "eps": 1e-8} | options
    return _run(na.RMSprop, lambda p, g, t, v, **o: ref.rmsprop_bits(p, g, v, **o), ["v"], options)


def _sgd(**options):
    def step(p, g, t, m=None, **options):
        return ref.sgd_bits(p, g, m, **options)

    return _run(na.SGD, step, ["m"] * bool(options), options)


#: every rule and option that the tests run: name, then (rule, options)
OPTIONS = {
    "adam paper": ("adam", {}),
    "adam paper eps": ("adam", {"eps": 1e-3, "beta1": 0.8, "beta2": 0.95}),
    "adam paper amsgrad": ("adam", {"amsgrad": True}),
    "adam paper no betas": ("adam", {"beta1": 0.0, "beta2": 0.0}),
    "adam paper eps 0": ("adam", {"eps": 0.0}),
    "adam hat": ("adam", {"eps_form": "hat"}),
    "adam hat eps": ("adam", {"eps_form": "hat", "eps": 1e-3, "beta1": 0.5, "beta2": 0.9}),
    "adam hat amsgrad": ("adam", {"eps_form": "hat", "amsgrad": True}),
    "adam hat beta2 1": ("adam", {"eps_form": "hat", "beta2": 1.0}),
    "adam hat eps 0": ("adam", {"eps_form": "hat", "eps": 0.0}),
    "rmsprop": ("rmsprop", {}),
    "rmsprop eps": ("rmsprop", {"beta2": 0.9, "eps": 1e-3}),
    "rmsprop eps 0": ("rmsprop", {"eps": 0.0}),
    "sgd": ("sgd", {}),
    "sgd momentum": ("sgd", {"momentum": 0.9}),
    "sgd nesterov": ("sgd", {"momentum": 0.9, "nesterov": True}),
}
#: name: (make(p, lr), one step in bits(p, g, t, state, lr))
RULES = {
    name: {"adam": _adam, "rmsprop": _rmsprop, "sgd": _sgd}[rule](**options)
    for name, (rule, options) in OPTIONS.items()
}


def bits_of(a):
    """The bits of an array, every NaN alike (which of two NaN survives, no standard says)."""
    if a.dtype.kind == "f":
        a = np.where(np.isnan(a), np.full_like(a, np.nan), a)
    return np.ascontiguousarray(a).view(f"u{a.itemsize}")


def assert_same_bits(a, b, what=""):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    np.testing.assert_array_equal(bits_of(a), bits_of(b), err_msg=what)


def gradients(dtype, n=300):
    """Gradients of every size: whole zero rows, zero and -0.0 columns, tiny, huge."""
    rng = np.random.default_rng(5)
    grads = rng.standard_normal((STEPS, n)) * 10.0 ** rng.uniform(-4, 2, n)
    grads[:, 0] = 0.0
    grads[:, 1] = -0.0
    grads[1:, 2] = 0.0  # one gradient, then none for ever
    grads[:, 3] = np.where(rng.random(STEPS) < 0.1, 1.0, 0.0)
    grads[7] = 0.0
    info = np.finfo(dtype)
    grads[:, 4] *= float(info.smallest_normal) ** 0.5  # squares are denormal
    grads[:, 5] = float(info.smallest_subnormal)
    grads[:, 6] = float(info.max) ** 0.5 / 16  # squares nearly overflow
    return grads.astype(dtype)


def extremes(dtype):
    """Gradients that overflow, and numbers that are none."""
    info = np.finfo(dtype)
    values = [np.inf, -np.inf, np.nan, info.max, -info.max, info.smallest_normal]
    values += [info.smallest_subnormal, -info.smallest_subnormal, 0.0, -0.0, 1.0, -1e-3]
    pairs = np.array([(a, b) for a in values for b in values], dtype).T  # every one after every one
    rng = np.random.default_rng(6)
    more = rng.choice(np.array(values, dtype), (STEPS - 2, pairs.shape[1]))
    return np.concatenate([pairs, more])


def starts(dtype, n):
    p = np.random.default_rng(7).standard_normal(n).astype(dtype)
    p[: min(n, 2)] = [0.0, -0.0][: min(n, 2)]
    return p


#: one of each number of state arrays
KERNELS = ["adam paper amsgrad", "rmsprop", "sgd"]
#: the other formulas, and both eps forms, for sweeps
OTHERS = ["adam paper", "adam hat", "sgd momentum", "sgd nesterov"]
