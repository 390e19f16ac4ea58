"""minimize and minimize_many against NumPy and JAX, their overhead, and their first call."""

import functools
import time
from statistics import median

import numba
import numpy as np
from scipy.optimize import least_squares

import numadam
from numadam._bench import peers
from numadam._bench.measure import timed

from .common import Case, Cases, Figure, counted, pair, run_python, size
from .sides import START, VALLEY_LR, minimize, numpy_loop, rosen

_JAX = ("jax", "optax")
_OFF = {"gtol": 0, "ftol": 0, "xtol": 0, "track_best": False, "history": False}
#: A minimisation whose objective no process has seen before, after all imports.
_FIRST_MANY = """
import time
import numba
import numpy as np
from numadam import minimize_many

@numba.njit
def fun(x, g):
    a, b = x[1] - x[0] * x[0], {new:.17g} - x[0]
    g[0], g[1] = -400.0 * a * x[0] - 2.0 * b, 200.0 * a
    return 100.0 * a * a + b * b

start = time.monotonic()
minimize_many(fun, np.zeros((1000, 2)), maxiter=10)
print(time.monotonic() - start)
"""


def valley(x):
    """Rosenbrock's valley in any number of dimensions."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def jax_loop(iterations, x0=START):
    """JAX's fori_loop with optax's Adam in the valley, in float64: one problem, or many by vmap.

    No stop tests.
    """
    peers.need(*_JAX)
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)
    optimizer = optax.adam(VALLEY_LR)

    def solve(x):
        def body(_, carry):
            x, state = carry
            updates, state = optimizer.update(jax.grad(valley)(x), state, x)
            return optax.apply_updates(x, updates), state

        return jax.lax.fori_loop(0, iterations, body, (x, optimizer.init(x)))[0]

    run = jax.jit(solve if np.ndim(x0) == 1 else jax.vmap(solve))
    x0 = jax.numpy.asarray(x0)
    return lambda: run(x0).block_until_ready()


def starts(problems, low=-2.0):
    """Random starts around the valley."""
    return np.random.default_rng(0).uniform(low, 2, (problems, 2))


def many(problems, iterations):
    """Many problems at once."""
    return functools.partial(
        numadam.minimize_many, rosen, starts(problems), lr=VALLEY_LR, gtol=0.0, maxiter=iterations
    )


@numba.njit
def bowl(x, g, i, scale):
    """A parabola whose steepness decides how long it takes: 100 to 1000 iterations."""
    g[0], g[1] = scale[i] * x[0], scale[i] * x[1]
    return 0.5 * scale[i] * (x[0] * x[0] + x[1] * x[1])


def many_stops(problems):
    """Problems that stop by themselves after some 100 to 1000 iterations."""
    x0, scale = np.random.default_rng(0).uniform(0.2, 3.0, (problems, 2)), np.ones(problems)
    return functools.partial(
        numadam.minimize_many, bowl, x0, (scale,), lr=VALLEY_LR, gtol=1e-2, maxiter=1000
    )


_TIMES = np.linspace(0.0, 5.0, 30)
_DECAYS = np.exp(-np.linspace(0.3, 2.0, size(10_000))[:, None] * _TIMES)


@numba.njit
def decay(x, r, J, i, t, y):
    for k in range(t.size):
        J[k, 0] = np.exp(-x[1] * t[k])
        r[k], J[k, 1] = x[0] * J[k, 0] - y[i, k], -x[0] * t[k] * J[k, 0]


def fits():
    """A decay of 30 points for each row, by Levenberg-Marquardt."""
    x0, args = np.ones((len(_DECAYS), 2)), (_TIMES, _DECAYS)
    return lambda: numadam.least_squares_many(decay, x0, args, m=30, jac=True)


def scipy_fits():
    """A hundredth of them, one after another, by SciPy on NumPy arrays."""
    args = [(_TIMES, y[None]) for y in _DECAYS[::100]]

    def fun(x, t, y):
        return x[0] * np.exp(-x[1] * t) - y[0]

    def jac(x, t, y):
        return np.exp(-x[1] * t)[:, None] * np.stack([t * 0 + 1, -x[0] * t], axis=1)

    return lambda: [least_squares(fun, [1, 1], jac, method="lm", args=one) for one in args]


def calls_of_fun(pairs):
    """Calls of fun where a callback reads x alone, counted once: they do not vary."""
    seen = []

    def fun(x):
        return 0.5 * float(x @ x)

    result = numadam.minimize(fun, [1.0, 2.0], jac=np.copy, callback=seen.append, maxiter=300)
    return Figure(float(result.nfev))


def overhead(pairs):
    """An iteration of the loop in Python beyond its objective / a NumPy Adam update, n = 10."""
    g, update = np.ones(10), peers.numpy_adam(10, np.float64)

    def fun(x):
        return 1.0, g

    def run():
        numadam.minimize(fun, np.zeros(10), jac=True, gtol=1e-9, maxiter=5_000)

    evaluate, ours, theirs = functools.partial(fun, g), [], []
    for k in range(1 + pairs):
        whole, bare, other = (
            timed(side, count) / 5_000
            for side, count in ((run, 1), (evaluate, 5_000), (update, 5_000))
        )
        if k > 0:  # the first round warms up
            ours.append(whole - bare)
            theirs.append(other)
    value = median(a / b for a, b in zip(ours, theirs, strict=True))
    return Figure(value, median(ours), median(theirs))


def cost_of_one_more(pairs):
    """Seconds that one more problem takes at 10^6 problems / at 10^3.

    It is the time of twice as many problems less that of these, over their number: what a call
    costs by itself is not in it.
    """
    sizes = size(1_000), size(1_000_000)
    sides = [(many(n, 200), many(2 * n, 200)) for n in sizes]
    times = [[], []]
    for k in range(1 + max(5, pairs // 3)):
        for n, both, seconds in zip(sizes, sides, times, strict=True):
            repeat = max(1, size(200_000) // n)
            few, more = (timed(side, repeat) for side in both)
            if k > 0:  # the first round warms up
                seconds.append((more - few) / n / repeat)
    few_cost, many_cost = map(median, times)
    return Figure(many_cost / few_cost, many_cost, few_cost)


def first_many(pairs):
    """Seconds of the first `minimize_many` with a new objective, the loops being on the disk."""
    programs = [_FIRST_MANY.format(new=1.0 + time.time() % 1 + k) for k in range(1 + min(pairs, 5))]
    seconds = [float(run_python(["-c", program])) for program in programs]
    return Figure(median(seconds[1:]))  # the first process may have filled the cache


def python_bowl(x):
    return x @ x, 2.0 * x


def fill_bowl(x, g):
    g[:] = 2.0 * x
    return x @ x


def short_run():
    """A whole `minimize` of 100 iterations; its tests are on and hold at none of them."""
    x0 = np.full(5, 3.0)
    return lambda: numadam.minimize(python_bowl, x0, jac=True, lr=VALLEY_LR, maxiter=100)


def _valley(what, target, iterations, tests=True):
    ours = functools.partial(minimize, size(iterations), **({} if tests else _OFF))
    theirs = functools.partial(jax_loop, size(iterations))
    return Case(what, target, pair(ours, theirs), _JAX)


def _many(what, target, side):
    theirs = functools.partial(jax_loop, 1000, starts(size(10_000)))
    return Case(f"{what} / jax.vmap(optax)", target, pair(side, theirs), _JAX)


class Ratio(Cases):
    cases = {
        "rosen-numpy": Case(
            "compiled Rosenbrock, n=2, 300,000 iterations, stop tests and best x on / a NumPy loop "
            "on the same objective",
            0.015,
            pair(
                functools.partial(minimize, size(300_000)),
                functools.partial(numpy_loop, size(300_000) // 100),
                expected=100,
            ),
            by="iterations",
        ),
        "rosen-jax": _valley(
            "the same / JAX fori_loop with optax, which has no tests", 0.9, 300_000
        ),
        "rosen-jax-bare": _valley(
            "the same, tests off / JAX fori_loop with optax", 0.8, 300_000, tests=False
        ),
        "rosen-jax-1000": _valley(
            "the whole call with 1000 iterations, tests on / JAX's whole call", 2.0, 1000
        ),
        "overhead-python": Case(
            "an iteration of minimize beyond an objective in Python, n=10 / a NumPy Adam update of "
            "it",
            0.4,
            counted(overhead),
        ),
        "short-run-5": Case(
            "the whole minimize of 100 iterations, objective in Python, n=5 / a NumPy loop of 100",
            1.0,
            pair(short_run, functools.partial(numpy_loop, 100, fill_bowl, (3.0,) * 5)),
        ),
        "many-jax": _many(
            "minimize_many, 10,000 problems of n=2, 1000 iterations, no stop",
            0.5,
            functools.partial(many, size(10_000), 1000),
        ),
        "many-stops-jax": _many(
            "the same with stops after 100 to 1000 iterations",
            0.35,
            functools.partial(many_stops, size(10_000)),
        ),
        "many-cost": Case(
            "one more problem, 200 iterations: at 10^6 problems / at 10^3",
            1.15,
            counted(cost_of_one_more),
            memory=1.0,
        ),
        "fits-scipy": Case("10,000 decays / SciPy", 0.03, pair(fits, scipy_fits, 100), by="fits"),
        "calls-callback": Case(
            "calls of fun, 300 iterations with jac=function and callback(x) / one, for the result",
            1.0,
            counted(calls_of_fun),
        ),
    }
    track_ratio = Cases.value


class FirstCall(Cases):
    unit = "s"
    cases = {
        "many-first": Case(
            "the first minimize_many with a new objective, after the imports, warm cache",
            0.4,
            counted(first_many),
        )
    }
    track_seconds = Cases.value
