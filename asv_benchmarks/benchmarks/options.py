"""A step with each option, and of each rule, against the plain step."""

import functools
import math

import numpy as np

import numadam
from numadam import rules
from numadam._bench import peers
from numadam._core import plan
from numadam._core.parts import parts_of

from .common import Case, Cases, pair, ratio, size, values

_N = 10**7


def box(n):
    """Bounds for each element, a few of which are active."""
    return np.full(n, -3.0, np.float32), np.full(n, 3.0, np.float32)


def rates(n):
    """A step size for each element."""
    return np.full(n, 1e-3, np.float32)


#: Options of Adam by the name of their case; a function is called with the number of elements, and
#: "dtype" is that of the parameters.
OPTIONS = {
    "l2": {"weight_decay": 0.01},
    "decoupled": {"weight_decay": 0.01, "decoupled": True},
    "amsgrad": {"amsgrad": True},
    "amsgrad-vhat": {"amsgrad": "vhat"},
    "nesterov": {"nesterov": True},
    "like-numpy": {"like": "numpy"},
    "like-keras": {"like": "keras"},
    "maximize": {"maximize": True},
    "clip-value": {"clip_value": 0.5},
    "clip-norm": {"clip_norm": 1.0},
    "clip-array-norm": {"clip_array_norm": 1.0},
    "nonfinite-skip": {"nonfinite": "skip"},
    "bounds": {"bounds": (-3.0, 3.0)},
    "bounds-array": {"bounds": box},
    "bounds-clip-norm": {"bounds": (-3.0, 3.0), "clip_norm": 1.0},
    "bounds-array-clip": {"bounds": box, "clip_norm": 1.0},
    "ema": {"ema": 0.999},
    "lr-array": {"lr": rates},
    "complex": {"dtype": "complex64"},
    "complex-modulus": {"dtype": "complex64", "complex_form": "modulus"},
    "many-options": {
        "amsgrad": True,
        "weight_decay": 0.01,
        "decoupled": True,
        "clip_norm": 1.0,
        "bounds": box,
        "ema": 0.999,
        "lr": rates,
    },
}

#: Rules, and options that give a rule other arrays, by the name of their case.
RULES = {
    **{rule.lower(): (rule, {}) for rule in rules.CLASSES.values()},
    "rmsprop-centered": ("RMSprop", {"centered": True}),
    "rmsprop-momentum": ("RMSprop", {"centered": True, "momentum": 0.9}),
    "sgd-momentum": ("SGD", {"momentum": 0.9}),
}


def prepared(n, rule, options):
    """An optimiser of about n real numbers, and a gradient for it."""
    given = {key: value(n) if callable(value) else value for key, value in options.items()}
    dtype = np.dtype(given.pop("dtype", np.float32))

    def numbers(seed):
        reals = values(n, seed=seed)
        return reals.view(dtype) if dtype.kind == "c" else reals.astype(dtype)

    optimizer = getattr(numadam, rule)(numbers(0), **{"lr": 1e-3, **given})
    return optimizer, numbers(1)


def traffic(optimizer):
    """Bytes that a step moves to and from memory, from the arrays that it has."""
    _, settings, backend, _ = parts_of(optimizer)
    its = settings.plan

    def stride(*slots):
        return sum(int(its.stride(slot)) for slot in slots if its.has(slot))

    seen = stride(plan.G, plan.LOW, plan.HIGH)
    each = stride(plan.P, plan.P, plan.RATE) + seen
    each += 2 * stride(plan.S0, plan.S1, plan.S2, plan.AVERAGE)
    if its.norm:
        each += seen + (stride(plan.P) if its.bounds else 0)
    return each * its.unit * sum(param.size for param in backend.params)


def side(n, rule="Adam", options=None):
    """A step with these options over n numbers, and the bytes that it moves."""
    optimizer, grads = prepared(n, rule, options or {})
    return functools.partial(optimizer.step, grads), traffic(optimizer)


def _against_plain(what, rule, options):
    def make():
        (ours, moved), (theirs, plain) = side(size(_N), rule, options), side(size(_N))
        return functools.partial(ratio, ours, theirs, expected=moved / plain)

    return Case(f"{what}, by bytes", 1.1, make)


