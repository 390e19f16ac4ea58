"""The cases of ``python -m numadam bench --minimize``."""

from __future__ import annotations

import functools
from collections.abc import Callable

from numadam.bench import making, measure, processes
from numadam.bench import minimize_peers as mp
from numadam.bench.case import Case, Prepare, pair
from numadam.bench.measure import Figure, Side

_ROSEN, _NUMPY = 300_000, 3_000


def _of(measuring: Callable[[int], Figure]) -> Prepare:
    return lambda: measuring


def _against(ours: Side, theirs: Callable[[], Side], iterations: float = 1.0) -> Prepare:
    """Ours takes so many times the iterations of theirs."""

    def prepare() -> Callable[[int], Figure]:
        return functools.partial(measure.ratio, ours, theirs(), expected=iterations)

    return prepare


_JAX = ("jax", "optax")
MINIMIZE_CASES = (
    Case(
        "rosen-numpy",
        "compiled Rosenbrock, n=2, 300,000 iterations, stop tests and best x on / a NumPy loop on "
        "the same objective",
        0.015,
        _against(
            mp.compiled(_ROSEN, True),
            functools.partial(mp.numpy_loop, _NUMPY),
            _ROSEN / _NUMPY,
        ),
        by="iterations",
    ),
    Case(
        "rosen-jax",
        "the same / JAX fori_loop with optax, which has no tests",
        0.9,
        _against(mp.compiled(_ROSEN, True), functools.partial(mp.jax_loop, _ROSEN)),
        needs=_JAX,
    ),
    Case(
        "rosen-jax-bare",
        "the same, tests off / JAX fori_loop with optax",
        0.8,
        _against(mp.compiled(_ROSEN, False), functools.partial(mp.jax_loop, _ROSEN)),
        needs=_JAX,
    ),
    Case(
        "rosen-jax-1000",
        "the whole call with 1000 iterations, tests on / JAX's whole call",
        2.0,
        _against(mp.compiled(1000, True), functools.partial(mp.jax_loop, 1000)),
        needs=_JAX,
    ),
    Case(
        "overhead-python",
        "an iteration of minimize beyond an objective in Python, n=10 / a NumPy Adam update of it",
        0.4,
        _of(mp.overhead),
    ),
    Case(
        "short-run-5",
        "the whole minimize of 100 iterations, objective in Python, n=5 / a NumPy loop of 100",
        1.0,
        pair(making.short_run, making.short_loop),
    ),
    Case(
        "many-jax",
        "minimize_many, 10,000 problems of n=2, 1000 iterations, no stop / jax.vmap(optax)",
        0.5,
        _against(
            mp.many(10_000, 1000),
            lambda: mp.jax_loop(1000, mp.starts(10_000)),
        ),
        needs=_JAX,
    ),
    Case(
        "many-stops-jax",
        "the same with stops after 100 to 1000 iterations / jax.vmap(optax)",
        0.35,
        _against(
            mp.many_stops(10_000),
            lambda: mp.jax_loop(1000, mp.starts(10_000)),
        ),
        needs=_JAX,
    ),
    Case(
        "many-cost",
        "one more problem, 200 iterations: at 10^6 problems / at 10^3",
        1.15,
        _of(mp.cost_of_one_more),
        quick=False,
    ),
    Case(
        "many-first",
        "the first minimize_many with a new objective, after the imports, warm cache",
        0.4,
        _of(processes.first_many),
        unit="s",
    ),
    Case(
        "calls-callback",
        "calls of fun, 300 iterations with jac=function and callback(x) / one, for the result",
        1.0,
        _of(mp.calls_of_fun),
    ),
)
