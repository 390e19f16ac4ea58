"""Memory that a compiled step reads and writes: its frame, addresses, norms, and cuts.

Cuts are parts and chunks of its loop, blocks of its norm, and whose scalars they read. A part is a
run of numbers of one leaf. Parts in a chunk are the work of one thread: a thousand small arrays are
a few chunks, one large array is many. An element depends on its own values and the norm alone, so
neither changes a bit.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from numadam._arrays.interop import Layout, address_of, few
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._cpu.arrays import TOGETHER
from numadam._cpu.loop import AT, IN_TABLE, NORM_BLOCK, text_of

#: Numbers of a part, at least and at most, and the number of parts aimed at between.
_PART_MIN, _PART_MAX, _PARTS = 2_048, 65_536, 16
#: Parts are multiples of this, so that each begins on a cache line where its array does: 2 to 4 %
#: less time from 50,000 to 500,000 elements.
_PART_STEP = 64


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
    whole, first = np.array(sizes, np.int64), np.array(rows, np.int64)
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
    return np.array([0, *begins, len(parts)], np.int64)


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
    return Cuts(parts, chunked(parts, part), blocks, np.array(owners, np.int64).reshape(-1, 2))


class StepMemory:
    """Arrays of a step: a `block` of words with the frame and the table of addresses, norms.

    `control` and `products` have a row for each group, `groups` are those of the leaves. `state` is
    the range of bytes of counters, products and state arrays, where they belong to one optimiser.

    Attributes
    ----------
    block : int64 array
        The `loop.Frame` of a step of dense gradients, the table, and ranges of bytes: that of the
        state, and room for three arrays of each leaf, or more of the only one. A step that brings
        several arrays writes them into a copy.
    table : int64 array (leaves, arrays)
        Addresses of arrays that are the same at every step; 0 for the others.
    head, spans : int
        The words in which the table and the ranges begin.
    norms : float64 array (leaves + 1,)
        Norm of each leaf at the last step; last that of all of them.
    totals : float64 array (norms, 2)
        Sum of squares and exponent of each norm, see `loop.Frame`.
    """

    def __init__(
        self,
        plan: Plan,
        layout: Layout,
        control: np.ndarray,
        counters: np.ndarray,
        products: np.ndarray,
        groups: Sequence[int] = (0,),
        guard: int = pl.PROPAGATE,
        state: tuple[int, int] = (0, 0),
        norms: np.ndarray | None = None,
    ) -> None:
        self.plan, self.layout, self.groups = plan, layout, tuple(groups)
        self.control, self.counters, self.products = control, counters, products
        self.state = state
        leaves = len(layout.shapes)
        self.norms = np.full(leaves + 1, np.nan) if norms is None else norms
        self.totals = np.zeros((leaves if plan.norm == "array" else 1, 2))
        # the direction is the last array of a step that has one
        self.columns = {slot: k for k, slot in enumerate((*text_of(plan).slots, pl.OUT))}
        width, self.head = len(self.columns), len(AT)
        #: numbers of each leaf, for as many leaves as are noted together
        self.sizes = np.array([*layout.sizes, *[0] * (-leaves % TOGETHER)], np.int64)
        count = len(self.sizes)
        self.spans = self.head + count * width
        self.block = np.zeros(self.spans + 2 * (1 + 3 * count), np.int64)
        self.block[self.spans : self.spans + 2] = state
        own = {
            AT.table: address_of(self.block) + 8 * self.head,
            AT.leaves: leaves,
            AT.arrays: width,
            AT.only: layout.sizes[0] if leaves == 1 else IN_TABLE,
            AT.control: address_of(control),
            AT.groups: len(control),
            AT.columns: control.shape[1],
            AT.totals: address_of(self.totals),
            AT.norms: address_of(self.norms),
            AT.products: address_of(products),
            AT.counters: address_of(counters),
            AT.guard: guard,
            AT.state: state[0],
            AT.state_end: state[1],
        }
        for word, value in own.items():
            self.block[word] = value
        table = self.block[self.head : self.head + leaves * width]
        self.table = table.reshape(leaves, width)
        self.cut()

    def cut(self, part: int = 0) -> None:
        """Cut the loop of a step into parts of at most so many numbers, see `dense_cuts`."""
        layout, self.part = self.layout, part
        make = few(dense_cuts, layout)
        self.cuts: Cuts = make(self.plan, layout, self.groups, len(self.control), part)
        self.work = Work(self, self.cuts)
        self.block[: len(AT)] = self.work.frame

    def begin(self, work: Work) -> tuple[np.ndarray, np.ndarray]:
        """A copy of the block with the frame of some work, and its table."""
        block, words = self.block.copy(), len(AT)
        block[:words] = work.frame
        block[AT.table], block[AT.only] = address_of(block) + 8 * words, IN_TABLE
        return block, block[words : words + self.table.size].reshape(self.table.shape)

    def bind(self, slot: int, addresses: Sequence[int]) -> None:
        """Fix the addresses of arrays that no step brings."""
        self.table[:, self.columns[slot]] = addresses


class Work:
    """The frame of a step of these cuts, and the arrays that belong to it alone.

    `steps` are those taken when the `times` of the cuts were found.
    """

    def __init__(self, memory: StepMemory, cuts: Cuts, steps: int = 0) -> None:
        self._cuts, self._sums = cuts, np.empty(len(cuts.blocks))
        width = text_of(memory.plan).width
        self._rows = np.zeros((len(cuts.owners), width), memory.plan.real)
        self.frame = memory.block[: len(AT)].copy()
        words = {
            **cuts.words,
            AT.rows: address_of(self._rows),
            AT.row_count: len(self._rows),
            AT.sums: address_of(self._sums),
            AT.steps: steps,
        }
        for word, value in words.items():
            self.frame[word] = value
