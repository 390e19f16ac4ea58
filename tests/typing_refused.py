"""Calls that ``mypy --strict`` and pyright refuse, each with its error; they fail when run, too.

A checker that takes one finds an ignore too many, which is an error of both. tests/test_typing.py
runs them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

import numadam as na

Array = NDArray[np.float64]
x, rows = np.ones(3), np.ones((2, 3))


def bowl(x: Array) -> tuple[float, Array]:
    return float(x @ x), 2 * x


def bowls(x: Array) -> tuple[Array, Array]:
    return np.sum(x * x, axis=1), 2 * x


def set_lr() -> None:
    na.Adam(x).lr = "fast"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]


def set_beta1() -> None:
    na.Adam(x).beta1 = "fast"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]


CALLS: tuple[Callable[[], object], ...] = (
    set_lr,
    set_beta1,
    lambda: na.Adam(x, lr="fast"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lambda: na.Adam(x, betta2=0.9),  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    lambda: na.Adam(x, eps_form="norm"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lambda: na.Adam(x, nonfinite="skp"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lambda: na.Adam(x, like="pytorch"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lambda: na.Adam(x, complex_form="both"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lambda: na.Adam(x, bounds="positive"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lambda: na.RAdam(x, eps_form="norm"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lambda: na.sgd_update(x, x, like="pytorch"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lambda: na.minimize(bowl, x, jac=True, lr="fast"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lambda: na.minimize(bowl, x, jac=True, betta2=0.9),  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    lambda: na.minimize(bowl, x, jac=True, rule="adamx"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lambda: na.minimize(bowl, x, jac=True, nonfinite="skip"),  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    lambda: na.minimize(bowl, x, jac=True, ema="slow"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lambda: na.minimize(bowl, x, jac="4-point"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lambda: na.minimize(bowl, x, jac=True, method="BFGS"),  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    lambda: na.check_grad(bowl, x, jac="4-point"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lambda: na.minimize_many(bowls, rows, jac=True, rule="adamx"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lambda: na.minimize_many(bowls, rows, jac=True, ema_debias=True),  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    lambda: na.least_squares_many(bowls, rows, m=3, jac="2-point"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lambda: na.least_squares_many(bowls, rows, m=3, loss="huber"),  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    lambda: na.minimize_many(bowls, rows, jac=True, history=True),  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    lambda: na.schedules.ReduceOnPlateau(0.1, mode="least"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
)
