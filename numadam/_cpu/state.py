"""State and table of NumPy parameters, without a step: what compiled loops read and write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from numadam._arrays import checks as ar
from numadam._arrays.layout import Layout
from numadam._backend import Leaves
from numadam._core import plan as pl
from numadam._cpu import validate as dr
from numadam._cpu.arguments import KernelArguments, addresses
from numadam._cpu.step import check_params
from numadam._settings.settings import Settings


class CpuState:
    """State of NumPy parameters, and the table of where everything lies.

    Counters, running products and state arrays lie in one block, so that a load is one copy:
    counters at the end of the table's scalars, then the products, then each state array flat.
    """

    home = "NumPy"
    is_host = True

    def __init__(self, settings: Settings, params: Leaves, names: Sequence[str]) -> None:
        self.params, self.names, self.settings = list(params), list(names), settings
        plan = settings.plan
        shapes, orders = [p.shape for p in params], [ar.memory_order(p) for p in params]
        self._layout = Layout(shapes, orders, plan.dtype)
        self._slots = plan.state_slots()
        self._layouts = {
            name: Layout(shapes, orders, plan.array_dtype(slot))
            for name, slot in self._slots.items()
        }
        head = (dr.META + len(settings.control) * len(plan.products)) * 8
        self._block, self._first = Layout.allocate(head, list(self._layouts.values()))
        meta = self._block[: dr.META * 8].view(np.int64)
        products = self._block[dr.META * 8 : head].view(np.float64)
        self.products = products.reshape(len(settings.control), -1)
        self.products[...] = 1.0
        self._table = table = KernelArguments(
            plan,
            self._layout,
            [type(p) for p in params],
            settings.control,
            meta,
            settings.group_of_leaf,
        )
        meta[dr.PRODUCTS], meta[dr.GUARD] = products.ctypes.data, settings.guard
        meta[dr.EVERY] = settings.options["accumulate"]
        table.fix_span(self._block[self._first[0] if self._first else len(self._block) :])
        self.state = self._views(self._block)
        for name, slot in self._slots.items():
            table.own(slot, addresses(self.state[name]))
        self._per_element = self._own_per_element()

    def begin(self) -> None:
        """Bring the parameters into their bounds, and write what is not zero at the start."""
        self._project()
        self._start()

    @staticmethod
    def check_params(params: Leaves, names: Sequence[str]) -> None:
        """Check type and dtype of all parameters."""
        check_params(params, names)

    def _views(self, block: np.ndarray) -> dict[str, list[np.ndarray]]:
        """The state arrays in a block like the back end's own."""
        return {
            name: layout.views(block[first : first + layout.nbytes])
            for first, (name, layout) in zip(self._first, self._layouts.items(), strict=True)
        }

    def _own_per_element(self) -> list[np.ndarray]:
        """Arrays of bounds and step sizes in the memory order of the parameters."""
        plan, kept = self.settings.plan, []
        for slot, values in self.settings.per_element.items():
            layout = Layout(self._layout.shapes, self._layout.orders, plan.array_dtype(slot))
            block, (first,) = Layout.allocate(0, [layout])
            views = layout.views(block[first:])
            self.fill(views, values)
            self._table.own(slot, addresses(views))
            kept.append(block)
        return kept

    @staticmethod
    def fill(views: Leaves, values: Leaves) -> None:
        """Write a step size or bound into an array, for both parts of a complex number."""
        for view, value in zip(views, values, strict=True):
            view[...] = value * (1 + 1j) if view.dtype.kind == "c" else value

    def _project(self) -> None:
        """Bring parameters from outside of their bounds to the nearest bound."""
        settings, plan = self.settings, self.settings.plan
        if not plan.bounds:
            return
        for k, param in enumerate(self.params):
            if plan.bounds == "scalar":
                low, high = settings.box(settings.group_of_leaf[k])
            else:
                low, high = (settings.per_element[slot][k] for slot in (pl.LOW, pl.HIGH))
            np.copyto(param, np.clip(param, low, high).astype(param.dtype, copy=False))

    def _start(self) -> None:
        """What is not zero before the first step: copies of the parameters."""
        for name in ("master", "average"):
            if name in self.state and not (
                name == "average" and self.settings.options["ema_debias"]
            ):
                for view, param in zip(self.state[name], self.params, strict=True):
                    np.copyto(view, param.astype(view.dtype, copy=False))
        initial = self.settings.rule.initial(self.settings.options)
        for name, value in initial.items():
            views = self.state[name]
            self.fill(views, [value] * len(views))

    @property
    def t(self) -> int:
        """Steps taken."""
        return int(self._table.meta[dr.STEPS])

    @property
    def counters(self) -> dict[str, np.ndarray]:
        """By name read-only 0-d int64 arrays that show the counters themselves."""
        places: dict[str, int] = {"t": dr.STEPS}
        if self.settings.plan.accumulate:
            places["calls"] = dr.CALLS
        if self.settings.guard == dr.SKIP:
            places |= {"skipped": dr.SKIPPED, "skipped_in_a_row": dr.IN_A_ROW}
        meta = self._table.meta
        found: dict[str, Any] = {name: meta[k : k + 1].reshape(()) for name, k in places.items()}
        for k, name in enumerate(self.settings.plan.products):
            found[name] = self.products[:, k].reshape(-1)
        for view in found.values():
            view.flags.writeable = False
        return found

    @property
    def skipped(self) -> tuple[int, int]:
        """Steps that the guard skipped, in all and in a row until now."""
        meta = self._table.meta
        return int(meta[dr.SKIPPED]), int(meta[dr.IN_A_ROW])

    @property
    def grad_norm(self) -> Any:
        """Norm of the last gradients before clipping: one number, or one an array."""
        return self._table.grad_norm(self.settings.options["clip_array_norm"] is not None)

    def check_arrays(self, what: str, leaves: Leaves, dtype: np.dtype | None = None) -> list[Any]:
        """Check arrays to be copied into the leaves of `what`."""
        layout, wanted = self._layout, self._layout.dtype if dtype is None else dtype
        for leaf, shape, param in zip(leaves, layout.shapes, self.names, strict=True):
            title = what + param.removeprefix("params")
            if not ar.is_numpy(leaf):
                raise TypeError(f"{title}: {ar.describe(leaf, 'NumPy')}")
            if leaf.dtype != wanted:
                raise TypeError(ar.bad_dtype(title, leaf.dtype, wanted, param))
            if leaf.shape != shape:
                raise ValueError(ar.bad_shape(title, leaf.shape, shape, param))
        return list(leaves)

    def state_dtype(self, name: str) -> np.dtype:
        """The dtype of a state array."""
        return self._layouts[name].dtype

    def load(self, counters: Mapping[str, Any], state: Mapping[str, Leaves]) -> None:
        """Copy counters and state arrays in, whole or not at all: the last line is one copy."""
        staged = self._block.copy()
        meta = staged[: dr.META * 8].view(np.int64)
        places = {"t": dr.STEPS, "calls": dr.CALLS, "skipped": dr.SKIPPED}
        places["skipped_in_a_row"] = dr.IN_A_ROW
        products = staged[dr.META * 8 :][: self.products.nbytes].view(np.float64)
        for name, value in counters.items():
            if name in places:
                meta[places[name]] = value
            else:
                products.reshape(self.products.shape)[
                    :, self.settings.plan.products.index(name)
                ] = value
        for name, views in self._views(staged).items():
            for view, leaf in zip(views, state.get(name, ()), strict=name in state):
                np.copyto(view, leaf)
        counter = dr.STEPS * 8
        np.copyto(self._block[counter:], staged[counter:])
