"""The first example of many a tutorial: find W and b that minimise mean((2 W + b - 4)^2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import numadam as na

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Result:
    """Where the search began, where it ended, and after how many steps."""

    start: float
    end: float
    steps: int
    params: dict[str, Array]


def loss(w: Array, b: Array) -> float:
    """Mean((2 w + b - 4)^2)."""
    return float(np.mean((2 * w + b - 4) ** 2))


def gradients(w: Array, b: Array) -> dict[str, Array]:
    """The gradients of `loss`: 4 r / n for each w, and 2 mean(r) for b, with r = 2 w + b - 4."""
    r = 2 * w + b - 4
    return {"w": 4 * r / r.size, "b": np.asarray(2 * r.mean())}


def solve(
    *, n: int = 8, lr: float = 0.05, goal: float = 1e-12, most: int = 5000, seed: int = 0
) -> Result:
    """Take steps until the loss is below `goal`, at most `most` of them.

    Parameters
    ----------
    n : int
        Length of w; b is one number, an array of shape ().
    lr : float
        Learning rate of Adam.
    goal : float
        Loss to reach.
    most : int
        Steps to take at most.
    seed : int
        Of the first w.

    Returns
    -------
    Result
    """
    params = {"w": np.random.default_rng(seed).standard_normal(n), "b": np.zeros(())}
    opt = na.Adam(params, lr=lr)
    start = loss(**params)
    while opt.t < most and loss(**params) > goal:
        opt.step(gradients(**params))
    return Result(start, loss(**params), opt.t, params)


def main() -> Result:
    """Solve it and print start, end and the number of steps."""
    result = solve()
    w, b = (np.array2string(result.params[key], precision=4) for key in ("w", "b"))
    print("minimise mean((2 W + b - 4)^2) over 8 values of W and one b, with Adam, lr=0.05")
    print(f"start: loss {result.start:.3g}")
    print(f"end:   loss {result.end:.3g} after {result.steps} steps")
    print(f"W = {w}, b = {b}")
    return result
