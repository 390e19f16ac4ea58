"""State of an optimiser on a GPU, and the arguments of its kernels."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from numadam._arrays import checks as ar
from numadam._arrays.interop import Layout
from numadam._backend import Leaves
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._cuda import arrays as ca
from numadam._cuda import kernel as spec
from numadam._cuda import launch as policy
from numadam._cuda.arrays import is_flat
from numadam._cuda.memory import WIDEST
from numadam._cuda.norms import norm_iterations, norm_slots, round_size, rounds_of
from numadam._cuda.scalars import Upload

if TYPE_CHECKING:
    from numadam._settings.settings import Settings


# --- the arrays of a step as kernels read them ---------------------------------------------------

#: Blocks of threads that fill any GPU: with more than these a thread takes several tiles.
_FULL = 2_048


def phases(arrays: Sequence[Any], orders: Sequence[tuple[int, ...]], plan: Plan) -> list[int]:
    """For each array the elements between its begin and the multiple of 16 bytes before it.

    State with the same phase has its tiles at the same elements.
    """
    size = plan.dtype.itemsize
    return [
        int(a.data.ptr) % WIDEST // size if a.size and is_flat(a, order) else 0
        for a, order in zip(arrays, orders, strict=True)
    ]


class KernelArguments:
    """The record of each leaf, on the host and, where there are `many`, in a table on the GPU.

    Over one leaf kernels get its numbers as arguments: `work`, its head, tiles, items and group.
    `blocks` are those of threads of a step, `parts` the partial sums of a norm; where these begin
    of each leaf is in `first_parts`, with the end. At `leaves_address` and `part_leaves_address`
    are the leaves that blocks work on, in the step and in the norm.
    """

    def __init__(self, plan: Plan, layout: Layout, groups: Sequence[int]) -> None:
        import cupy

        n = len(layout.sizes)
        self._plan, self.groups, self.many = plan, list(groups), n > 1
        self._addresses = {slot: [0] * n for slot in range(pl.SLOTS)}
        self._offsets: dict[int, list[int]] = {}
        self._tiles_of: tuple[Any, ...] | None = None  # the arguments of the last `_find_tiles`
        self.work: tuple[int, ...] = ()
        self._iterations = np.array(layout.sizes, np.int64) * plan.unit
        self._numbers = np.array(layout.sizes, np.int64) * plan.numbers
        self._per_tile = spec.tile_iterations(plan, spec.step_slots(plan, has_out=False))
        self.records = np.zeros(n, spec.LEAF)
        self.records["group"] = self.groups
        # two views of the records: CuPy has none, and a field taken at each step costs 0.5 us
        self._words, self._address_fields = self.records.view(np.int64), self.records["addresses"]
        one = policy.THREADS * self._per_tile  # iterations of a block of threads
        if self._iterations.sum() > one * _FULL:
            one *= policy.TILES_PER_THREAD
        blocks = -(-self._iterations // one)
        self.records["blocks"], ends = blocks, np.cumsum(blocks)
        self.records["first_block"], self.blocks = ends - blocks, int(ends[-1])
        self.records["norm_rounds"] = rounds = rounds_of(self._numbers)
        parts = -(-self._numbers // (rounds * round_size()))
        self.first_parts = [0, *np.cumsum(parts).tolist()]
        self.records["first_part"], self.parts = self.first_parts[:-1], self.first_parts[-1]
        self.table_address = self.leaves_address = self.part_leaves_address = 0
        if self.many:
            # the records are int64 there
            self._table = cupy.zeros(len(self.records) * (spec.LEAF.itemsize // 8), np.int64)
            self.table_address, self._upload = ca.address_of(self._table), Upload(self._table)
            numbers = np.arange(n, dtype=np.int32)
            self._leaves = [cupy.asarray(numbers.repeat(counts)) for counts in (blocks, parts)]
            self.leaves_address, self.part_leaves_address = map(ca.address_of, self._leaves)

    def note(self, slot: int, addresses: list[int]) -> None:
        """Record where the arrays of a slot begin."""
        # tiles stay where they are while the alignment does
        offsets = [address & (WIDEST - 1) for address in addresses]
        if offsets != self._offsets.get(slot):
            self._offsets[slot], self._tiles_of = offsets, None
        self._addresses[slot] = addresses
        if self.many:
            self._address_fields[:, slot] = addresses

    def finish(self, slots: tuple[int, ...], norm_sizes: dict[int, int]) -> None:
        """Find the tiles of a step over these slots, and bring the GPU's table up to date.

        `norm_sizes` has by leaf how many numbers of a sparse gradient the norm adds up. The pass
        over all elements leaves these leaves out.
        """
        if self._tiles_of != (slots, norm_sizes):
            self._find_tiles(slots, norm_sizes)
            self._tiles_of = slots, norm_sizes
        if self.many:
            self._upload(self._words)

    def _find_tiles(self, slots: tuple[int, ...], norm_sizes: dict[int, int]) -> None:
        plan, iterations, width = self._plan, self._iterations, self._per_tile
        heads, fit = [], np.ones(len(iterations), bool)
        for slot in slots:
            address, step = np.array(self._addresses[slot], np.int64), plan.stride(slot)
            heads.append(-(address // step) % width)
            fit &= (address % step == 0) & (heads[-1] == heads[0])
        head, records = heads[0], self.records
        tiles = np.where(fit, np.maximum(iterations - head, 0) // width, 0)
        records["head"] = np.where(fit, head, 0)
        records["tiles"] = tiles
        records["items"] = iterations - tiles * (width - 1)
        records["norm_size"] = self._numbers
        for k, size in norm_sizes.items():
            records[k]["tiles"] = records[k]["items"] = 0
            records[k]["norm_size"] = size
        if plan.norm:
            records["norm_tiled"] = self._norm_tiled()
        if len(records) == 1:
            self.work = tuple(int(records[0][name]) for name in spec.WORK_FIELDS)

    def _norm_tiled(self) -> Any:
        """For each leaf whether its norm is added up in tiles: all of its arrays are aligned."""
        tiled, width = np.ones(len(self._iterations), bool), norm_iterations(self._plan)
        for slot in norm_slots(self._plan):
            size = self._plan.real.itemsize * width
            tiled &= np.array(self._addresses[slot], np.int64) % size == 0
        return tiled

    def addresses(self, slots: Sequence[int], leaf: int) -> list[int]:
        """Addresses of one leaf's arrays."""
        return [self._addresses[slot][leaf] for slot in slots]

    def norm_arguments(self) -> tuple[int, ...]:
        """Numbers of the only leaf that are added up, whether in tiles, and in how many rounds."""
        leaf = self.records[0]
        return tuple(int(leaf[name]) for name in ("norm_size", "norm_tiled", "norm_rounds"))


