"""Pictures of the page on the architecture: the floors of the package, and the memory of a step."""

from __future__ import annotations

import tomllib
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

#: One line on each package; the floors themselves are read from the contract in pyproject.toml.
PACKAGES = {
    "__main__": "python -m numadam",
    "_cli": "the command line",
    "_demos": "examples with real data",
    "_bench": "speed measurements",
    "_info": "versions and machine",
    "_gradient": "check_grad",
    "_least_squares": "least_squares_many",
    "_minimize": "minimize, minimize_many",
    "nopython": "rules for your own compiled code",
    "mpi": "the error of other ranks",
    "rules": "one file a rule: formula, class, function",
    "_optimizer": "optimiser objects; dispatch on the array's type",
    "_mpi": "communication between ranks",
    "_cpu": "NumPy: one compiled call for a step",
    "_cuda": "CuPy: one kernel launch for a step",
    "_backend": "the interface of a back end",
    "_checkpoint": "files of checkpoints",
    "_history": "records of a run",
    "schedules": "values that change with t",
    "_settings": "from options to plan and numbers",
    "_core": "arithmetic of a step, for any device",
    "_arrays": "kinds of arrays, and their checks",
    "_jit": "compiling and caching with Numba",
    "_derivatives": "exact derivatives",
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


def _record(
    axes: plt.Axes, x: float, top: float, title: str, fields: list[str]
) -> dict[str, float]:
    """A box with a line for each field; returns the height of each line."""
    height, width = 0.3 * (len(fields) + 1) + 0.1, 2.3
    _box(axes, x, top - height, width, height, "#f3f3f3")
    axes.text(x + 0.1, top - 0.2, title, va="center", fontsize=8, weight="bold")
    places = {}
    for k, field in enumerate(fields, 1):
        places[field] = top - 0.2 - 0.3 * k
        axes.text(x + 0.1, places[field], field, va="center", fontsize=7, family="monospace")
    return places


def _arrow(axes: plt.Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "->", "color": "#3a6ea5", "lw": 1, "connectionstyle": "arc3,rad=0.08"}
    axes.annotate("", end, start, arrowprops=style)


def _array(axes: plt.Axes, x: float, y: float, text: str, colour: str) -> None:
    _box(axes, x, y - 0.22, 2.6, 0.44, colour)
    axes.text(x + 0.1, y, text, va="center", fontsize=7)


def draw_memory() -> None:
    """Arrays of the compiled step on the CPU: the frame has the addresses of all others."""
    from numadam._cpu.loop import Frame

    pointers = ["table", "control", "rows", "norms", "products"]
    others = ["counters", "parts"]
    assert {*pointers, *others} <= {*Frame._fields}
    per_leaf = ["p", "g", "m", "v"]
    _, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    frame = _record(axes, 0, 6.2, "Frame, of a step", [*pointers, "...", *others])
    leaf = _record(axes, 3.4, 6.2, "a row of the table", per_leaf)
    users, ours = "#d6efd0", "#fbe3c4"
    slots = (("parameter p", users), ("gradient g", users), ("m", ours), ("v", ours))
    for k, (text, colour) in enumerate(slots):
        _array(axes, 6.9, 6.0 - 0.55 * k, text, colour)
        _arrow(axes, (5.7, leaf[per_leaf[k]]), (6.9, 6.0 - 0.55 * k))
    _arrow(axes, (2.3, frame["table"]), (3.4, 5.9))
    tables = {
        "control": "control block: float64, a row a group",
        "rows": "scalars of this step, a row a group",
        "norms": "norms of the gradients, one a leaf",
        "products": "running products, a row a group",
    }
    for k, (name, text) in enumerate(tables.items()):
        _box(axes, 3.4, 3.62 - 0.55 * k, 3.6, 0.44, "#cfe5f7")
        axes.text(3.5, 3.84 - 0.55 * k, text, va="center", fontsize=7)
        _arrow(axes, (2.3, frame[name]), (3.4, 3.84 - 0.55 * k))
    block = (("counters", 1.7), ("running products", 2.2), ("m", 2.6), ("v", 2.6))
    x = 0.2
    for text, width in block:
        _box(axes, x, 0.35, width, 0.44, ours)
        axes.text(x + 0.1, 0.57, text, va="center", fontsize=7)
        x += width + 0.05
    axes.text(0.2, 1.02, "The state, one block of memory: a load is one copy", fontsize=7.5)
    axes.text(7.0, 1.55, "green: the user's\norange: the optimiser's state", fontsize=7)
    axes.set(xlim=(-0.1, 9.7), ylim=(0.2, 6.4))
    axes.axis("off")
