"""Sides of the cases about making an optimiser, starting it again, and short runs: five numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

import numadam
from numadam.bench import measure
from numadam.bench.measure import Figure, Side

_N, _ITERATIONS, _LR = 5, 100, 0.01


def seconds(make_side: Callable[[], Side]) -> Callable[[], Callable[[int], Figure]]:
    """Seconds of a call of the side, the median of several samples."""

    def prepare() -> Callable[[int], Figure]:
        side = make_side()

        def figure(pairs: int) -> Figure:
            (times,) = measure.rounds([side], pairs)
            return Figure(median(times))

        return figure

    return prepare


def another() -> Side:
    """One more optimiser of the same options, dtype and shape."""
    return functools.partial(numadam.Adam, np.zeros(_N))


def reset() -> Side:
    """An optimiser as before its first step."""
    return numadam.Adam(np.zeros(_N)).reset


def snapshot(n: int) -> Side:
    """Copy an optimiser into a snapshot that is there."""
    opt = _with_state(n)
    return functools.partial(opt.snapshot, out=opt.snapshot())


def copies(n: int) -> Side:
    """Copy what a snapshot holds, array by array."""
    opt = _with_state(n)
    arrays = [opt.params, opt.state["m"], opt.state["v"]]
    kept = list(map(np.ones_like, arrays))

    def copy() -> None:
        for to, array in zip(kept, arrays, strict=True):
            np.copyto(to, array)

    return copy


def _with_state(n: int) -> numadam.Adam:
    opt = numadam.Adam(np.ones(n, np.float32))
    opt.step(np.ones(n, np.float32))
    return opt


def set_t() -> Side:
    """An optimiser as after so many steps."""
    optimizer = numadam.Adam(np.zeros(_N))

    def side() -> None:
        optimizer.t = 7

    return side


def set_state_t() -> Side:
    """The same through `state`."""
    return functools.partial(numadam.Adam(np.zeros(_N)).state.__setitem__, "t", 7)


def _bowl(x: np.ndarray) -> tuple[Any, np.ndarray]:
    return x @ x, 2.0 * x


def short_run() -> Side:
    """A whole `minimize` of 100 iterations; its tests are on and hold at none of them."""
    x0 = np.full(_N, 3.0)
    return lambda: numadam.minimize(_bowl, x0, jac=True, lr=_LR, maxiter=_ITERATIONS)


def short_loop() -> Side:
    """The ten lines of NumPy that it replaces, without stop tests."""
    x0 = np.full(_N, 3.0)

    def side() -> np.ndarray:
        x, m, v = x0.copy(), np.zeros(_N), np.zeros(_N)
        for t in range(1, _ITERATIONS + 1):
            _, g = _bowl(x)
            m = 0.9 * m + (1 - 0.9) * g
            v = 0.999 * v + (1 - 0.999) * g**2
            x -= _LR * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        return x

    return side
