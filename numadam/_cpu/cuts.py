"""Cuts of a step: parts and chunks of its loop, blocks of its norm, and whose scalars they read.

A part is a run of numbers of one leaf. Parts in a chunk are the work of one thread: a thousand
small arrays are a few chunks, one large array is many. An element depends on its own values and
the norm alone, so neither changes a bit.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from numadam._arrays.interop import Layout
from numadam._core.plan import Plan
from numadam._cpu.loop import NORM_BLOCK

#: Numbers of a part, at least and at most, and the number of parts aimed at between.
_PART_MIN, _PART_MAX, _PARTS = 2_048, 65_536, 16
#: Parts are multiples of this, so that each begins on a cache line where its array does: 2 to 4 %
#: less time from 50,000 to 500,000 elements.
_PART_STEP = 64

_INTEGER = np.int64


class Cuts(NamedTuple):
    """Arrays of `loop.Frame`, of one step."""

    parts: np.ndarray
    chunks: np.ndarray
    blocks: np.ndarray
    owners: np.ndarray
    times: np.ndarray | None = None
    counted: np.ndarray | None = None


def part_size(total: int) -> int:
    """Numbers of a part of so many."""
    part = -(-total // (_PARTS * _PART_STEP)) * _PART_STEP
    return min(max(part, _PART_MIN), _PART_MAX)


def _cut(sizes: Sequence[int], rows: Sequence[int], most: int) -> np.ndarray:
    """Leaves of these sizes cut into parts of at most so many numbers."""
    whole, first = np.array(sizes, _INTEGER), np.array(rows, _INTEGER)
    counts = -(-whole // most)
    leaf = np.repeat(np.arange(len(whole)), counts)
    start = (np.arange(len(leaf)) - np.repeat(np.cumsum(counts) - counts, counts)) * most
    n = np.minimum(most, whole[leaf] - start)
    return np.stack([leaf, start, n, start, first[leaf]], 1)


def _chunked(parts: np.ndarray, size: int) -> np.ndarray:
    """Begins of chunks of about so many numbers, and the end."""
    ends = np.cumsum(parts[:, 2])
    begins = np.flatnonzero(np.diff((ends - parts[:, 2]) // size)) + 1
    return np.concatenate([[0], begins, [len(parts)]]).astype(_INTEGER)


@functools.lru_cache(maxsize=256)
def dense_cuts(
    plan: Plan, layout: Layout, groups: tuple[int, ...], count: int, part: int = 0
) -> Cuts:
    """The cuts of a step of dense gradients: `groups` are those of the leaves, of so many.

    Parts have at most `part` numbers; 0: what suits their number.
    """
    sizes, of_array = [size * plan.unit for size in layout.sizes], plan.norm == "array"
    owners = [(group, leaf) for leaf, group in enumerate(groups)]
    if not of_array:
        owners = [(group, 0) for group in range(count)]
    rows = range(len(groups)) if of_array else groups
    part = part or part_size(sum(sizes))
    parts = _cut(sizes, rows, part)
    blocks = _cut(sizes if plan.norm else [0] * len(sizes), rows, NORM_BLOCK)
    return Cuts(parts, _chunked(parts, part), blocks, np.array(owners, _INTEGER).reshape(-1, 2))


#: Of a leaf the row numbers, sorted, and the values of a sparse gradient.
Sparse = Mapping[int, tuple[np.ndarray, np.ndarray]]


def row_cuts(
    plan: Plan,
    layout: Layout,
    groups: Sequence[int],
    dense: Cuts,
    sparse: Sparse,
    counts: Sequence[np.ndarray],
    part: int = 0,
) -> Cuts:
    """The cuts of a step of some rows: `dense` are those of a step without them.

    With `counts`, the steps taken by each row of each leaf, rows share scalars where they have
    taken as many.
    """
    sizes = [size * plan.unit for size in layout.sizes]
    for leaf, (_, values) in sparse.items():
        sizes[leaf] = values.size
    part = part or part_size(sum(sizes))
    of_array, found, tables = plan.norm == "array", [], []
    rest = [0 if leaf in sparse else size for leaf, size in enumerate(sizes)]
    first = range(len(sizes)) if of_array else groups
    if not counts:
        found.append(_cut(rest, first, part))
    owners, place = [] if counts else [dense.owners], 0
    for leaf, (rows, values) in sparse.items():
        kinds = np.full(len(rows), first[leaf])
        if counts:
            taken, kinds = classes_of(counts[leaf][rows])
            kinds = kinds + place
            place += len(taken)
            owners.append(np.tile(np.array([groups[leaf], leaf], _INTEGER), (len(taken), 1)))
            tables.append((taken + 1.0, counts[leaf].ctypes.data + 8 * rows))
        found.append(_runs(leaf, rows, kinds, values.size // max(len(rows), 1), part))
    parts = np.concatenate(found)
    blocks = _cut(sizes if plan.norm else [0] * len(sizes), [0] * len(sizes), NORM_BLOCK)
    chunks, of_rows = _chunked(parts, part), np.concatenate(owners)
    if not counts:
        return Cuts(parts, chunks, blocks, of_rows)
    times, counted = map(np.concatenate, zip(*tables, strict=True))
    return Cuts(parts, chunks, blocks, of_rows, times, counted)


def _runs(leaf: int, rows: np.ndarray, kinds: np.ndarray, width: int, part: int) -> np.ndarray:
    """Parts of rows of one leaf, of so many numbers each: neighbours of one kind together."""
    n, most = len(rows), max(part // max(width, 1), 1)
    breaks = (np.diff(rows) != 1) | (np.diff(kinds) != 0) | (np.arange(1, n) % most == 0)
    first = np.concatenate([[0], np.flatnonzero(breaks) + 1])[:n]
    count = np.diff(np.append(first, n))
    columns = [np.full(len(first), leaf), rows[first] * width, count * width, first * width]
    return np.stack([*columns, kinds[first]], 1)


def classes_of(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different ones among these counts, sorted, and the place among them of each."""
    low, high = (int(counts.min()), int(counts.max())) if len(counts) else (0, -1)
    if high - low > 8 * len(counts) + 100_000:
        return np.unique(counts, return_inverse=True)
    # 6 to 9 times faster, where few numbers lie between
    offsets, places = counts - low, np.zeros(high - low + 1, np.int64)
    places[offsets] = 1
    found = np.flatnonzero(places)
    places[found] = np.arange(len(found))
    return found + low, places[offsets]
