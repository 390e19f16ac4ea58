"""Cuts of a step: parts and chunks of its loop, blocks of its norm, and whose scalars they read.

A part is a run of numbers of one leaf. Parts in a chunk are the work of one thread: a thousand
small arrays are a few chunks, one large array is many. An element depends on its own values and
the norm alone, so neither changes a bit.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from numadam._arrays.interop import Layout, address_of
from numadam._core.plan import Plan
from numadam._cpu.loop import AT, NORM_BLOCK

#: Numbers of a part, at least and at most, and the number of parts aimed at between.
_PART_MIN, _PART_MAX, _PARTS = 2_048, 65_536, 16
#: Parts are multiples of this, so that each begins on a cache line where its array does: 2 to 4 %
#: less time from 50,000 to 500,000 elements.
_PART_STEP = 64

_INTEGER = np.int64


class Cuts:
    """Arrays of `loop.Frame`, of one step; `words` of a frame say where they are."""

    def __init__(
        self,
        parts: np.ndarray,
        chunks: np.ndarray,
        blocks: np.ndarray,
        owners: np.ndarray,
        times: np.ndarray | None = None,
        counted: np.ndarray | None = None,
    ) -> None:
        self.blocks, self.owners = blocks, owners
        arrays = {AT.parts: parts, AT.chunks: chunks, AT.blocks: blocks, AT.owners: owners}
        if times is not None and counted is not None:
            arrays |= {AT.times: times, AT.counted: counted}
        self._kept = arrays
        self.words = {word: address_of(array) for word, array in arrays.items()}
        self.words |= {AT.chunk_count: len(chunks) - 1, AT.block_count: len(blocks)}
        self.words[AT.counted_size] = 0 if counted is None else len(counted)


def part_size(total: int) -> int:
    """Numbers of a part of so many."""
    part = -(-total // (_PARTS * _PART_STEP)) * _PART_STEP
    return min(max(part, _PART_MIN), _PART_MAX)


def cut(sizes: Sequence[int], rows: Sequence[int], most: int) -> np.ndarray:
    """Leaves of these sizes cut into parts of at most so many numbers."""
    whole, first = np.array(sizes, _INTEGER), np.array(rows, _INTEGER)
    counts = -(-whole // most)
    leaf = np.repeat(np.arange(len(whole)), counts)
    start = (np.arange(len(leaf)) - np.repeat(np.cumsum(counts) - counts, counts)) * most
    n = np.minimum(most, whole[leaf] - start)
    return np.stack([leaf, start, n, start, first[leaf]], 1)


def chunked(parts: np.ndarray, size: int) -> np.ndarray:
    """Begins of chunks of about so many numbers, and the end."""
    starts = np.cumsum(parts[:, 2]) - parts[:, 2]
    limits = range(size, int(starts[-1]) + 1 if len(starts) else 0, size)
    begins = np.unique(np.searchsorted(starts, limits)) if limits else ()
    return np.array([0, *begins, len(parts)], _INTEGER)


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
    parts = cut(sizes, rows, part)
    blocks = cut(sizes if plan.norm else [0] * len(sizes), rows, NORM_BLOCK)
    return Cuts(parts, chunked(parts, part), blocks, np.array(owners, _INTEGER).reshape(-1, 2))
