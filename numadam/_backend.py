"""Code that the two back ends share, CPU and CUDA: types, a functional step, sparse gradients.

Their classes have the same public methods: those that the optimiser calls.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from numadam._arrays.checks import describe
from numadam._arrays.interop import Layout
from numadam._arrays.sparse import clear, coalesce_for, is_sparse, plain, refuse_order, scatter
from numadam._core import plan as pl

if TYPE_CHECKING:
    from numadam._cpu.backend import CpuBackend
    from numadam._cuda.backend import CudaBackend
    from numadam._settings.settings import Settings

#: State and step of one set of parameter arrays on one device.
Backend: TypeAlias = "CpuBackend | CudaBackend"
Leaves = Sequence[Any]
#: By leaf the rows of a sparse gradient, and their values.
Rows = Mapping[int, tuple[Any, Any]]
#: ``title(slot, leaf)``: what the user calls an array of a step.
Title = Callable[[int, int], str]
#: ``again(arrays, t, lr)``: a step as one before it. False, and nothing is written, where the
#: arrays do not fit it as they are.
Again = Callable[[tuple[Any, ...], int, float], bool]
#: ``save, restore``: copy parameters and state into the memory of a snapshot, and back.
SnapshotBuffer = tuple[Callable[[], None], Callable[[], None]]


def titles(names: Sequence[str]) -> Title:
    """Names of the arrays of a step, as the user has them; `names` are the parameters'.

    Not a method of the back end: a step that referred to its back end would keep the memory of
    both until Python's next search for cycles.
    """
    of_slots = {pl.P: "params", pl.G: "grads", pl.OUT: "out"}
    return lambda slot, leaf: of_slots[slot] + names[leaf].removeprefix("params")


class FunctionalStep(NamedTuple):
    """One call of the functional API, its numbers checked; `t` is the number of the step.

    `arrays` are those of the slots up to `OUT`, None where there is none; `name` is what the user
    calls the first.
    """

    settings: Settings
    products: Sequence[float]
    arrays: tuple[Any, ...]
    name: str
    t: int
    lr: float

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays by slot, as the user calls them."""
        state = self.settings.rule.state
        return (self.name, "g", *state, *[""] * (pl.STATE_SLOTS - len(state)), "out")

    @property
    def used(self) -> dict[int, Leaves]:
        """The arrays of this step by slot: those that the options need, and `out`."""
        plan, arrays = self.settings.plan, self.arrays
        there = [pl.P, pl.G, *(slot for slot in (pl.S0, pl.S1, pl.S2) if plan.has(slot))]
        if arrays[pl.OUT] is not None:
            there.append(pl.OUT)
        return {slot: [arrays[slot]] for slot in there}


class SparseGradients:
    """The sparse gradients of a step, in a form that the loops read.

    With "lazy" the step visits only the rows of the gradient. With "dense" it reads an ordinary
    gradient, whose buffer is kept and cleared row by row. Where there are `counts`, the steps of
    each row of each leaf, dense gradients are rows, too.
    """

    def __init__(
        self, home: str, layout: Layout, how: str | None, title: Title, counts: Leaves = ()
    ) -> None:
        self._home, self._library = home, sys.modules[home.lower()]
        self._layout, self.how, self._title = layout, how, title
        #: by leaf a buffer of zeros that no step is using
        self._zeros: dict[int, Any] = {}
        self._counts = [one.reshape(-1) for one in counts]

    def rows_of(self, grads: Leaves) -> dict[int, tuple[Any, Any]]:
        """By leaf the rows of the sparse ones among these gradients, and their values."""
        every = bool(self._counts)
        return {
            k: self.coalesced(grad, k) for k, grad in enumerate(grads) if every or is_sparse(grad)
        }

    def coalesced(self, grad: Any, leaf: int) -> tuple[Any, Any]:
        """The rows of a gradient, and their values in the memory order of the parameter's rows."""
        layout, name = self._layout, self._title(pl.G, leaf)
        shape, order = layout.shapes[leaf], layout.orders[leaf]
        if is_sparse(grad):
            rows, values = coalesce_for(grad, name, self.how, layout, leaf, self._home.lower())
            self.check_values(values, name, leaf)
        else:  # all of its rows take a step each
            refuse_order(name, layout, leaf, self._home.lower())
            rows = self._library.arange(math.prod(shape[:1]))
            values = plain(self.checked(grad, name, leaf)).reshape(len(rows), math.prod(shape[1:]))
        if self.how == "lazy" and order != tuple(range(len(order))):
            ordered = values.reshape(len(values), *shape[1:]).transpose(order)
            values = self._library.ascontiguousarray(ordered)
        return rows, values

    def checked(self, grad: Any, name: str, leaf: int) -> Any:
        """Check a dense gradient, and return it as a plain array of the library."""
        raise NotImplementedError

    def check_values(self, values: Any, name: str, leaf: int) -> None:
        """Refuse values that lie elsewhere than the parameter."""
        if not isinstance(values, self._library.ndarray):
            raise TypeError(f"{name}: {describe(values, self._home)}")

    def as_dense(self, grads: Leaves, rows_of: Rows) -> list[Any]:
        """The gradients with ordinary ones in the place of sparse ones; `clear` them after use.

        A buffer is out of its place meanwhile: an exception leaves none behind that is not zero,
        and a signal handler's step has its own.
        """
        dense, layout = list(grads), self._layout
        for leaf, (rows, values) in rows_of.items():
            buffer = self._zeros.pop(leaf, None)
            if buffer is None:
                buffer = self._library.zeros(layout.shapes[leaf], layout.dtype)
            scatter(rows, values, buffer)
            dense[leaf] = buffer
        return dense

    def clear(self, dense: Leaves, rows_of: Rows) -> None:
        """Set the buffers among `dense` to zero again, and put them back."""
        for leaf, (rows, _) in rows_of.items():
            clear(rows, dense[leaf])
            self._zeros[leaf] = dense[leaf]
