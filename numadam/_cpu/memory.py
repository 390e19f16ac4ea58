"""Memory that a compiled step reads and writes, for arrays of given layouts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from numadam._arrays.interop import Layout, address_of, few
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._cpu.cuts import Cuts, dense_cuts
from numadam._cpu.loop import AT, IN_TABLE, text_of
from numadam._cpu.overlap import TOGETHER


class StepMemory:
    """Arrays of a step: a `block` of words with the frame and the table of addresses, norms.

    `control` and `products` have a row for each group, `groups` are those of the leaves. `state` is
    the range of bytes of counters, products and state arrays, where they belong to one optimiser.

    Attributes
    ----------
    block : int64 array
        The `loop.Frame` of a step of dense gradients, the table, and ranges of bytes: that of the
        state, and room for two arrays of each leaf, or six of the only one. A step that brings
        several arrays writes them into a copy.
    table : int64 array (leaves, arrays)
        Addresses of arrays that are the same at every step; 0 for the others.
    spans : int
        The word in which the ranges begin.
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
        self.guard, self.state = guard, state
        leaves = len(layout.shapes)
        self.norms = np.full(leaves + 1, np.nan) if norms is None else norms
        self.totals = np.zeros((leaves if plan.norm == "array" else 1, 2))
        # the direction is the last array of a step that has one
        self.columns = {slot: k for k, slot in enumerate((*text_of(plan).slots, pl.OUT))}
        width, words = len(self.columns), len(AT)
        #: numbers of each leaf, for as many leaves as are noted together
        self.sizes = np.array([*layout.sizes, *[0] * (-leaves % TOGETHER)], np.int64)
        count = len(self.sizes)
        self.spans = words + count * width
        self.block = np.zeros(self.spans + 2 * (1 + 2 * count), np.int64)
        self.block[self.spans : self.spans + 2] = state
        own = {
            AT.table: address_of(self.block) + 8 * words,
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
        self.table = self.block[words : words + leaves * width].reshape(leaves, width)
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
