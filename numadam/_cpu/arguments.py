"""Arguments of the compiled step: records of the leaves and of the step, filled once."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from numadam._arrays.layout import FEW, Layout, address_of, aligned_zeros
from numadam._core.norms import NORM_BLOCK
from numadam._core.plan import CHECKED, Plan
from numadam._core.scalars import width_of
from numadam._cpu.numpy_abi import kind_of
from numadam._cpu.records import CPU_LEAF, META, SPAN, offset_of

#: Elements of a parallel part, at least and at most, and the number of parts aimed at between.
_PART_MIN, _PART_MAX, _PARTS = 2_048, 65_536, 16
#: Parts are multiples of this, so that each begins on a cache line where its array does: 2 to 4 %
#: less time from 50,000 to 500,000 elements.
_PART_STEP = 64


class _Template(NamedTuple):
    """The arguments that follow from plan, layout and groups; each optimiser copies them.

    Filling them takes 80 us, a copy 3.
    """

    meta: np.ndarray  # META in int64 words; its pointers are offsets in `memory`
    pointers: list[int]  # the places of these words
    memory: np.ndarray
    arrays: dict[str, tuple[Any, np.dtype[Any], int]]  # shape, dtype and offset of each
    partials: int  # how many partial sums of the norm


@functools.lru_cache(maxsize=256)
def _template(plan: Plan, layout: Layout, groups: tuple[int, ...], rows: int) -> _Template:
    n, meta = len(layout.shapes), np.zeros(1, META)
    leaves, factors = np.zeros(n + 1, CPU_LEAF), np.ones((3, n + 1))
    leaves["subtype"][:n], leaves["group"][:n] = id(np.ndarray), groups
    leaves["start"][1:] = np.cumsum(iterations(plan, layout), dtype=np.int64)
    blocks = [-(-size * plan.numbers // NORM_BLOCK) for size in layout.sizes]
    leaves["first_block"][1:] = np.cumsum(blocks, dtype=np.int64)
    factors[2] = math.nan  # norms before the first step
    arrays = {
        "leaves": leaves,
        "dims": _make_dims(layout, leaves),
        "spans": np.zeros(CHECKED * n + 1, SPAN),
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
    dtypes = [plan.array_dtype(slot) for slot in range(CHECKED)]
    meta["kind"], meta["item"] = [*map(kind_of, dtypes)], [one.itemsize for one in dtypes]
    part = -(-int(leaves["start"][n]) // (_PARTS * _PART_STEP)) * _PART_STEP
    meta["part"], meta["every"] = min(max(part, _PART_MIN), _PART_MAX), 1
    return _Template(
        meta.view(np.int64),
        [offset_of(META, name) // 8 for name in offsets],
        np.concatenate([array.reshape(-1).view(np.uint8) for array in arrays.values()]),
        {name: (one.shape, one.dtype, offsets[name]) for name, one in arrays.items()},
        sum(blocks) + 1 if plan.norm else 0,
    )


def _template_for(plan: Plan, layout: Layout, groups: Sequence[int], rows: int) -> _Template:
    make = _template if len(layout.shapes) <= FEW else _template.__wrapped__
    return make(plan, layout, tuple(groups), rows)


def _make_dims(layout: Layout, leaves: np.ndarray) -> np.ndarray:
    """Shape and order of axes of each leaf, and space for the strides of each checked slot."""
    entries = [
        (*shape, *order, *[0] * (len(shape) * CHECKED))
        for shape, order in zip(layout.shapes, layout.orders, strict=True)
    ]
    leaves["ndim"][:-1] = [len(shape) for shape in layout.shapes]
    leaves["place"][1:] = np.cumsum([len(entry) for entry in entries])
    return np.array([*itertools.chain.from_iterable(entries), 0], np.int64)


def iterations(plan: Plan, layout: Layout) -> list[int]:
    """Iterations of the loop that each leaf takes."""
    return [size * plan.unit for size in layout.sizes]


_CONTROL, _PRODUCTS, _PARTIALS = (
    offset_of(META, name) // 8 for name in ("control", "products", "partials")
)


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
        template = _template_for(plan, layout, groups, len(control))
        self.plan, self.layout, self.meta = plan, layout, meta
        self.control, self.products = control, products
        self.meta_at = address_of(meta)
        self._memory = memory = template.memory.copy()
        self._partials = np.zeros(template.partials)
        self._arrays, first, words = template.arrays, address_of(memory), meta.view(np.int64)
        words[:] = template.meta
        for place in template.pointers:
            words[place] += first
        words[_CONTROL], words[_PRODUCTS] = address_of(control), address_of(products)
        words[_PARTIALS] = address_of(self._partials)
        self.leaves, self.spans = self._array("leaves"), self._array("spans")
        if any(kind is not np.ndarray for kind in subtypes):
            self.leaves["subtype"][:-1] = list(map(id, subtypes))
            self._subtypes = list(subtypes)  # keeps their ids alive
        self._work: list[np.ndarray] = []

    def _array(self, name: str) -> np.ndarray:
        shape, dtype, offset = self._arrays[name]
        return np.ndarray(shape, dtype, self._memory.data, offset)

    def set_iterations(self, counts: Sequence[int]) -> None:
        """Set how many iterations of the loop each leaf takes."""
        self.leaves["start"][1:] = np.cumsum(counts, dtype=np.int64)

    @property
    def norms(self) -> np.ndarray:
        """The norm of each leaf at the last step; last that of all of them."""
        factors = self._array("factors")
        return factors[2, :]  # behind the clip factor in two steps

    def bind(self, slot: int, addresses: Sequence[int] | np.ndarray) -> None:
        """Fix the addresses of arrays of the back end's own: steps need not look them up."""
        self.leaves["address"][:-1, slot] = addresses

    def fix_span(self, begin: int, end: int) -> None:
        """Count a buffer of the back end's among what every step writes."""
        self.meta["fixed"] = 1
        self.spans[0] = (begin, end) if begin < end else (0, 0)

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
        self.leaves["work"][leaf, slot] = address_of(self._work[-1])
