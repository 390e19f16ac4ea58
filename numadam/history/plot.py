"""The picture of a `History`: columns over t, one panel each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def draw(
    table: Mapping[str, np.ndarray],
    usual: Sequence[str],
    columns: Sequence[str] | None,
    axes: Any,
) -> Any:
    """Draw columns of a table over its t; returns an array of axes."""
    if not len(table["t"]):
        raise ValueError("plot: the history has no records yet.")
    if columns is None:
        columns = [name for name in usual if np.isfinite(table[name]).any()]
    if isinstance(columns, str) or not len(columns):
        raise ValueError(f"columns: expected a list of names such as ['f', 'lr'], got {columns!r}.")
    for name in columns:
        if name not in table or name == "t":
            raise KeyError(f"{name!r}: the columns are {', '.join(table)}, drawn over t.")
    axes = _new_axes(len(columns)) if axes is None else np.atleast_1d(np.asarray(axes)).ravel()
    if len(axes) != len(columns):
        raise ValueError(f"axes: expected one a column, {len(columns)}, got {len(axes)}.")
    for name, ax in zip(columns, axes, strict=True):
        _panel(ax, table["t"], name, table[name])
    return axes


def _panel(ax: Any, t: np.ndarray, name: str, values: np.ndarray) -> None:
    seen = values[np.isfinite(values)]
    ax.plot(t, values, lw=1.2, marker="." if len(seen) < 2 else None)
    if len(seen) and (seen > 0).all():
        ax.set_yscale("log")
    ax.set_xlabel("t")
    ax.set_ylabel(name)
    ax.grid(alpha=0.3)


def _new_axes(count: int) -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plot: needs matplotlib: pip install matplotlib") from error
    across = min(count, 2)
    down = -(-count // across)
    figure, axes = plt.subplots(
        down,
        across,
        figsize=(4.5 * across, 2.8 * down),
        layout="constrained",
        sharex=True,
        squeeze=False,
    )
    for spare in axes.ravel()[count:]:
        figure.delaxes(spare)
    return axes.ravel()[:count]
