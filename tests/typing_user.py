"""A user's script with types: `mypy` checks this file strictly, and tests/test_typing.py runs it.

It uses every public class, function and schedule once, as a user would.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numba
import numpy as np
import scipy.optimize
from numpy.typing import NDArray

import numadam as na
from numadam import schedules
from numadam.nopython import VERSION, adam_element, adam_scalars, adam_update

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


def train(make: Callable[[Array], na.Optimizer], steps: int = 3) -> Array:
    """A few steps of any optimiser, taken by its base class."""
    x = np.zeros(3)
    opt: na.Optimizer = make(x)
    for _ in range(steps):
        _, g = bowl(x)
        opt.step(g)
    assert opt.t == steps
    return x


def every_class() -> dict[str, Array]:
    makers: dict[str, Callable[[Array], na.Optimizer]] = {
        "adam": lambda x: na.Adam(x, lr=0.1, beta1=0.8, beta2=0.99, eps=1e-8, amsgrad=True),
        "adam in a box": lambda x: na.Adam(x, lr=0.1, bounds=(0.0, None)),
        "adam averaged": lambda x: na.Adam(x, lr=0.1, ema=0.9),
        "adam clipped": lambda x: na.Adam(x, clip_norm=1.0, nonfinite="raise"),
        "adam of numpy": lambda x: na.Adam(x, like="numpy"),
        "adamw": lambda x: na.AdamW(x, lr=schedules.Cosine(0.1, steps=10), weight_decay=0.1),
        "nadam": lambda x: na.NAdam(x, momentum_decay=0.1),
        "radam": lambda x: na.RAdam(x, eps_form="paper"),
        "adamax": lambda x: na.AdaMax(x, clip_value=1.0),
        "adabelief": lambda x: na.AdaBelief(x, eps_root=1e-12),
        "lion": lambda x: na.Lion(x, beta1=schedules.Constant(0.9)),
        "rmsprop": lambda x: na.RMSprop(x, centered=True, momentum=0.9),
        "sgd": lambda x: na.SGD(x, lr=lambda t: 0.1 / (1 + t), momentum=0.9, nesterov=True),
        "adagrad": lambda x: na.Adagrad(x, initial_accumulator=0.1),
    }
    return {name: train(make) for name, make in makers.items()}


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


def quiet_where_nothing_is_kept() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", na.CacheWarning)
        na.Adam(np.ones(3)).step(np.ones(3))


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


def on_own_arrays() -> list[Array]:
    p, g = np.ones(5), np.full(5, 0.5)
    m, v, u = np.zeros(5), np.zeros(5), np.zeros(5)
    na.adam_update(p, g, m, v, 1, lr=1e-3, weight_decay=0.1)
    na.adamw_update(p, g, m, v, 2, lr=1e-3, weight_decay=0.1, decoupled=True)
    na.nadam_update(p, g, m, v, 3)
    na.radam_update(p, g, m, v, 4)
    na.adamax_update(p, g, m, u, 5)
    na.adabelief_update(p, g, m, v, 6, clip_value=1.0)
    na.lion_update(p, g, m)
    na.rmsprop_update(p, g, v, momentum=0.9, m=m)
    na.sgd_update(p, g, m, momentum=0.9)
    na.adagrad_update(p, g, v, eps_root=1e-8)
    direction = np.empty_like(p)
    na.adam_update(p, g, m, v, 7, out=direction)
    return [p, direction]


def rows_of_an_embedding() -> NDArray[np.float32]:
    table = np.zeros((1000, 8), np.float32)
    opt = na.SGD(table, lr=1.0, sparse="lazy", count="row")
    opt.step(na.Rows(np.array([3, 5]), np.ones((2, 8), np.float32)))
    return table


def own_solver() -> float:
    """Read by checkers alone: tests/nopython runs these functions."""
    p, g = np.ones(3), np.ones(3)
    m, v = np.zeros_like(p), np.zeros_like(p)
    adam_update(p, g, m, v, t=1, lr=0.1)
    adam_update(p, g, m, v, 2, 0.1, vmax=np.zeros_like(p))
    x, _, _ = adam_element(1.0, np.float32(2), 0.0, 0.0, adam_scalars(1))
    na.nopython.sgd_update(p, g, lr=0.5)
    return float(x) + len(VERSION)


def every_schedule() -> list[float]:
    plateau = schedules.ReduceOnPlateau(0.1, patience=3)
    made: list[Callable[[int], float]] = [
        schedules.Constant(0.1),
        schedules.Step(0.1, steps=30),
        schedules.Exponential(0.1, factor=0.99),
        schedules.Polynomial(0.1, steps=100),
        schedules.Cosine(0.1, steps=100),
        schedules.WarmupCosine(0.1, warmup=10, steps=100),
        schedules.OneCycle(0.1, steps=100),
        schedules.Piecewise([0.1, schedules.Constant(0.01)], boundaries=[10]),
        plateau,
    ]
    return [lr(0) for lr in made]


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


def watched() -> dict[str, list[float]]:
    x = np.ones(3)
    opt, history = na.Adam(x, lr=0.1), na.History(every=2)
    for _ in range(4):
        f, g = bowl(x)
        opt.step(g)
        history.record(opt, f, g)
    return {name: [float(entry) for entry in column] for name, column in history.to_dict().items()}


if __name__ == "__main__":
    print(na.__version__, every_schedule())
    print(every_class(), several_arrays(), on_own_arrays(), rows_of_an_embedding().sum())
    print(minimised())
