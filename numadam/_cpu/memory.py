"""Memory that a compiled step reads and writes, for arrays of given layouts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from numadam._arrays.interop import Layout, address_of, few
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._cpu.cuts import Cuts, dense_cuts
from numadam._cpu.loop import AT, IN_TABLE, WHOLE, Frame, text_of


def _at(array: np.ndarray | None) -> int:
    return 0 if array is None else address_of(array)


class StepMemory:
    """Arrays of a step: their `work`, a `table` of addresses, norms.

    `control` and `products` have a row for each group, `groups` are those of the leaves. `state` is
    the range of bytes of counters, products and state arrays, where they belong to one optimiser.

    Attributes
    ----------
    table : int64 array (leaves, arrays)
        Addresses of arrays that are the same at every step; 0 for the others. A step that brings
        arrays writes them into a copy.
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
        self.table = np.zeros((leaves, len(self.columns)), np.int64)
        self.cut()

    def cut(self, part: int = 0) -> None:
        """Cut the loop of a step into parts of at most so many numbers, see `dense_cuts`."""
        layout, self.part = self.layout, part
        make = few(dense_cuts, layout)
        self.cuts: Cuts = make(self.plan, layout, self.groups, len(self.control), part)
        self.work = Work(self, self.cuts)
        #: the frame of a step whose only array and gradient come with the call
        self.of_one = changed(self.work.frame, only=sum(layout.sizes))

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
        frame = Frame(
            table=_at(memory.table),
            leaves=len(memory.table),
            arrays=len(memory.columns),
            stage=WHOLE,
            only=IN_TABLE,
            control=_at(memory.control),
            groups=len(memory.control),
            columns=memory.control.shape[1],
            rows=_at(self._rows),
            row_count=len(self._rows),
            parts=_at(cuts.parts),
            chunks=_at(cuts.chunks),
            chunk_count=len(cuts.chunks) - 1,
            blocks=_at(cuts.blocks),
            block_count=len(cuts.blocks),
            sums=_at(self._sums),
            totals=_at(memory.totals),
            norms=_at(memory.norms),
            owners=_at(cuts.owners),
            products=_at(memory.products),
            counters=_at(memory.counters),
            guard=memory.guard,
            state=memory.state[0],
            state_end=memory.state[1],
            steps=steps,
            times=_at(cuts.times),
            counted=_at(cuts.counted),
            counted_size=0 if cuts.counted is None else len(cuts.counted),
        )
        self.frame = np.array(frame, np.int64)


_PLACES = AT._asdict()


def changed(frame: np.ndarray, **words: int) -> np.ndarray:
    """A copy of a frame with some other words."""
    frame = frame.copy()
    for name, value in words.items():
        frame[_PLACES[name]] = value
    return frame
