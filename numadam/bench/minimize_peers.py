"""The sides of the cases about minimize: Rosenbrock's valley, by numadam, NumPy and JAX."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numba
import numpy as np

import numadam
from numadam.bench import measure, peers
from numadam.bench.measure import Figure, Side
from numadam.bench.peers import need

_LR = 0.01
_OFF = {"gtol": 0, "ftol": 0, "xtol": 0, "track_best": False, "history": False}
#: A test that is looked at and never holds.
_ON = {"gtol": 1e-300, "ftol": 0, "xtol": 0, "history": False}
_START = (-1.2, 1.0)


@numba.njit
def rosen(x, g):  # type: ignore[no-untyped-def]  # Numba types it
    """F and gradient in two dimensions."""
    a, b = x[1] - x[0] * x[0], 1.0 - x[0]
    g[0] = -400.0 * a * x[0] - 2.0 * b
    g[1] = 200.0 * a
    return 100.0 * a * a + b * b


def compiled(iterations: int, tests: bool) -> Side:
    """So many iterations of the compiled loop."""
    options: dict[str, Any] = _ON if tests else _OFF
    return lambda: numadam.minimize(rosen, _START, lr=_LR, maxiter=iterations, **options)


def numpy_loop(iterations: int) -> Side:
    """The usual ten lines of NumPy on the same compiled objective."""

    def side() -> None:
        x, g, m, v = np.array(_START), np.zeros(2), np.zeros(2), np.zeros(2)
        for t in range(1, iterations + 1):
            rosen(x, g)
            m = 0.9 * m + (1 - 0.9) * g
            v = 0.999 * v + (1 - 0.999) * g * g
            x -= _LR * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)

    return side


def jax_solver(objective: Callable[[Any], Any], iterations: int) -> Callable[[Any], Any]:
    """JAX's fori_loop with optax's Adam over one problem, in float64. No stop tests."""
    need("jax", "optax")
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)
    optimizer = optax.adam(_LR)

    def solve(x: Any) -> Any:
        def body(_: Any, carry: Any) -> Any:
            x, state = carry
            updates, state = optimizer.update(jax.grad(objective)(x), state, x)
            return optax.apply_updates(x, updates), state

        return jax.lax.fori_loop(0, iterations, body, (x, optimizer.init(x)))[0]

    return solve


def jax_loop(iterations: int, starts: np.ndarray | None = None) -> Side:
    """Rosenbrock's valley in JAX: one problem, or many by vmap."""
    need("jax", "optax")
    import jax

    def objective(x: Any) -> Any:
        return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2

    solve = jax_solver(objective, iterations)
    run = jax.jit(solve if starts is None else jax.vmap(solve))
    x0 = jax.numpy.asarray(_START if starts is None else starts)
    return lambda: run(x0).block_until_ready()


def starts(problems: int) -> np.ndarray:
    """Random starts around the valley."""
    return np.random.default_rng(0).uniform(-2, 2, (problems, 2))


def many(problems: int, iterations: int, gtol: float = 0.0) -> Side:
    """Many problems at once."""
    return functools.partial(
        numadam.minimize_many, rosen, starts(problems), lr=_LR, gtol=gtol, maxiter=iterations
    )


@numba.njit
def bowl(x, g, i, scale):  # type: ignore[no-untyped-def]  # Numba types it
    """A parabola whose steepness decides how long it takes: 100 to 1000 iterations."""
    g[0], g[1] = scale[i] * x[0], scale[i] * x[1]
    return 0.5 * scale[i] * (x[0] * x[0] + x[1] * x[1])


def many_stops(problems: int) -> Side:
    """Problems that stop by themselves after some 100 to 1000 iterations."""
    x0 = np.random.default_rng(0).uniform(0.2, 3.0, (problems, 2))
    scale = np.ones(problems)
    return functools.partial(
        numadam.minimize_many, bowl, x0, (scale,), lr=_LR, gtol=1e-2, maxiter=1000
    )


def calls_of_fun(pairs: int) -> Figure:
    """Calls of fun where a callback reads x alone, counted once: they do not vary."""
    seen: list[np.ndarray] = []

    def fun(x: np.ndarray) -> float:
        return 0.5 * float(x @ x)

    result = numadam.minimize(fun, [1.0, 2.0], jac=np.copy, callback=seen.append, maxiter=300)
    return Figure(float(result.nfev))


def overhead(pairs: int) -> Figure:
    """An iteration of the loop in Python beyond its objective / a NumPy Adam update, n = 10."""
    g, update = np.ones(10), peers.numpy_adam(10, np.float64)

    def fun(x: np.ndarray) -> tuple[float, np.ndarray]:
        return 1.0, g

    def run() -> None:
        numadam.minimize(fun, np.zeros(10), jac=True, gtol=1e-9, maxiter=5_000)

    evaluate = functools.partial(fun, g)
    ours, theirs = [], []
    for k in range(1 + pairs):
        whole, bare, other = (
            measure.timed(side, count, time.perf_counter) / 5_000
            for side, count in ((run, 1), (evaluate, 5_000), (update, 5_000))
        )
        if k > 0:  # the first round warms up
            ours.append(whole - bare)
            theirs.append(other)
    value = median(a / b for a, b in zip(ours, theirs, strict=True))
    return Figure(value, median(ours), median(theirs))


def cost_of_one_more(pairs: int) -> Figure:
    """Seconds that one more problem takes at 10^6 problems / at 10^3.

    It is the time of twice as many problems less that of these, over their number: what a call
    costs by itself is not in it.
    """
    sizes = (1_000, 1_000_000)
    sides = {n: (many(n, 200), many(2 * n, 200)) for n in sizes}
    times: dict[int, list[float]] = {n: [] for n in sizes}
    for k in range(1 + max(5, pairs // 3)):
        for n, (one, two) in sides.items():
            repeat = max(1, 200_000 // n)
            few, more = (measure.timed(side, repeat, time.perf_counter) for side in (one, two))
            if k > 0:  # the first round warms up
                times[n].append((more - few) / n / repeat)
    few_cost, many_cost = (median(times[n]) for n in sizes)
    return Figure(many_cost / few_cost, many_cost, few_cost)
