"""Gradients of a few rows: the cuts of their step, and the scalars of rows that count their own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import int64, types

from numadam._arrays import checks as ar
from numadam._arrays.interop import address_of
from numadam._backend import Leaves, Rows, SparseGradients, Title
from numadam._core import plan as pl
from numadam._cpu.loop import NORM_BLOCK
from numadam._cpu.memory import Cuts, StepMemory, Work, chunked, cut, part_size
from numadam._jit.build import compiled


class CpuSparseGradients(SparseGradients):
    """Sparse gradients, in the cuts that a compiled step reads."""

    def __init__(self, memory: StepMemory, how: str | None, title: Title, counts: Leaves) -> None:
        super().__init__("NumPy", memory.layout, how, title, counts)
        self._memory = memory
        if how == "lazy":
            row_cutter()  # compiled now, and not in a step

    def checked(self, grad: Any, name: str, leaf: int) -> Any:
        layout = self._memory.layout
        return ar.as_numpy(grad, name, layout.dtype, layout.shapes[leaf], self._title(pl.P, leaf))

    def work(self, rows_of: Rows) -> Work:
        """The frame of a step of these rows."""
        memory = self._memory
        steps = int(memory.counters[0])
        for leaf, counts in enumerate(self._counts):
            name = f"state[{pl.ROW_COUNTS!r}]" + self._title(pl.P, leaf).removeprefix("params")
            ar.refuse_counts(counts[rows_of[leaf][0]], name)  # the array is the user's to write
        return Work(memory, row_cuts(memory, rows_of, self._counts), steps)


def row_cuts(memory: StepMemory, rows_of: Rows, counts: Leaves) -> Cuts:
    """The cuts of a step of these rows, and of the leaves that have none.

    With `counts`, the steps taken by each row of each leaf, rows share scalars where they have
    taken as many.
    """
    plan, groups, dense = memory.plan, memory.groups, memory.cuts
    sizes = [size * plan.unit for size in memory.layout.sizes]
    for leaf, (_, values) in rows_of.items():
        sizes[leaf] = values.size
    part = memory.part or part_size(sum(sizes))
    first = range(len(sizes)) if plan.norm == "array" else groups
    rest = [0 if leaf in rows_of else size for leaf, size in enumerate(sizes)]
    whole = cut(rest, first, part) if any(rest) else np.empty((0, 5), np.int64)
    parts = np.empty((len(whole) + sum(len(rows) for rows, _ in rows_of.values()), 5), np.int64)
    parts[: len(whole)], end, place = whole, len(whole), 0
    owners, tables = [] if counts else [dense.owners], []
    for leaf, (rows, values) in rows_of.items():
        kinds, kind = np.zeros(len(rows), np.int64), first[leaf]
        if counts:
            taken, kinds = classes_of(counts[leaf][rows])
            kind, place = place, place + len(taken)
            owners.append(np.tile(np.array([groups[leaf], leaf], np.int64), (len(taken), 1)))
            tables.append((taken + 1.0, address_of(counts[leaf]) + 8 * rows))
        width = values.size // max(len(rows), 1)
        most = max(part // max(width, 1), 1)
        end = row_cutter()(parts, end, leaf, rows, kinds, kind, width, most)
    parts, blocks = parts[:end], dense.blocks
    if plan.norm:
        blocks = cut(sizes, [0] * len(sizes), NORM_BLOCK)
    chunks, of_rows = chunked(parts, part), np.concatenate(owners)
    if not counts:
        return Cuts(parts, chunks, blocks, of_rows)
    times, counted = map(np.concatenate, zip(*tables, strict=True))
    return Cuts(parts, chunks, blocks, of_rows, times, counted)


def _cut_rows(parts, end, leaf, rows, kinds, kind, width, most):  # type: ignore[no-untyped-def]  # Numba types it
    for k in range(len(rows)):
        if k % most and rows[k] == rows[k - 1] + 1 and kinds[k] == kinds[k - 1]:
            parts[end - 1, 2] += width
        else:
            parts[end, 0], parts[end, 1], parts[end, 2] = leaf, rows[k] * width, width
            parts[end, 3], parts[end, 4] = k * width, kind + kinds[k]
            end += 1
    return end


@functools.cache
def row_cutter() -> Callable[..., int]:
    """``cut(parts, end, leaf, rows, kinds, kind, width, most) -> end``.

    It writes the parts of some rows of a leaf behind others, neighbours of one kind together, at
    most so many. A row has `width` numbers. By NumPy it takes 10 times as long.
    """
    names = "parts, end, leaf, rows, kinds, kind, width, most"
    text = f"def cut({names}):\n    return cut_rows({names})\n"
    table, numbers = types.Array(int64, 2, "C"), types.Array(int64, 1, "A", readonly=True)
    signature = int64(table, int64, int64, numbers, numbers, int64, int64, int64)
    return compiled("rows", text, {"cut_rows": _cut_rows}, signature, entry="cut", nogil=False)


def classes_of(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different counts among these, sorted, and the place among them of each."""
    low, high = (int(counts.min()), int(counts.max())) if len(counts) else (0, -1)
    if high - low > 8 * len(counts) + 100_000:
        return np.unique(counts, return_inverse=True)
    # 6 to 9 times faster, where few numbers lie between
    offsets, places = counts - low, np.zeros(high - low + 1, np.int64)
    places[offsets] = 1
    present = np.flatnonzero(places)
    places[present] = np.arange(len(present))
    return present + low, places[offsets]