# --- the arrays of an optimiser on a GPU ---------------------------------------------------------


class CudaState:
    """State arrays in one flat block, aligned so that they share the parameters' tiles.

    `layouts` are those of the state arrays by name, `own` all arrays of the back end's by slot, and
    `saved` what a snapshot copies. The GPU of the parameters is the current one in all methods.
    """

    def __init__(self, settings: Settings, params: Leaves) -> None:
        self._settings, plan = settings, settings.plan
        shapes, orders = [p.shape for p in params], [ar.memory_order(p) for p in params]
        self._phases = phases(params, orders, plan)
        self.layout = Layout(shapes, orders, plan.dtype)
        self.layouts = {name: self._like(slot) for name, slot in plan.state_slots.items()}
        if plan.by_row:
            self.layouts[pl.ROW_COUNTS] = self.layout.of_rows()
        self._block = _zeros(sum(one.nbytes for one in self.layouts.values()))
        self.saved = [self._block]
        self.state = self._views(self._block)
        self.own = {slot: self.state[name] for name, slot in plan.state_slots.items()}
        self._fill_per_element()

    def _like(self, slot: int) -> Layout:
        """The layout of the arrays of a slot: shapes, orders and phases of the parameters."""
        dtype = self._settings.plan.array_dtype(slot)
        return Layout(self.layout.shapes, self.layout.orders, dtype, self._phases)

    def _views(self, block: Any) -> dict[str, list[Any]]:
        """The state arrays in a block like the own one."""
        views, first = {}, 0
        for name, layout in self.layouts.items():
            views[name] = layout.views(block[first : first + layout.nbytes])
            first += layout.nbytes
        return views

    def _fill_per_element(self) -> None:
        """Arrays of bounds and step sizes in the memory order of the parameters."""
        for slot, values in self._settings.per_element.items():
            layout = self._like(slot)
            self.own[slot] = layout.views(_zeros(layout.nbytes))
            for view, value in zip(self.own[slot], values, strict=True):
                _fill(view, value)

    def start(self, params: Leaves) -> None:
        """Bring parameters into their bounds, and set what is not zero before the first step."""
        import cupy

        settings, boxes = self._settings, self._settings.leaf_boxes()
        for param, box in zip(params, boxes or (), strict=boxes is not None):
            for beyond, bound in zip((operator.lt, operator.gt), box, strict=True):
                limit = cupy.asarray(bound)
                cupy.copyto(param, limit, where=beyond(param, limit))
        if settings.plan.average and not settings.options["ema_debias"]:
            for view, param in zip(self.state["average"], params, strict=True):
                view[...] = param
        for name, value in settings.rule.initial(settings.options).items():
            for view in self.state[name]:
                _fill(view, value)

    def named(self, names: Sequence[str]) -> list[ca.Named]:
        """The state arrays by what the user calls them; `names` are the parameters'."""
        return [
            (f"state[{name!r}]{names[k].removeprefix('params')}", view)
            for name, views in self.state.items()
            for k, view in enumerate(views)
        ]

    def gradients(self) -> list[Any]:
        """Gradient buffers of the parameters' shapes in one flat buffer."""
        return self.layout.views(_zeros(self.layout.nbytes))

    def staged(self, state: Mapping[str, Leaves]) -> Any:
        """The block as it would be with other state arrays."""
        staged = self._block.copy()
        views = self._views(staged)
        for name, leaves in state.items():
            for view, leaf in zip(views[name], leaves, strict=True):
                view[...] = leaf
        return staged

    def take(self, staged: Any) -> None:
        """Copy a staged block into the own one; or a number."""
        self._block[...] = staged


def _zeros(size: int) -> Any:
    import cupy

    return cupy.zeros(size, np.uint8)


def _fill(view: Any, value: Any) -> None:
    """Write numbers into an array, into both parts of complex ones."""
    import cupy

    numbers = cupy.asarray(value)
    view[...] = numbers * (1 + 1j) if view.dtype.kind == "c" else numbers
