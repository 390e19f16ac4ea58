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
from numadam._cuda.kernel import FIELDS, THREADS, WORDS
from numadam._cuda.norms import PART
from numadam._cuda.scalars import Upload

if TYPE_CHECKING:
    from numadam._settings.settings import Settings


# --- the arrays of a step as kernels read them ---------------------------------------------------


#: What has blocks of its own.
_OF = "step", "norm"


class KernelArguments:
    """Arguments of kernels for each leaf, on the host and, where there are `many`, on the GPU.

    `blocks` are those of threads of a step, `parts` the partial sums of a norm; where these begin
    of each leaf is in `first_parts`, with the end.
    """

    def __init__(self, plan: Plan, layout: Layout, groups: Sequence[int]) -> None:
        import cupy

        n = len(layout.sizes)
        self.groups, self.many = list(groups), n > 1
        self._table = np.zeros((n, WORDS), np.int64)
        self._fields = dict(zip(FIELDS, self._table.T, strict=False))
        self._addresses: dict[int, list[int]] = {}  # by slot
        self._sizes = np.array(layout.sizes, np.int64)
        self._units = {"iterations": plan.unit, "norm_numbers": plan.numbers}
        self._fields["group"][:] = self.groups
        blocks, parts = (
            -(-self._sizes * plan.unit // THREADS),
            -(-self._sizes * plan.numbers // PART),
        )
        self._fields["first_block"][:] = np.cumsum(blocks) - blocks
        self._fields["norm_first"][:] = np.cumsum(parts) - parts
        self.first_parts = [0, *np.cumsum(parts).tolist()]
        self.blocks, self.parts = int(blocks.sum()), self.first_parts[-1]
        self._sparse: Mapping[int, int] | None = None
        self.set_sparse({})
        if self.many:
            table = cupy.zeros(self._table.shape, np.int64)
            self._upload = Upload(table)
            numbers = np.arange(n, dtype=np.int32)
            self._leaves = [cupy.asarray(numbers.repeat(counts)) for counts in (blocks, parts)]
            places = map(ca.address_of, self._leaves)
            self._table_at, self._leaves_at = (
                ca.address_of(table),
                dict(zip(_OF, places, strict=True)),
            )

    def note(self, slot: int, addresses: list[int]) -> None:
        """Record where the arrays of a slot begin."""
        self._addresses[slot] = addresses
        if self.many:
            self._table[:, len(FIELDS) + slot] = addresses

    def set_sparse(self, sparse: Mapping[int, int]) -> None:
        """Note by leaf how many elements of a sparse gradient the norm adds up.

        The pass over all elements leaves these leaves out.
        """
        if sparse == self._sparse:
            return
        for name, unit in self._units.items():
            self._fields[name][:] = self._sizes * unit
        for k, size in sparse.items():
            self._fields["iterations"][k] = 0
            self._fields["norm_numbers"][k] = size * self._units["norm_numbers"]
        self._sparse = sparse

    def upload(self) -> None:
        """Bring the GPU's table up to date."""
        if self.many:
            self._upload(self._table)

    def of_leaf(self, slots: Sequence[int], leaf: int) -> list[int]:
        """The addresses of a leaf's arrays."""
        return [self._addresses[slot][leaf] for slot in slots]

    def begin(self, of: str, slots: Sequence[int]) -> tuple[list[int], int]:
        """The first arguments of the kernel of the step or the norm, and the group of its scalars.

        Over one leaf they are its addresses and how many numbers it has. Over many they are the
        address of the table, twice, and that of the leaf of each block, which finds its own group.
        """
        if self.many:
            return [self._table_at, self._table_at, self._leaves_at[of]], 0
        size = self._fields["iterations" if of == "step" else "norm_numbers"]
        return [*self.of_leaf(slots, 0), int(size[0])], self.groups[0]


# --- the arrays of an optimiser on a GPU ---------------------------------------------------------


class CudaState:
    """State arrays in one flat block.

    `layouts` are those of the state arrays by name, `own` all arrays of the back end's by slot, and
    `saved` what a snapshot copies. The block is that of `like`, where there is one. The GPU of the
    parameters is the current one in all methods.
    """

    state: dict[str, list[Any]]
    _block: Any

    def __init__(self, settings: Settings, params: Leaves, like: CudaState | None = None) -> None:
        self._settings, plan = settings, settings.plan
        shapes, orders = [p.shape for p in params], [ar.memory_order(p) for p in params]
        self.layout = Layout(shapes, orders, plan.dtype)
        self.layouts = {name: self._like(slot) for name, slot in plan.state_slots.items()}
        if plan.by_row:
            self.layouts[pl.ROW_COUNTS] = self.layout.of_rows()
        if like is None:
            self._block = _zeros(sum(one.nbytes for one in self.layouts.values()))
            self.state = self._views(self._block)
        else:
            self._block, self.state = like._block, like.state  # noqa: SLF001  # of this class
        self.saved = [self._block]
        self.own = {slot: self.state[name] for name, slot in plan.state_slots.items()}
        self._fill_per_element()

    def _like(self, slot: int) -> Layout:
        """The layout of the arrays of a slot: shapes and orders of the parameters."""
        dtype = self._settings.plan.array_dtype(slot)
        return Layout(self.layout.shapes, self.layout.orders, dtype)

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

    def inside(self, params: Leaves) -> list[Any]:
        """The parameters, brought into their bounds; NaN stays."""
        import cupy

        boxes, found = self._settings.leaf_boxes(), list(params)
        for k, (low, high) in enumerate(boxes or ()):
            for beyond, bound in ((operator.lt, low), (operator.gt, high)):
                limit = cupy.asarray(bound)
                found[k] = cupy.where(beyond(found[k], limit), limit, found[k])
        return found

    def start(self, params: Leaves) -> None:
        """Bring parameters into their bounds, and set what is not zero before the first step."""
        settings = self._settings
        if settings.plan.bounds:
            for param, moved in zip(params, self.inside(params), strict=True):
                param[...] = moved
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
