"""Arguments of the compiled step: records of the leaves and of the step, filled once."""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from numadam._arrays.interop import Layout, address_of, aligned_zeros, few, layout_of
from numadam._core.norms import NORM_BLOCK
from numadam._core.plan import CHECKED, ROW_COUNTS, S0, G, Plan
from numadam._core.scalars import product_width, width_of
from numadam._cpu.parts import row_scalars_width
from numadam._cpu.records import ABSENT, CPU_LEAF, META, SPAN, kind_of
from numadam._jit.pointers import offset_of
from numadam._jit.process import cached_property

#: Elements of a parallel part, at least and at most, and the number of parts aimed at between.
_PART_MIN, _PART_MAX, _PARTS = 2_048, 65_536, 16
#: Parts are multiples of this, so that each begins on a cache line where its array does: 2 to 4 %
#: less time from 50,000 to 500,000 elements.
_PART_STEP = 64


class StatePlaces(NamedTuple):
    """Places of META, the running products and the state arrays in the block of an optimiser."""

    names: tuple[str, ...]
    slots: tuple[int, ...]
    layouts: tuple[Layout, ...]
    firsts: tuple[int, ...]  # offsets of the state arrays
    end: int
    unit: int  # the block begins on a multiple of it
    products: tuple[int, int]  # shape of the products, which follow META


@functools.lru_cache(maxsize=256)
def state_places(plan: Plan, layout: Layout, rows: int) -> StatePlaces:
    """The places of the state of parameters of this layout, in so many groups."""
    dtypes = map(plan.array_dtype, plan.state_slots.values())
    layouts = tuple(layout_of(layout.shapes, layout.orders, dtype) for dtype in dtypes)
    products = rows, product_width(plan)
    names, slots = tuple(plan.state_slots), tuple(plan.state_slots.values())
    if plan.by_row:
        names, layouts = (*names, ROW_COUNTS), (*layouts, layout.of_rows())
    firsts, end, unit = Layout.place(META.itemsize + 8 * math.prod(products), layouts)
    return StatePlaces(names, slots, layouts, tuple(firsts), end, unit, products)


class _Template(NamedTuple):
    """The arguments that follow from plan, layout and groups; each optimiser copies them.

    Filling them takes 80 us, a copy 3.
    """

    meta: np.ndarray  # META in int64 words; its pointers are offsets in `memory`
    pointers: np.ndarray  # the places of these words
    memory: np.ndarray  # in int64 words; addresses in the block of the state are offsets in that
    of_state: np.ndarray  # the places of these words
    arrays: dict[str, tuple[Any, np.dtype[Any], int]]  # shape, dtype and offset of each
    partials: int  # words of the partial sums of the norm


