"""The CPU engine: NumPy arrays through the door into the compiled step."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from numadam import arrays as ar
from numadam import door as dr
from numadam import forks, threads
from numadam.compile import cpu_steps
from numadam.engine import BareStep, Engine, Leaves
from numadam.rules.base import RuleSpec
from numadam.table import SKEW, Layout, Table, addresses

_META_BYTES = dr.META * 8
#: Leaves from which ids are better made one by one: 8 instead of 48 bytes each meanwhile.
_MANY = 64
Named = list[tuple[str, Any]]
Title = Callable[[int, int], str]


class CpuPass:
    """A table, the compiled twins of its step, and what to do when the door refuses an array.

    Parameters
    ----------
    rule, options
        What the step computes.
    table : Table
    title : callable
        ``title(slot, leaf)``: what the user calls that array.
    kept : list of arrays
        Parameters of every step that gets no others.
    owned : callable
        The named arrays whose addresses the table has fixed, for the overlap message.
    """

    def __init__(
        self,
        rule: RuleSpec,
        options: Mapping[str, Any],
        table: Table,
        title: Title,
        kept: Sequence[Any] = (),
        owned: Callable[[], Named] = list,
    ) -> None:
        self.table, self._title, self._kept, self._owned = table, title, list(kept), owned
        self.ids = np.zeros((dr.SLOTS, len(table.layout.shapes)), np.int64)
        if self._kept:
            self.ids[dr.P] = list(map(id, self._kept))
        self.ids_at = self.ids.ctypes.data
        self._spare: dict[tuple[int, ...], tuple[np.ndarray, int] | None] = {}
        self._pack = struct.Struct(f"{self.ids.shape[1]}q").pack_into
        self._apart: Any = None
        steps = cpu_steps(rule, options, table.layout.dtype)
        self.serial = steps.twin(parallel=False)
        parallel = threads.wants_parallel(sum(table.layout.sizes))
        self.kernel = steps.twin(parallel=True) if parallel else self.serial

    def run(self, used: dict[int, Leaves], lr: float) -> None:
        """Take a step over `used`, the arrays by slot; mend or refuse what the door stops."""
        kernel = self.serial if forks.serial_only else self.kernel
        self._through(used, lambda ids_at, apart: kernel(self.table.meta_at, ids_at, 0, apart, lr))

    def check(self) -> None:
        """Send the kept parameters alone through the door, without a step."""
        self._through({}, lambda ids_at, apart: dr.enter(self.table.meta_at, ids_at, apart))

    def _through(self, used: dict[int, Leaves], call: Callable[[int, int], int]) -> None:
        apart = 0
        while True:
            slots = tuple(used)
            # taken from its place while in use, so that a signal handler's step has its own
            spare = self._spare.pop(slots, None)
            ids, ids_at = self._new_ids() if spare is None else spare
            for slot, leaves in used.items():
                if len(leaves) < _MANY:
                    self._pack(ids.data, slot * ids.strides[0], *map(id, leaves))
                else:
                    ids[slot] = np.fromiter(map(id, leaves), np.int64, len(leaves))
            status = call(ids_at, apart)
            self._spare[slots] = ids, ids_at
            if status == dr.OK:
                return
            what, slot, leaf = dr.unpack_status(status)
            if what == dr.OVERLAP:
                self._refuse_overlap(used)
                apart = 1
            elif what == dr.NEEDS_WORK:
                self.table.add_work(slot, leaf)
            else:
                used[slot] = self._viewed(what, slot, leaf, used.get(slot, self._kept))

    def _new_ids(self) -> tuple[np.ndarray, int]:
        ids = self.ids.copy()
        return ids, ids.ctypes.data

    def _refuse_overlap(self, used: Mapping[int, Leaves]) -> None:
        """Raise where two arrays share an element; bounds may overlap where none is shared."""
        everything = {dr.P: self._kept, **used}
        named = {
            slot: [(self._title(slot, j), array) for j, array in enumerate(arrays)]
            for slot, arrays in everything.items()
        }
        read = named.pop(dr.G, [])
        if dr.OUT in named:
            read += named.pop(dr.P)
        written = [*self._owned(), *(pair for pairs in named.values() for pair in pairs)]
        # pairs of many arrays take long: those that were apart are remembered by where they lie
        lie = [(a.ctypes.data, a.shape, a.strides) for _, a in written]
        problem = "" if lie == self._apart else ar.shared_memory(written, written)
        problem = problem or ar.shared_memory(written, read)
        if problem:
            raise ValueError(problem)
        self._apart = lie

    def _viewed(self, what: int, slot: int, leaf: int, arrays: Sequence[Any]) -> list[Any]:
        """The arrays of a slot as plain arrays of the dtype, where their memory serves as it is.

        These are subclasses of ndarray, and other spellings of the dtype.
        """
        dtype = self.table.layout.dtype
        if what not in (dr.BAD_TYPE, dr.BAD_DTYPE) or not ar.is_viewable(arrays[leaf], dtype):
            raise self._refusal(what, arrays[leaf], slot, leaf)
        return [
            np.ndarray.view(array, dtype, np.ndarray) if ar.is_viewable(array, dtype) else array
            for array in arrays
        ]

    def _refusal(self, what: int, array: Any, slot: int, leaf: int) -> Exception:
        name, layout = self._title(slot, leaf), self.table.layout
        of = self._title(dr.P, leaf)
        if what == dr.BAD_TYPE:
            return TypeError(f"{name}: {ar.describe(array, 'NumPy')}")
        if what == dr.BAD_DTYPE:
            return TypeError(ar.bad_dtype(name, array.dtype, layout.dtype, of))
        if what == dr.READ_ONLY:
            return ValueError(f"{name}: is read-only. Pass a writable array, e.g. a copy.")
        if what == dr.BAD_SHAPE:
            return ValueError(ar.bad_shape(name, array.shape, layout.shapes[leaf], of))
        return ValueError(
            f"{name}: several of its elements lie on the same memory (a broadcast or sliding "
            "view). Pass a copy."
        )


def check_params(params: Sequence[Any], names: Sequence[str]) -> np.dtype:
    """Check type and dtype of parameters, the rest is for the door; return their dtype."""
    for array, name in zip(params, names, strict=True):
        if ar.is_masked(array) or not isinstance(array, np.ndarray):
            raise TypeError(f"{name}: {ar.describe(array, 'NumPy')}")
    return ar.common_dtype(params, names)


class CpuEngine(Engine):
    """State and compiled step of NumPy parameters.

    t and the state arrays lie in one block, so that a load is one copy: t at the end of the
    table's scalars, then each state array flat.
    """

    def __init__(
        self, rule: RuleSpec, options: Mapping[str, Any], params: Leaves, names: Sequence[str]
    ) -> None:
        self.params, self.names = list(params), list(names)
        dtype = check_params(params, names)
        shapes, orders = [p.shape for p in params], [ar.memory_order(p) for p in params]
        self._layout = layout = Layout(shapes, orders, dtype)
        self.control = np.array(rule.control_values(options))
        present = rule.present(options)
        self._block, self._first = layout.allocate(_META_BYTES, len(present))
        meta = self._block[:_META_BYTES].view(np.int64)
        self._table = table = Table(layout, [type(p) for p in params], self.control, meta)
        table.fix_span(self._block[self._first :])
        self.state = {}
        for k, name in enumerate(present):
            first = self._first + k * layout.nbytes
            self.state[name] = layout.views(self._block[first : first + layout.nbytes])
            table.own(dr.S0 + rule.state.index(name), addresses(self.state[name]))
        self._pass = CpuPass(
            rule, options, table, self._title, self.params, owned=self._named_state
        )
        self._pass.check()
        self._one = len(params) == 1
        self._meta_at, self._ids_at = table.meta_at, self._pass.ids_at

    @property
    def t(self) -> np.ndarray:
        """Steps taken, a read-only 0-d int64 array that shows the counter itself."""
        t = self._table.meta[dr.STEPS : dr.STEPS + 1].reshape(())
        t.flags.writeable = False
        return t

    def step(
        self, grads: Leaves, lr: float, params: Leaves | None = None, out: Leaves | None = None
    ) -> None:
        """Check everything, then take the whole step; t advances last."""
        if params is None and out is None and self._one:
            # the only gradient goes by value: 2 us less than a table of ids
            (grad,) = grads
            run = self._pass
            kernel = run.serial if forks.serial_only else run.kernel
            if kernel(self._meta_at, self._ids_at, id(grad), 0, lr) == dr.OK:
                return
        used = {dr.G: grads}
        if params is not None:
            used[dr.P] = params
        if out is not None:
            used[dr.OUT] = out
        self._pass.run(used, lr)

    def _title(self, slot: int, leaf: int) -> str:
        what = {dr.P: "params", dr.G: "grads", dr.OUT: "out"}[slot]
        return what + self.names[leaf].removeprefix("params")

    def _named_state(self) -> Named:
        return [(f"state[{key!r}]", view) for key, views in self.state.items() for view in views]

    def gradients(self) -> list[np.ndarray]:
        """Gradient buffers of the parameters' shapes in one flat buffer."""
        block, first = self._layout.allocate(0, 1, skew=3 * SKEW)
        return self._layout.views(block[first:])

    def check_arrays(self, what: str, leaves: Leaves) -> list[np.ndarray]:
        """Check arrays to be copied into the leaves of `what`."""
        layout = self._layout
        for leaf, shape, param in zip(leaves, layout.shapes, self.names, strict=True):
            title = what + param.removeprefix("params")
            if not isinstance(leaf, np.ndarray) or ar.is_masked(leaf):
                raise TypeError(f"{title}: {ar.describe(leaf, 'NumPy')}")
            if leaf.dtype != layout.dtype:
                raise TypeError(ar.bad_dtype(title, leaf.dtype, layout.dtype, param))
            if leaf.shape != shape:
                raise ValueError(ar.bad_shape(title, leaf.shape, shape, param))
        return list(leaves)

    def load(self, t: int, state: Mapping[str, Leaves]) -> None:
        """Copy t and the given state arrays in, whole or not at all: the last line is one copy."""
        counter = dr.STEPS * 8
        staged = self._block[counter:].copy()
        staged[:8].view(np.int64)[0] = t
        for k, name in enumerate(self.state):
            start = self._first - counter + k * self._layout.nbytes
            views = self._layout.views(staged[start : start + self._layout.nbytes])
            for view, leaf in zip(views, state.get(name, ()), strict=name in state):
                np.copyto(view, leaf)
        np.copyto(self._block[counter:], staged)

    @classmethod
    def update(cls, call: BareStep) -> None:
        """Take one step on the caller's own arrays."""
        from numadam.cpu_update import update

        update(call)
