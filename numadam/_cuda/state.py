"""The arrays of an optimiser on a GPU: state in one block, bounds and step sizes per element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from numadam._arrays import checks as ar
from numadam._arrays.layout import Layout
from numadam._backend import Leaves
from numadam._core.half import memory_dtype
from numadam._cuda import arrays as ca
from numadam._cuda.arguments import phases

if TYPE_CHECKING:
    from numadam._settings.settings import Settings


class CudaState:
    """State arrays in one flat block, aligned so that they share the parameters' tiles.

    Its methods are called while the GPU of the parameters is the current one.

    Parameters
    ----------
    settings : Settings
    params : sequence of cupy.ndarray

    Attributes
    ----------
    layout : Layout
        Of the parameters and their gradients.
    state : dict
        State arrays by name, leaf by leaf.
    own : dict
        Arrays of the back end's own by slot, leaf by leaf.
    """

    def __init__(self, settings: Settings, params: Leaves) -> None:
        self._settings, plan = settings, settings.plan
        shapes, orders = [p.shape for p in params], [ar.memory_order(p) for p in params]
        self._phases = phases(params, orders, plan)
        self.layout = Layout(shapes, orders, plan.dtype)
        self._layouts = {name: self._like(slot) for name, slot in plan.state_slots.items()}
        self._block = _zeros(sum(one.nbytes for one in self._layouts.values()))
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
        for name, layout in self._layouts.items():
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

    def begin(self) -> None:
        """Fill the state arrays whose first values are not zero."""
        settings = self._settings
        for name, value in settings.rule.initial(settings.options).items():
            for view in self.state[name]:
                _fill(view, value)

    def arrays(self) -> list[Any]:
        """Arrays that a snapshot copies: the block of all state."""
        return [self._block]

    def clear(self) -> None:
        """Make all state zero."""
        self._block[...] = 0

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

    def state_dtype(self, name: str) -> np.dtype[Any]:
        """The dtype of a state array."""
        return self._layouts[name].dtype

    def staged(self, state: Mapping[str, Leaves]) -> Any:
        """The block as it would be with other state arrays."""
        staged = self._block.copy()
        views = self._views(staged)
        for name, leaves in state.items():
            for view, leaf in zip(views[name], leaves, strict=True):
                ca.in_memory(view)[...] = ca.in_memory(leaf)
        return staged

    def take(self, staged: Any) -> None:
        """Copy a staged block into the own one."""
        self._block[...] = staged


def _zeros(size: int) -> Any:
    import cupy

    return cupy.zeros(size, np.uint8)


def _fill(view: Any, value: Any) -> None:
    """Write numbers into an array of any storage, into both parts of complex ones."""
    import cupy

    if view.dtype.kind == "c":
        view[...] = cupy.asarray(value) * (1 + 1j)
    elif memory_dtype(view.dtype) == view.dtype:
        view[...] = cupy.asarray(value)
    else:
        # CuPy may lack the dtype that NumPy has
        ca.in_memory(view)[...] = cupy.asarray(ca.in_memory(np.asarray(value).astype(view.dtype)))
