"""The picture of the sizes: time of a step over the number of elements, both logarithmic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numadam._program import write_error
from numadam.bench.sizes import OURS, ROOFLINE

_SUFFIXES = (".png", ".svg", ".pdf")


def check(path: Path) -> str:
    """Why a picture cannot go there, or "": asked before minutes of measuring."""
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        return "--plot: needs matplotlib: pip install matplotlib"
    if path.suffix not in _SUFFIXES:
        return f"--plot: expected a file such as steps.png (or .svg, .pdf), got {str(path)!r}."
    reason = write_error(path)
    return f"--plot: cannot write {path}: {reason}." if reason else ""


def draw(tables: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw a panel for each table into a file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5 * len(tables), 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(tables), squeeze=False)[0]
    for ax, table in zip(axes, tables, strict=True):
        _panel(ax, table)
    figure.savefig(path, dpi=150)


def _panel(ax: Any, table: dict[str, Any]) -> None:
    rows, about = table["sizes"], table["machine"]
    elements = [row["elements"] for row in rows]
    for name in rows[0]["seconds"]:
        look: dict[str, Any] = {"lw": 2.5, "zorder": 3} if name == OURS else {"lw": 1.2}
        if name == ROOFLINE:
            look |= {"ls": "--", "color": "0.4"}
        ax.plot(elements, [row["seconds"][name] for row in rows], marker=".", label=name, **look)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("elements (float32)")
    ax.set_ylabel("seconds a step")
    ax.set_title(
        f"{about['processor']}, {about['threads']} threads, {about['layer']}", fontsize="medium"
    )
    ax.grid(alpha=0.3)
    ax.legend()
