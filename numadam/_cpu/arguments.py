"""Arguments of the compiled step: records of the leaves and of the step, filled once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from numadam._arrays.layout import Layout, aligned_zeros
from numadam._core.norms import NORM_BLOCK
from numadam._core.plan import CHECKED, S0, Plan
from numadam._core.scalars import width_of
from numadam._cpu.numpy_abi import kind_of
from numadam._cpu.records import ABSENT, CPU_LEAF, SPAN

#: Elements of a parallel part, at least and at most, and the number of parts aimed at between.
_PART_MIN, _PART_MAX, _PARTS = 2_048, 65_536, 16
#: Parts are multiples of this, so that each begins on a cache line where its array does: 2 to 4 %
#: less time from 50,000 to 500,000 elements.
_PART_STEP = 64


class KernelArguments:
    """The memory that a compiled step reads and writes (see `records`), for given layouts.

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
        An array of one META, which is twice as fast as the record itself.
    products : numpy.ndarray
        The products over the steps, one row a group (see `numadam._core.products`).
    groups : sequence of int, optional
        Each leaf's group.
    """

    def __init__(
        self,
        plan: Plan,
        layout: Layout,
        subtypes: Sequence[type],
        control: np.ndarray,
        meta: np.ndarray,
        products: np.ndarray,
        groups: Sequence[int] = (0,),
    ) -> None:
        n = len(layout.shapes)
        self.plan, self.layout, self.meta = plan, layout, meta
        self.control, self.products = control, products
        self.meta_at = meta.ctypes.data
        self.leaves = leaves = np.zeros(n + 1, CPU_LEAF)
        leaves["subtype"][:n], leaves["group"][:n] = list(map(id, subtypes)), groups
        self._subtypes = list(subtypes)  # keeps their ids alive
        self.set_iterations([size * plan.unit for size in layout.sizes])
        #: for each leaf its clip factor in two steps and its norm; last the norm of all
        self.factors = np.ones((3, n + 1))
        self.norms = self.factors[2]
        self.norms[:] = math.nan
        self.spans = np.zeros(CHECKED * n + 1, SPAN)
        self._work: list[np.ndarray] = []
        self._blocks = {
            "leaves": leaves,
            "dims": self._make_dims(),
            "spans": self.spans,
            "order": np.zeros(len(self.spans), np.int64),
            "control": control,
            "products": products,
            "scalars": np.zeros((len(control), width_of(plan))),
            "factors": self.factors,
            "partials": self._make_partials() if plan.norm else np.zeros(1),
        }
        for name, block in self._blocks.items():
            meta[name] = block.ctypes.data
        meta["dims_size"], meta["spans_size"] = len(self._blocks["dims"]), len(self.spans)
        meta["count"], meta["groups"], meta["ndarray"] = n, len(control), id(np.ndarray)
        meta["absent"][:, S0:] = id(ABSENT)
        dtypes = [plan.array_dtype(slot) for slot in range(CHECKED)]
        meta["kind"], meta["item"] = [*map(kind_of, dtypes)], [one.itemsize for one in dtypes]
        part = -(-int(leaves["start"][n]) // (_PARTS * _PART_STEP)) * _PART_STEP
        meta["part"], meta["every"] = min(max(part, _PART_MIN), _PART_MAX), 1

    def _make_dims(self) -> np.ndarray:
        """Shape and order of axes of each leaf, and space for the strides of each checked slot."""
        entries = [
            (*shape, *order, *[0] * (len(shape) * CHECKED))
            for shape, order in zip(self.layout.shapes, self.layout.orders, strict=True)
        ]
        self.leaves["ndim"][:-1] = [len(shape) for shape in self.layout.shapes]
        self.leaves["place"][1:] = np.cumsum([len(entry) for entry in entries])
        return np.array([*itertools.chain.from_iterable(entries), 0], np.int64)

    def set_iterations(self, counts: Sequence[int]) -> None:
        """Set how many iterations of the loop each leaf takes."""
        self.leaves["start"][1:] = np.cumsum(counts, dtype=np.int64)

    def _make_partials(self) -> np.ndarray:
        """One partial sum for each block of the gradient of each leaf."""
        counts = [-(-size * self.plan.numbers // NORM_BLOCK) for size in self.layout.sizes]
        self.leaves["first_block"][1:] = np.cumsum(counts, dtype=np.int64)
        return np.zeros(sum(counts) + 1)

    def bind(self, slot: int, addresses: np.ndarray) -> None:
        """Fix the addresses of arrays of the back end's own: steps need not look them up."""
        self.leaves["address"][: len(addresses), slot] = addresses

    def fix_span(self, buffer: np.ndarray) -> None:
        """Count a buffer of the back end's among what every step writes."""
        self.meta["fixed"] = 1
        first = buffer.ctypes.data
        self.spans[0] = (first, first + buffer.nbytes) if buffer.nbytes else (0, 0)

    @property
    def work_bytes(self) -> int:
        """Bytes of all work arrays."""
        return sum(array.nbytes for array in self._work)

    def grad_norm(self, of_each: bool) -> Any:
        """The norm of the last gradients, or one for each leaf; NaN before the first."""
        n = len(self.layout.shapes)
        return self.norms[:n].tolist() if of_each else float(self.norms[n])

    def add_work(self, slot: int, leaf: int) -> None:
        """Allocate the work array through which an array of other strides goes; it is kept."""
        size = self.layout.sizes[leaf] * self.plan.array_dtype(slot).itemsize
        self._work.append(aligned_zeros(size))
        self.leaves["work"][leaf, slot] = self._work[-1].ctypes.data


def addresses(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Addresses of the first elements of these arrays."""
    return np.array([array.ctypes.data for array in arrays], np.int64)
