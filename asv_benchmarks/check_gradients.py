"""Count false alarms and misses of `check_grad` on random functions with wrong gradients.

    pip install -e ".[test,peers]"
    python asv_benchmarks/check_gradients.py

Each function is a random formula, evaluated in float64 for the check, and with 60 digits for the
truth: its slopes there are differences with a step of 1e-20. The gradient that is checked is the
true one, rounded, times ``1 + delta``, in one element or in all. So what is right is known: a
relative error above the tolerance is wrong. SciPy, torch and JAX check the same pairs where they
are installed, each with the call and the limits of its documentation.
"""

import argparse
import importlib.metadata
import math
import platform
import sys
import warnings
import zlib
from collections import Counter
from pathlib import Path

import mpmath
import numpy as np

import numadam as na

sys.path.insert(0, str(Path(__file__).parents[1]))

DELTAS = (0.0, 1e-8, 1e-6, 1e-3, 1e-2, 0.1, 0.5, 1.0)
DIGITS = 60
STEP = mpmath.mpf("1e-20")
TOLERANCE = 1e-4
#: Formulas of one number, in the functions of `math` or of mpmath.
SHAPES = {
    "sin": lambda m, t: m.sin(t),
    "exp": lambda m, t: m.exp(t / 2),
    "tanh": lambda m, t: m.tanh(t),
    "log": lambda m, t: m.log(1 + m.exp(t)),
    "peak": lambda m, t: 1 / (1 + t * t),
    "root": lambda m, t: m.sqrt(1 + t * t),
    "square": lambda m, t: t * t,
    "cube": lambda m, t: t * t * t - t,
    "atan": lambda m, t: m.atan(t),
    "cosh": lambda m, t: m.cosh(t / 2),
}
CORNERS = {
    "abs": lambda m, t: abs(t),
    "relu": lambda m, t: t if t > 0 else 0 * t,
    "huber": lambda m, t: t * t / 2 if abs(t) < 1 else abs(t) - 0.5,
}


class Formula:
    """A random function of a few numbers: a sum of products of shapes of ``a @ (x / scale) + b``.

    Parameters
    ----------
    rng : numpy.random.Generator
    size : int
        Length of x.
    shapes : dict
        Formulas of one number.
    scale : array
        Unit of each element of x.
    unit, offset : float
        f is ``unit * (terms + offset)``.
    waves : (amplitude, frequency), optional
    """

    def __init__(self, rng, size, shapes=SHAPES, scale=1.0, unit=1.0, offset=0.0, waves=None):
        self.x0 = rng.standard_normal(size) * scale
        self._scale = np.broadcast_to(scale, size)
        self._unit, self._offset, self._waves = unit, offset, waves
        names = list(shapes)
        self._terms = [
            (
                rng.standard_normal(size) / math.sqrt(size),
                rng.standard_normal(),
                shapes[names[rng.integers(len(names))]],
                shapes[names[rng.integers(len(names))]] if rng.random() < 0.3 else None,
            )
            for _ in range(size + 3)
        ]

    def __call__(self, x, m=math, number=float):
        """F in the numbers of `m`."""
        t = [number(one) / number(s) for one, s in zip(x, self._scale, strict=True)]
        total = number(self._offset)
        for weights, shift, outer, inner in self._terms:
            u = number(shift) + sum(number(w) * one for w, one in zip(weights, t, strict=True))
            total += outer(m, inner(m, u) if inner else u)
        if self._waves:
            amplitude, frequency = map(number, self._waves)
            total += amplitude * sum(m.sin(frequency * one) for one in t)
        return number(self._unit) * total

    def gradient(self):
        """The true one, rounded."""
        mpmath.mp.dps = DIGITS
        x = [mpmath.mpf(float(one)) for one in self.x0]
        g = []
        for k in range(len(x)):
            h = STEP * mpmath.mpf(float(self._scale[k]))
            right, left = list(x), list(x)
            right[k] += h
            left[k] -= h
            g.append(
                float((self(right, mpmath, mpmath.mpf) - self(left, mpmath, mpmath.mpf)) / (2 * h))
            )
        return np.array(g)


def noisy(fun, size):
    """`fun` with an error that is the same at every call of one x, as that of a solver."""

    def wrapped(x):
        seed = zlib.crc32(np.asarray(x).tobytes())
        return fun(x) * (1 + size * np.random.default_rng(seed).standard_normal())

    return wrapped


def narrow(fun):
    """`fun` rounded to float32."""
    return lambda x: float(np.float32(fun(np.asarray(x).astype("f4").astype("f8"))))


def units(rng, of_x, of_f):
    """Units of x and f that are up to so many decades from 1."""
    return {"scale": 10 ** rng.uniform(-of_x, of_x), "unit": 10 ** rng.uniform(-of_f, of_f)}