@functools.lru_cache(maxsize=256)
def _template(
    plan: Plan, layout: Layout, groups: tuple[int, ...], rows: int, state: StatePlaces | None
) -> _Template:
    n, meta, factors = len(layout.shapes), np.zeros(1, META), np.ones((3, len(layout.shapes) + 1))
    leaves, dims = _make_leaves(plan, layout, groups)
    factors[2] = math.nan  # norms before the first step
    spans, in_state = np.zeros(CHECKED * n + 1, SPAN), np.zeros(n + 1, CPU_LEAF)
    if state is not None:
        # every step writes all of the state arrays
        meta["fixed"], spans[0] = 1, (state.firsts[0], state.end) if state.firsts else (0, 0)
        # the counts of rows have no slot
        for slot, first, of_slot in zip(state.slots, state.firsts, state.layouts, strict=False):
            leaves["address"][:n, slot] = of_slot.addresses(first)
            in_state["address"][:n, slot] = 1
    arrays = {
        "leaves": leaves,
        "spans": spans,
        "dims": dims,
        "order": np.zeros(CHECKED * n + 1, np.int64),
        "scalars": np.zeros((rows, width_of(plan))),
        "factors": factors,
    }
    ends = list(itertools.accumulate(array.nbytes for array in arrays.values()))
    offsets = dict(zip(arrays, [0, *ends], strict=False))
    for name, offset in offsets.items():
        meta[name] = offset
    meta["dims_size"], meta["spans_size"] = len(arrays["dims"]), len(arrays["spans"])
    meta["count"], meta["groups"], meta["ndarray"] = n, rows, id(np.ndarray)
    meta["absent"][:, S0:] = id(ABSENT)
    dtypes = [plan.array_dtype(slot) for slot in range(CHECKED)]
    meta["kind"], meta["item"] = [*map(kind_of, dtypes)], [one.itemsize for one in dtypes]
    meta["part"] = _part_size(int(leaves["start"][n]))
    of_state = np.flatnonzero(in_state.view(np.int64))
    if state is not None and state.firsts:
        of_state = np.append(of_state, offsets["spans"] // 8 + np.arange(2))
    return _Template(
        meta.view(np.int64),
        np.array([offset_of(META, name) // 8 for name in offsets]),
        np.concatenate([array.reshape(-1).view(np.int64) for array in arrays.values()]),
        of_state,
        {name: (one.shape, one.dtype, offsets[name]) for name, one in arrays.items()},
        2 * int(leaves["first_block"][n]) if plan.norm else 0,
    )


def _part_size(total: int) -> int:
    """Iterations of a parallel part of so many."""
    part = -(-total // (_PARTS * _PART_STEP)) * _PART_STEP
    return min(max(part, _PART_MIN), _PART_MAX)


def _make_leaves(
    plan: Plan, layout: Layout, groups: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The records of the leaves without addresses, and one behind them; and their dims.

    Dims are shape and order of axes of each leaf, and space for the strides of each checked slot.
    """
    n = len(layout.shapes)
    leaves = np.zeros(n + 1, CPU_LEAF)
    leaves["subtype"][:n], leaves["group"][:n] = id(np.ndarray), groups
    leaves["start"][1:] = np.cumsum(layout.sizes, dtype=np.int64) * plan.unit
    blocks = [-(-size * plan.numbers // NORM_BLOCK) for size in layout.sizes]
    leaves["first_block"][1:] = np.cumsum(blocks, dtype=np.int64)
    entries = [
        (*shape, *order, *[0] * (len(shape) * CHECKED))
        for shape, order in zip(layout.shapes, layout.orders, strict=True)
    ]
    leaves["ndim"][:n] = [len(shape) for shape in layout.shapes]
    leaves["place"][1:] = np.cumsum([len(entry) for entry in entries])
    return leaves, np.array([*itertools.chain.from_iterable(entries), 0], np.int64)


class RowsRecord(NamedTuple):
    """META and leaves of one step of rows, and the other memory that they point at."""

    meta: np.ndarray
    leaves: np.ndarray
    others: list[np.ndarray]


class KernelArguments:
    """The memory that a compiled step reads and writes (see `records`), for given layouts.

    `layout` is that of the parameters, and `subtypes` are their types. The control block and the
    products over the steps have a row for each group, `groups` has the group of each leaf. `meta`
    is an array of one META, which is twice as fast as the record itself; where there is a `state`,
    its arrays lie behind `meta`.
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
        state: StatePlaces | None = None,
    ) -> None:
        make = few(_template, layout)
        template = make(plan, layout, tuple(groups), len(control), state)
        self.plan, self.layout, self.meta = plan, layout, meta
        self.control, self.products = control, products
        self.meta_at = meta_at = address_of(meta)
        self._arrays, self._memory = template.arrays, template.memory.copy()
        self._memory[template.of_state] += meta_at
        words = meta.view(np.int64)
        words[:] = template.meta
        words[template.pointers] += address_of(self._memory)
        meta["home"] = meta_at
        meta["control"], meta["products"] = address_of(control), address_of(products)
        if template.partials:
            self._partials = np.zeros(template.partials, np.int64)
            meta["partials"] = address_of(self._partials)
        if subtypes.count(np.ndarray) < len(subtypes):
            self.leaves["subtype"][:-1] = list(map(id, subtypes))
            self._subtypes = list(subtypes)  # keeps their ids alive
        self._work: list[np.ndarray] = []

    def _array(self, name: str) -> np.ndarray:
        shape, dtype, offset = self._arrays[name]
        return np.ndarray(shape, dtype, self._memory.data, offset)

    @cached_property
    def leaves(self) -> np.ndarray:
        """The records of the leaves, and one behind them."""
        return self._array("leaves")

    def new_row_scalars(self, counts: np.ndarray) -> np.ndarray:
        """A table for the scalars of rows that have taken so many steps, see `records`."""
        table = np.zeros((len(counts) + 1, row_scalars_width(self.plan)))
        table[:-1, -1] = counts + 1
        return table

    def for_rows(self, sparse: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> RowsRecord:
        """Records for one step of these rows and their values, by leaf.

        Copies: whatever comes before the step, a step of other gradients finds nothing of it.
        """
        meta, leaves = self.meta.copy(), self.leaves.copy()
        counts = [size * self.plan.unit for size in self.layout.sizes]
        for leaf, (rows, values) in sparse.items():
            counts[leaf] = values.size
            # without rows there is nothing to look up, and no address to be trusted
            leaves["rows"][leaf] = address_of(rows) if len(rows) else 0
            leaves["width"][leaf] = values.size // max(len(rows), 1) or 1
            leaves["address"][leaf, G] = address_of(values)
        leaves["start"][1:] = list(itertools.accumulate(counts))
        meta["part"] = min(int(meta["part"][0]), _part_size(sum(counts)))
        meta["leaves"] = address_of(leaves)
        return RowsRecord(meta, leaves, [])

    def leaves_at(self, meta_at: int) -> np.ndarray:
        """The records of the leaves of the META at this address."""
        at = ctypes.c_int64.from_address(meta_at + offset_of(META, "leaves")).value
        shape, dtype, _ = self._arrays["leaves"]
        size = math.prod(shape) * dtype.itemsize
        return np.ndarray(shape, dtype, (ctypes.c_char * size).from_address(at))

    @property
    def norms(self) -> np.ndarray:
        """The norm of each leaf at the last step; last that of all of them."""
        factors = self._array("factors")
        return factors[2, :]  # behind the clip factor in two steps

    def bind(self, slot: int, addresses: Sequence[int] | np.ndarray) -> None:
        """Fix the addresses of arrays of the back end's own: steps need not look them up."""
        self.leaves["address"][:-1, slot] = addresses

    @property
    def work_bytes(self) -> int:
        """Bytes of all work arrays."""
        return sum(array.nbytes for array in self._work)

    def add_work(self, slot: int, leaf: int) -> None:
        """Allocate the work array through which an array of other strides goes; it is kept."""
        size = self.layout.sizes[leaf] * self.plan.array_dtype(slot).itemsize
        work = aligned_zeros(size)
        self._work.append(work)
        self.leaves["work"][leaf, slot] = address_of(work)
