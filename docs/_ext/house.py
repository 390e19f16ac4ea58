"""Pictures of the page on the architecture: the floors of the package, and the memory of a step."""

from __future__ import annotations

import tomllib
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

#: One line on each package; the floors themselves are read from the contract in pyproject.toml.
PACKAGES = {
    "__main__": "python -m numadam",
    "cli": "the command line",
    "demos": "runs on real data",
    "bench": "ratios of two sides",
    "info": "versions and machine",
    "_minimize": "loops that call your function",
    "nopython": "rules for your own compiled code",
    "rules": "one file a rule: formula, class, function",
    "_optimizer": "what a user holds; dispatch on the array's type",
    "_cpu": "NumPy: one compiled call a step",
    "_cuda": "CuPy: one launch a step",
    "_backend": "the contract of a back end",
    "history": "records of a run",
    "schedules": "values that change",
    "_settings": "options to plan and numbers",
    "_core": "what one step computes, for any device",
    "_arrays": "whose array it is, what is wrong with it",
    "_jit": "Numba as we use it",
    "_version": "the version",
}
_COLOURS = {"_cpu": "#cfe5f7", "_cuda": "#d6efd0", "_core": "#fbe3c4", "rules": "#fbe3c4"}


def floors() -> list[list[str]]:
    """The packages on each floor, the highest floor first."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    (layers,) = (one["layers"] for one in contracts if one["type"] == "layers")
    return [[name.strip() for name in layer.split("|")] for layer in layers]


def _box(axes: plt.Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    shape = FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.06", fc=colour, ec="#555555"
    )
    axes.add_patch(shape)


def draw_floors() -> None:
    """One box a package: it imports only packages that stand lower."""
    storeys = floors()
    _, axes = plt.subplots(figsize=(7.5, 0.44 * len(storeys)), layout="constrained")
    for level, names in enumerate(storeys):
        width, y = 10.0 / len(names), len(storeys) - level
        for k, name in enumerate(names):
            x = k * width + 0.05
            _box(axes, x, y, width - 0.1, 0.8, _COLOURS.get(name, "#f3f3f3"))
            bold = {"weight": "bold", "family": "monospace"}
            axes.text(x + 0.12, y + 0.52, name, va="center", fontsize=8.5, **bold)
            axes.text(x + 0.12, y + 0.2, PACKAGES[name], va="center", fontsize=6.5)
    axes.set(xlim=(0, 10), ylim=(0.9, len(storeys) + 1))
    axes.axis("off")