#: By name the options of a formula of n numbers, of a generator.
FAMILIES = {
    "smooth": lambda rng, n: {},
    "any units": lambda rng, n: units(rng, 9, 9),
    "units of 1e-150 to 1e150": lambda rng, n: units(rng, 150, 140),
    "mixed units": lambda rng, n: {"scale": 10 ** rng.uniform(-6, 6, n)},
    "large offset of f": lambda rng, n: {"offset": 10 ** rng.uniform(3, 9)},
    "kinks": lambda rng, n: {"shapes": SHAPES | CORNERS | CORNERS},
    "slow waves": lambda rng, n: {"waves": (10 ** rng.uniform(-6, 0), 10 ** rng.uniform(1, 5))},
    "fast waves": lambda rng, n: {"waves": (10 ** rng.uniform(-8, 0), 10 ** rng.uniform(7, 11))},
    "noise 1e-9 to 1e-3": lambda rng, n: {},
    "f in float32": lambda rng, n: {},
}


def formula_of(family, rng):
    """A function of the family, of 1 to 5 numbers; mixed units need two."""
    size = int(rng.integers(2 if family == "mixed units" else 1, 6))
    return Formula(rng, size, **FAMILIES[family](rng, size))


def wrapped(family, formula, rng):
    """The function that is checked, of float64 numbers."""
    if family.startswith("noise"):
        return noisy(formula, 10 ** rng.uniform(-9, -3))
    return narrow(formula) if family == "f in float32" else formula


def of_numadam(fun, g, x0):
    """The status."""
    return na.check_grad(lambda x: fun(x), x0, jac=lambda x: g).status


def of_scipy(fun, g, x0):
    """Its number is a difference: relative to the gradient, and 1e-4 as the limit."""
    from scipy.optimize import check_grad

    error = check_grad(fun, lambda x: g, x0)
    return "right" if error <= TOLERANCE * np.linalg.norm(g) else "wrong"


def of_torch(fun, g, x0):
    """``gradcheck`` with its defaults, which are for float64 inputs of the size 1."""
    import torch

    class Pair(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.new_tensor(fun(x.detach().numpy()))

        @staticmethod
        def backward(ctx, up):
            return up * torch.from_numpy(g)

    x = torch.tensor(x0, requires_grad=True)
    fine = torch.autograd.gradcheck(Pair.apply, (x,), raise_exception=False)
    return "right" if fine else "wrong"


def of_jax(fun, g, x0):
    """The part of ``check_grads(modes=["rev"])`` that compares."""
    import jax
    from jax.test_util import check_vjp

    jax.config.update("jax_enable_x64", True)

    def f(x):
        return np.float64(fun(np.asarray(x)))

    try:
        check_vjp(f, lambda x: (f(x), lambda up: (np.asarray(up) * g,)), (x0,))
    except AssertionError:
        return "wrong"
    return "right"


CHECKS = {"numadam": of_numadam, "scipy": of_scipy, "torch": of_torch, "jax": of_jax}


def verdict(check, family, seed, delta):
    """One verdict on a gradient with the relative error `delta`."""
    rng = np.random.default_rng(seed)
    formula = formula_of(family, rng)
    g = formula.gradient()
    fun = wrapped(family, formula, rng)
    if rng.random() < 0.5:
        g = g * (1 + delta)
    else:
        g[rng.integers(len(g))] *= 1 + delta
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return CHECKS[check](fun, g, formula.x0.copy())
        except OverflowError:
            return "fails"


def tell(totals):
    """Print what a table comes to."""
    fine = sum((found for delta, found in totals.items() if delta <= TOLERANCE), Counter())
    print(f"\nright gradients: {fine['wrong']} of {fine.total()} called wrong", end="")
    print(f", {fine['unclear']} unclear, {fine['fails']} not checked for an exception")
    for delta, found in totals.items():
        if delta > TOLERANCE:
            print(f"wrong by {delta:g}: {found['right']} of {found.total()} called right", end="")
            print(f", {found['unclear']} unclear, {found['fails']} not checked")


def read_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--functions", type=int, default=40, help="of each family")
    parser.add_argument("--check", action="append", choices=CHECKS)
    parser.add_argument("--family", action="append", choices=FAMILIES)
    parser.add_argument("--show", action="store_true", help="print each verdict that is not true")
    return parser.parse_args()


def main():
    """Run everything that is asked for."""
    asked = read_arguments()
    print(f"Python {platform.python_version()}, NumPy {np.__version__}")
    for check in asked.check or CHECKS:
        print(f"\n{check} {importlib.metadata.version(check)}: right/wrong/unclear")
        print("| family | " + " | ".join(f"{d:g}" for d in DELTAS) + " |")
        print("|---" * (1 + len(DELTAS)) + "|")
        totals = {delta: Counter() for delta in DELTAS}
        for family in asked.family or FAMILIES:
            cells = []
            for delta in DELTAS:
                found = Counter()
                for seed in range(asked.functions):
                    one = verdict(check, family, seed, delta)
                    found[one] += 1
                    false = "right" if delta > TOLERANCE else "wrong"
                    if asked.show and one == false:
                        print(f"  {family}, seed {seed}, delta {delta:g}: {one}")
                totals[delta] += found
                cell = "/".join(str(found[name]) for name in ("right", "wrong", "unclear"))
                cells.append(cell + (f", {found['fails']} fail" if found["fails"] else ""))
            print(f"| {family} | {' | '.join(cells)} |", flush=True)
        tell(totals)


if __name__ == "__main__":
    main()
