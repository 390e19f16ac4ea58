"""The pictures on the page of each rule: its path on one Rosenbrock function, and f."""

from __future__ import annotations

from functools import cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import numadam as na

START = np.array([-1.1, 0.9])
STEPS = 400
RATES = np.geomspace(1e-3, 0.2, 31)


def height(x: Any, y: Any) -> Any:
    """A Rosenbrock function with 20 in place of 100; the minimum is at (1, 1)."""
    return (1 - x) ** 2 + 20 * (y - x**2) ** 2


def slope(p: Any) -> Any:
    """Gradient of `height`."""
    x, y = p
    return np.array([-2 * (1 - x) - 80 * x * (y - x**2), 40 * (y - x**2)])


def walk(rule: str, lr: float, **options: Any) -> Any:
    """Points of a walk, one a row; it ends early where it leaves the map."""
    p = START.copy()
    opt = getattr(na, rule)(p, lr=lr, **options)
    points = [p.copy()]
    while len(points) <= STEPS and np.all(abs(p) < 10):
        opt.step(slope(p))
        points.append(p.copy())
    return np.array(points)


@cache
def best_walk(rule: str, **options: Any) -> tuple[float, Any]:
    """The walk whose last 20 points lie lowest on average, of all `RATES`; and its rate."""
    walks = [(lr, walk(rule, lr, **options)) for lr in RATES]
    whole = [(lr, points) for lr, points in walks if len(points) == STEPS + 1]
    return min(whole, key=lambda one: height(*one[1][-20:].T).mean())


def draw(rule: str, **options: Any) -> None:
    """Two pictures, path and height: with the best learning rate, plain descent in grey."""
    size = {"figsize": (5, 4), "layout": "constrained"}
    _, down = plt.subplots(**size)
    x, y = np.meshgrid(np.linspace(-1.8, 1.6, 200), np.linspace(-0.6, 2.2, 200))
    down.contour(x, y, height(x, y), np.geomspace(0.05, 200, 14), colors="0.8", linewidths=0.8)
    _, over = plt.subplots(**size)
    for name, colour, chosen in (("SGD", "0.55", {}), (rule, "C0", options)):
        lr, points = best_walk(name, **chosen)
        text = ", ".join([f"{name}, lr={lr:.2g}", *(f"{k}={v}" for k, v in chosen.items())])
        down.plot(*points.T, ".-", color=colour, linewidth=1, markersize=3)
        over.semilogy(height(*points.T), color=colour, label=text)
    down.plot(1, 1, "*", color="C1", markersize=12)
    down.set(title="path", xlabel="x", ylabel="y", xlim=(-1.8, 1.6), ylim=(-0.6, 2.2))
    over.set(title="f(x, y)", xlabel="step", ylim=(1e-12, 50))
    over.legend(frameon=False)