def element(p, g, gg, m, v, h):
    """Adam's formula, as a user of `numadam.rule` writes it."""
    m = h.beta1 * m + h.alpha1 * g
    v = h.beta2 * v + h.alpha2 * gg
    return h.step * m / (math.sqrt(v) + h.eps), m, v


def scalars(c, q, lr, t):
    root = math.sqrt(1.0 - q.beta2_product)
    step, eps = lr * root / (1.0 - q.beta1_product), c.eps * root
    alpha1, alpha2 = 1.0 - c.beta1, 1.0 - c.beta2
    # a display would not compile: `dict` is a class of named tuples here
    return dict(beta1=c.beta1, beta2=c.beta2, step=step, eps=eps, alpha1=alpha1, alpha2=alpha2)  # noqa: C408


def own_rule(n, dtype):
    """A step of Adam as a user's rule, and one of ours."""
    hypers = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    names = {"state": ("m", "v"), "powers": ("beta1", "beta2")}
    rule = numadam.rule("Adam", element, scalars, hypers=hypers, **names)
    grads = values(n, dtype, seed=1)
    optimizers = [make(values(n, dtype), lr=1e-3) for make in (rule, numadam.Adam)]
    return functools.partial(ratio, *(functools.partial(each.step, grads) for each in optimizers))


def idle(n, steps=5000):
    """A step with zero gradients after as many of them, when the moments have decayed."""
    optimizer, grads = prepared(n, "Adam", {})
    zeros = np.zeros_like(grads)
    for k in range(10 + steps):
        optimizer.step(grads if k < 10 else zeros)
    return functools.partial(optimizer.step, zeros)


def embedding(rows, width, share, count="step"):
    """A lazy step that touches a share of the rows, and the dense step of all."""
    rng = np.random.default_rng(0)
    touched = np.sort(rng.choice(rows, round(share * rows), replace=False))
    table, every = (peers.values(rows * width, seed=k).reshape(rows, width) for k in (0, 1))
    lazy = numadam.Adam(table, lr=1e-3, sparse="lazy", count=count)
    dense = numadam.Adam(table.copy(), lr=1e-3)
    if count == "row":
        lazy.state["row_counts"] = rng.integers(0, 1000, rows)
    some = numadam.Rows(touched, every[touched])
    return functools.partial(lazy.step, some), functools.partial(dense.step, every)


class ByBytes(Cases):
    """Ratio of times, divided by the ratio of the bytes that the two steps move."""

    cases = {
        **{
            f"{name}-10M": _against_plain(f"a step with {name} / plain", "Adam", options)
            for name, options in OPTIONS.items()
        },
        **{
            f"rule-{name}-10M": _against_plain(
                f"a step of {name if options else rule} / Adam", rule, options
            )
            for name, (rule, options) in RULES.items()
            if name != "adam"
        },
    }
    track_ratio = Cases.value


class Targets(Cases):
    cases = {
        **{
            f"own-rule-{text}-{dtype}": Case(
                f"a step of {text} {dtype} of Adam by numadam.rule / numadam.Adam",
                1.02,
                functools.partial(own_rule, n, dtype),
            )
            for text, n in {"1000": 1000, "100k": 10**5, "10M": 10**7}.items()
            for dtype in ("float32", "float64")
        },
        "idle-1M": Case(
            "a step after 5000 zero gradients / one with random ones",
            1.1,
            pair(lambda: idle(size(10**6)), lambda: side(size(10**6))[0]),
        ),
        "lazy-rows": Case(
            "a lazy step touching 1 % of 1M x 64 rows / the dense step",
            0.05,
            lambda: functools.partial(ratio, *embedding(size(10**6), 64, 0.01)),
            memory=8,
        ),
        "lazy-rows-counted": Case(
            "the same where the rows have 1,000 different counts of steps / the dense step",
            0.08,
            lambda: functools.partial(ratio, *embedding(size(10**6), 64, 0.01, "row")),
            memory=8,
        ),
    }
    track_ratio = Cases.value
