"""The table of a step: where each array of each leaf lies, for the compiled loop to read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from numadam._arrays.layout import Layout, aligned_zeros
from numadam._core.norms import NORM_BLOCK
from numadam._core.plan import CHECKED, Plan
from numadam._core.scalars import width_of
from numadam._cpu import validate as dr
from numadam._cpu.numpy_abi import kind_of

#: Elements a parallel part has at least and at most, and the number of parts aimed at between.
_PART_MIN, _PART_MAX, _PARTS = 2_048, 65_536, 16


class KernelArguments:
    """The int64 blocks that a compiled step reads (see `door`), for leaves of these layouts.

    Parameters
    ----------
    plan : Plan
    layout : Layout
        Of the parameters.
    subtypes : sequence of type
        Type of each parameter, where it may be a subclass of ndarray.
    control : numpy.ndarray
        The float64 control block, one row a group.
    meta : numpy.ndarray
        The int64 scalars, in memory of the caller's choice.
    rows : sequence of int, optional
        Each leaf's row of the control block.
    """

    def __init__(
        self,
        plan: Plan,
        layout: Layout,
        subtypes: Sequence[type],
        control: np.ndarray,
        meta: np.ndarray,
        rows: Sequence[int] = (0,),
    ) -> None:
        n = len(layout.shapes)
        self.plan, self.layout, self.meta, self.control = plan, layout, meta, control
        self.meta_at = meta.ctypes.data
        self.blocks = np.zeros((dr.ROWS, n + 1), np.int64)
        axes = [
            (*shape, *order, *[0] * (len(shape) * CHECKED))
            for shape, order in zip(layout.shapes, layout.orders, strict=True)
        ]
        self.dims = np.array([*itertools.chain.from_iterable(axes), 0], np.int64)
        self.spans = np.zeros((3, (CHECKED - 1) * n + 1), np.int64)
        self.scalars = np.zeros((len(control), width_of(plan)))
        #: for each leaf its clip factor in two steps and its norm; last the norm of all
        self.factors = np.ones((3, n + 1))
        self.norms = self.factors[2]
        self.norms[:] = math.nan
        self._work: list[np.ndarray] = []
        blocks = self.blocks
        blocks[dr.ND, :n] = [len(shape) for shape in layout.shapes]
        blocks[dr.PLACE, 1:] = np.cumsum([len(entry) for entry in axes])
        blocks[dr.SUBTYPE, :n] = [id(subtype) for subtype in subtypes]
        blocks[dr.ROW, :n] = rows
        self._subtypes = list(subtypes)  # keeps their ids alive
        self.set_iterations([size * plan.unit for size in layout.sizes])
        total = int(blocks[dr.START, n])
        self.partials = self._make_partials() if plan.norm else np.zeros(1)
        meta[dr.COUNT], meta[dr.NDARRAY] = n, id(np.ndarray)
        for slot in range(CHECKED):
            dtype = plan.array_dtype(slot)
            meta[dr.KIND + slot], meta[dr.ITEM + slot] = kind_of(dtype), dtype.itemsize
        meta[dr.PART] = min(max(-(-total // _PARTS), _PART_MIN), _PART_MAX)
        meta[dr.NDIMS], meta[dr.NSPANS] = len(self.dims), self.spans.shape[1]
        meta[dr.GROUPS], meta[dr.EVERY] = len(control), 1
        for place, block in (
            (dr.TABLE, blocks),
            (dr.DIMS, self.dims),
            (dr.SPANS, self.spans),
            (dr.CONTROL, control),
            (dr.SCALARS, self.scalars),
            (dr.FACTORS, self.factors),
            (dr.PARTIALS, self.partials),
        ):
            meta[place] = block.ctypes.data

    def set_iterations(self, turns: Sequence[int]) -> None:
        """How many turns of the loop each leaf takes."""
        self.blocks[dr.START, 1:] = np.cumsum(turns, dtype=np.int64)

    def _make_partials(self) -> np.ndarray:
        """One partial sum for each block of the gradient of each leaf."""
        counts = [-(-size * self.plan.numbers // NORM_BLOCK) for size in self.layout.sizes]
        self.blocks[dr.BLOCK, 1:] = np.cumsum(counts, dtype=np.int64)
        return np.zeros(sum(counts) + 1)

    def own(self, slot: int, where: np.ndarray) -> None:
        """Fix the addresses of arrays that belong to the back end: steps need not look them up."""
        self.blocks[dr.ADDRESS + slot, : len(where)] = where

    def fix_span(self, buffer: np.ndarray) -> None:
        """Count a buffer of the back end's among what every step writes."""
        self.meta[dr.FIXED] = 1
        first = buffer.ctypes.data
        self.spans[: dr.ORDER, 0] = (first, first + buffer.nbytes) if buffer.nbytes else (0, 0)

    @property
    def work_bytes(self) -> int:
        """Bytes of all work arrays."""
        return sum(array.nbytes for array in self._work)

    def grad_norm(self, of_each: bool) -> Any:
        """The norm of the last gradients, or one for each leaf; NaN before the first."""
        n = len(self.layout.shapes)
        return self.norms[:n].tolist() if of_each else float(self.norms[n])

    def add_work(self, slot: int, leaf: int) -> None:
        """Make the work array through which an array of other strides goes; it is kept."""
        size = self.layout.sizes[leaf] * self.plan.array_dtype(slot).itemsize
        self._work.append(aligned_zeros(size))
        self.blocks[dr.WORK + slot, leaf] = self._work[-1].ctypes.data


def addresses(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Where the data of these arrays begin."""
    return np.array([array.ctypes.data for array in arrays], np.int64)
