"""The first example of many a tutorial: find W and b that minimise mean((2 W + b - 4)^2)."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import numadam as na
from numadam.demos import common

Array = np.ndarray[Any, Any]

EXAMPLES = """\
examples:
  python -m numadam demo quadratic           some hundred steps, a moment
  python -m numadam demo quadratic --lr 0.5  too fast: see the loss swing
"""


@dataclass(frozen=True)
class Result:
    """Start and end of the search, and the number of steps."""

    start: float
    end: float
    steps: int
    params: dict[str, Array]
    losses: list[float]


def loss(w: Array, b: Array) -> float:
    """Mean((2 w + b - 4)^2)."""
    return float(np.mean((2 * w + b - 4) ** 2))


def gradients(w: Array, b: Array) -> dict[str, Array]:
    """The gradients of `loss`: 4 r / n for each w, and 2 mean(r) for b, with r = 2 w + b - 4."""
    r = 2 * w + b - 4
    return {"w": 4 * r / r.size, "b": np.asarray(2 * r.mean())}


def solve(
    *,
    n: int = 8,
    lr: float = 0.05,
    goal: float = 1e-12,
    most: int = 5000,
    seed: int = 0,
    each_step: Callable[[], object] = lambda: None,
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
    each_step : callable
        Called after each step: to show progress.
    """
    params = {"w": np.random.default_rng(seed).standard_normal(n), "b": np.zeros(())}
    opt = na.Adam(params, lr=lr)
    losses = [loss(**params)]
    while opt.t < most and losses[-1] > goal:
        opt.step(gradients(**params))
        losses.append(loss(**params))
        each_step()
    return Result(losses[0], losses[-1], opt.t, params, losses)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this demo."""
    options = {
        "lr": (common.positive, 0.05, "learning rate"),
        "steps": (common.whole(1), 5000, "take at most so many steps"),
    }
    common.add_options(parser, "quadratic", options)


def main(
    output: str | os.PathLike[str] = "numadam-quadratic.png",
    *,
    lr: float = 0.05,
    steps: int = 5000,
    seed: int = 0,
) -> Result:
    """Solve it, print start, end and the number of steps, and draw the loss."""
    fig = common.figure(output, 1, 1, (6, 3.8))
    with common.bar(steps) as bar:
        result = solve(lr=lr, most=steps, seed=seed, each_step=bar.update)
    w, b = (np.array2string(result.params[key], precision=4) for key in ("w", "b"))
    print(f"minimise mean((2 W + b - 4)^2) over 8 values of W and one b, with Adam, lr={lr:g}")
    print(f"start: loss {result.start:.3g}")
    print(f"end:   loss {result.end:.3g} after {result.steps} steps")
    print(f"W = {w}, b = {b}")
    (axes,) = fig.axes
    axes.semilogy(result.losses, color="#2171b5")
    axes.set(xlabel="step", ylabel="loss", title=f"mean((2 W + b - 4)^2), numadam.Adam, lr={lr:g}")
    common.tidy(axes)
    common.save(fig, output)
    return result
