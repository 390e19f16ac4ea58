"""State of NumPy parameters, and the memory of their step."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from numadam._arrays import checks as ar
from numadam._arrays.interop import Layout, address_of, aligned_zeros, assign, few, layout_of
from numadam._backend import Leaves
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._cpu.memory import StepMemory
from numadam._jit.process import Writes, at_once, cached_property
from numadam._settings.settings import Settings

#: Counters as the user calls them, in their order.
COUNTERS = ("t", "skipped", "skipped_in_a_row")
_COUNTER_BYTES = 8 * len(COUNTERS)


class StatePlaces(NamedTuple):
    """Places of counters, running products and state arrays in the block of an optimiser."""

    names: tuple[str, ...]
    slots: tuple[int, ...]
    layouts: tuple[Layout, ...]
    firsts: tuple[int, ...]  # offsets of the state arrays
    end: int
    unit: int  # the block begins on a multiple of it
    products: tuple[int, int]  # shape of the products, which follow the counters


@functools.lru_cache(maxsize=256)
def _places(plan: Plan, layout: Layout, groups: int) -> StatePlaces:
    """The places of the state of parameters of this layout, in so many groups."""
    dtypes = map(plan.array_dtype, plan.state_slots.values())
    layouts = tuple(layout_of(layout.shapes, layout.orders, dtype) for dtype in dtypes)
    products = groups, 2 * len(plan.products)
    names, slots = tuple(plan.state_slots), tuple(plan.state_slots.values())
    if plan.by_row:
        names, layouts = (*names, pl.ROW_COUNTS), (*layouts, layout.of_rows())
    firsts, end, unit = Layout.place(_COUNTER_BYTES + 8 * math.prod(products), layouts)
    return StatePlaces(names, slots, layouts, tuple(firsts), end, unit, products)


#: Numbers of the user are rounded to the dtype of arrays whatever his `numpy.seterr` says.
_ROUNDS = np.errstate(all="ignore")


def _fills(views: Leaves, values: Leaves) -> Writes:
    """Assignments of a number or array to each view, to both parts of a complex number."""
    return [
        partial(assign, view, ..., value * (1 + 1j) if view.dtype.kind == "c" else value)
        for view, value in zip(views, values, strict=True)
    ]


class CpuState:
    """State arrays and counters of NumPy parameters, and the memory of their step.

    One block holds the counters, the running products and each state array flat, so that a load is
    one copy. It is that of `like`, where there is one.
    """

    home = "NumPy"
    is_host = True
    check_params = staticmethod(ar.check_params)
    state: dict[str, list[np.ndarray]]
    memory: StepMemory
    _block: np.ndarray

    def __init__(
        self,
        settings: Settings,
        params: Leaves,
        names: Sequence[str],
        like: CpuState | None = None,
    ) -> None:
        self.params, self.names, self.settings = list(params), list(names), settings
        plan = settings.plan
        shapes, orders = [p.shape for p in params], [ar.memory_order(p) for p in params]
        self.layout = layout_of(shapes, orders, plan.dtype)
        self._places = places = few(_places, self.layout)(plan, self.layout, len(settings.control))
        self._block = like._block if like else aligned_zeros(places.end, places.unit)  # noqa: SLF001
        self._counters, self.products = self._head_of(self._block)
        first = address_of(self._block)
        self.memory = StepMemory(
            plan,
            self.layout,
            settings.control,
            self._counters,
            self.products,
            settings.group_of_leaf,
            settings.guard,
            (first, first + places.end),
            like.memory.norms if like else None,
        )
        # the counts of rows have no slot
        for slot, offset, layout in zip(places.slots, places.firsts, places.layouts, strict=False):
            self.memory.bind(slot, layout.addresses(first + offset))
        self.state = like.state if like else self._views(self._block)
        self.per_element = self._bind_per_element()

    @_ROUNDS
    def begin(self) -> None:
        """Bring the parameters into their bounds, and write what is not zero at the start."""
        at_once(self._starts())

    @_ROUNDS
    def reset(self) -> None:
        """Begin anew: state, counters and products as before the first step, or nothing."""
        writes: Writes = [partial(assign, self._block, ..., 0)]
        writes.append(partial(assign, self.memory.norms, ..., math.nan))
        at_once([*writes, *self._starts()])

    def _head_of(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The counters and the products of a block, one row a group."""
        counters = np.ndarray(len(COUNTERS), np.int64, block)
        return counters, np.ndarray(self._places.products, np.float64, block, _COUNTER_BYTES)

    def _views(self, block: np.ndarray) -> dict[str, list[np.ndarray]]:
        """The state arrays in a block like the back end's own."""
        names, _, layouts, firsts, *_ = self._places
        return {
            name: layout.views(block[first : first + layout.nbytes])
            for name, layout, first in zip(names, layouts, firsts, strict=True)
        }

    @_ROUNDS
    def _bind_per_element(self) -> dict[int, list[np.ndarray]]:
        """Arrays of bounds and step sizes by slot, in the memory order of the parameters."""
        plan, kept = self.settings.plan, {}
        for slot, values in self.settings.per_element.items():
            layout = layout_of(self.layout.shapes, self.layout.orders, plan.array_dtype(slot))
            kept[slot] = layout.zeros()
            at_once(_fills(kept[slot], values))
            self.memory.bind(slot, list(map(address_of, kept[slot])))
        return kept

    @_ROUNDS
    def projections(self) -> Writes:
        """Writes that bring parameters from outside of their bounds to the nearest bound."""
        settings, plan = self.settings, self.settings.plan
        boxes = settings.leaf_boxes() if plan.bounds else None
        writes: Writes = []
        for param, (low, high) in zip(self.params, boxes or (), strict=boxes is not None):
            inside = np.clip(param, low, high).astype(param.dtype, copy=False)
            if (inside != param).any():  # also where there is NaN: written as it is
                writes.append(partial(assign, param, ..., inside))
        return writes

    def _starts(self) -> Writes:
        """All writes that follow those of zeros when an optimiser begins."""
        settings, writes = self.settings, self.projections()
        if carried := len(settings.plan.products):
            writes.append(partial(assign, self.products, (..., slice(carried)), 1.0))
        if settings.plan.average and not settings.options["ema_debias"]:
            pairs = zip(self.state["average"], self.params, strict=True)
            writes += [partial(assign, view, ..., param) for view, param in pairs]
        for name, value in settings.rule.initial(settings.options).items():
            writes += _fills(self.state[name], [value] * len(self.params))
        return writes

    @property
    def t(self) -> int:
        t: int = self._counters.item(0)  # 0.2 us less than int()
        return t

    @cached_property
    def counters(self) -> dict[str, np.ndarray]:
        """By name read-only int64 arrays that show the counters themselves; and the products."""
        shown = COUNTERS if self.settings.guard == pl.SKIP else COUNTERS[:1]
        found: dict[str, np.ndarray] = {
            name: self._counters[k : k + 1].reshape(()) for k, name in enumerate(shown)
        }
        for k, name in enumerate(self.settings.plan.products):
            found[name] = self.products[:, k].reshape(-1)
        for view in found.values():
            view.flags.writeable = False
        return found

    @property
    def grad_norm(self) -> Any:
        norms, of_each = self.memory.norms, self.settings.plan.norm == "array"
        return norms[:-1].tolist() if of_each else float(norms[-1])

    def check_arrays(self, what: str, leaves: Leaves, state: str = "") -> list[Any]:
        """Check arrays to be copied into the leaves of `what`; numbers where it is 0-d."""
        layout = self._layout_of(state) if state else self.layout
        wanted, checked = layout.dtype, []
        for leaf, shape, param in zip(leaves, layout.shapes, self.names, strict=True):
            title = what + param.removeprefix("params")
            leaf = ar.number_as_array(leaf, shape, wanted)
            if problem := ar.unfit(leaf, title, wanted, shape, param):
                raise problem
            checked.append(leaf)
        return checked

    def _layout_of(self, name: str) -> Layout:
        """The layout of a state array."""
        layout: Layout = self._places.layouts[self._places.names.index(name)]
        return layout

    def load(
        self,
        counters: Mapping[str, Any],
        state: Mapping[str, Leaves],
        params: Leaves | None = None,
        others: Iterable[Callable[[], Any]] = (),
    ) -> None:
        """Load counters, state arrays and parameters, and make other writes, all at once."""
        # counters and products lie before the arrays, which need not be copied without new ones
        end = self._places.end if state else min(self._places.firsts, default=self._places.end)
        staged = self._block[:end].copy()
        own, products = self._head_of(staged)
        for name, value in counters.items():
            if name in COUNTERS:
                own[COUNTERS.index(name)] = value
            else:
                products[:, self.settings.plan.products.index(name)] = value
        for name, views in self._views(staged).items() if state else ():
            for view, leaf in zip(views, state.get(name, ()), strict=name in state):
                np.copyto(view, leaf)
        pairs = [(self._block[:end], staged)]
        if params is not None:
            pairs += zip(self.params, params, strict=True)
        at_once([*(partial(assign, own, ..., new) for own, new in pairs), *others])
