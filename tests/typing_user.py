"""A user's script with types: `mypy` checks this file strictly, and tests/test_typing.py runs it.

Calls whose types a user writes down; `tests/typing_pages.py` has every rule and schedule.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numba
import numpy as np
import scipy.optimize
from numpy.typing import NDArray

import numadam as na

Array = NDArray[np.float64]


def bowl(x: Array) -> tuple[float, Array]:
    """Squared distance from (1, 2, ...), and its gradient."""
    away = x - np.arange(1.0, x.size + 1.0)
    return float(away @ away), 2 * away


@numba.njit  # type: ignore[untyped-decorator]  # Numba has no types
def compiled_bowl(x: Array, g: Array) -> float:
    f = 0.0
    for k in range(x.size):
        away = x[k] - (k + 1.0)
        f += away * away
        g[k] = 2.0 * away
    return f


def several_arrays() -> dict[str, NDArray[np.float32]]:
    params = {"weights": np.ones((4, 3), np.float32), "bias": np.zeros(3, np.float32)}
    opt = na.Adam(params, lr=1e-2, groups={"bias": {"lr": 1e-3}})
    grads = {name: np.ones_like(p) for name, p in params.items()}
    opt.step(grads)
    opt.step(grads, lr=1e-4)
    saved = {name: np.copy(value) for name, value in opt.state.items() if name == "t"}
    opt.state["t"] = saved["t"]
    opt.lr = 0.5
    return params


def in_a_file(folder: Path) -> tuple[int, int]:
    opt = na.Adam(np.ones(3))
    opt.step(np.ones(3))
    opt.save(folder / "run.npz")
    opt.load(str(folder / "run.npz"))
    later: na.Optimizer = na.load(folder / "run.npz", xp=np)
    try:
        na.SGD(np.ones(3)).load(folder / "run.npz")
    except na.CheckpointError as error:
        text: str = str(error)
        assert "SGD" in text
    return later.t, opt.t


@numba.njit  # type: ignore[untyped-decorator]  # Numba has no types
def compiled_line(x: Array, r: Array, J: Array, i: int) -> None:
    for k in range(r.size):
        r[k] = x[0] + x[1] * k - i
        J[k, 0], J[k, 1] = 1.0, k


def minimised() -> dict[str, Array]:
    def watch(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        assert intermediate_result.fun >= 0

    start = np.zeros(3)
    check: na.GradientCheck = na.check_grad(bowl, start, jac=True)
    own: type[na.Optimizer] = na.rule(
        "Own",
        lambda p, g, h: h.lr * g,
        lambda c, q, lr, t: dict(lr=lr),  # noqa: C408  # compiled
    )
    print(na.check_rule(na.Adam), own)
    status: Literal["right", "wrong", "unclear"] = check.status
    assert check.ok
    assert status == "right"
    found: na.Result = na.minimize(bowl, start, jac=True, bounds=(0, None), lr=0.1, callback=watch)
    compiled = na.minimize(compiled_bowl, start, lr=0.1, maxiter=500)
    many: na.ManyResult = na.minimize_many(compiled_bowl, np.zeros((4, 3)), lr=0.1)
    fits: na.ManyResult = na.least_squares_many(compiled_line, np.zeros((4, 2)), m=3, jac=True)
    errors: NDArray[np.float64] = fits.stderr
    assert errors.shape == fits.x.shape == (4, 2)
    cost: float = fits.best().cost
    assert fits.cov.shape == (4, 2, 2)
    assert fits.optimality.max() < 1e-6
    assert fits.njev.min() == fits.nfev.min() > 0
    assert cost < 1e-9
    lowest: float = found.fun
    stopped: NDArray[np.bool_] = many.success
    assert found.message
    assert found.history["fun"].min() >= lowest
    assert stopped.all()
    by_scipy = scipy.optimize.minimize(
        bowl, start, jac=True, method=na.scipy_adam, options={"lr": 0.1}
    )
    return {"plain": found.x, "compiled": compiled.x, "best": many.best().x, "scipy": by_scipy.x}
