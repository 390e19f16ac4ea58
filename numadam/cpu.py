"""The CPU engine: NumPy arrays through the door into the compiled step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from numadam import arrays as ar
from numadam import door as dr
from numadam import forks, threads
from numadam.compile import cpu_steps
from numadam.engine import Engine, Leaves
from numadam.rules.base import RuleSpec
from numadam.table import Layout, Table, aligned_zeros, object_ids

_META_BYTES = dr.META * 8


class CpuEngine(Engine):
    """State and compiled step of NumPy parameters.

    t and the state arrays lie in one block, so that a load is one copy: t at the end of the
    table's scalars, then each state array flat.
    """

    def __init__(
        self, rule: RuleSpec, options: Mapping[str, Any], params: Leaves, names: Sequence[str]
    ) -> None:
        self.params, self.names = list(params), list(names)
        for array, name in zip(params, names, strict=True):
            if ar.is_masked(array) or not isinstance(array, np.ndarray):
                raise TypeError(f"{name}: {ar.describe(array)}")
        self.dtype = ar.common_dtype(params, names)
        self._layout = layout = Layout(
            [p.shape for p in params], [ar.memory_order(p) for p in params], self.dtype
        )
        values = [options[hyper.name] for hyper in rule.hypers]
        self.control = np.array([*values, *rule.control(options), 0.0])
        present = rule.present(options)
        self._block = aligned_zeros(_META_BYTES + layout.nbytes * len(present))
        self._table = Table(
            layout,
            [type(p) for p in params],
            self.control,
            self._block[:_META_BYTES].view(np.int64),
        )
        self._table.fix_span(self._block[_META_BYTES:])
        self._table.ids[dr.P] = object_ids(self.params)
        self.state = {}
        for k, name in enumerate(present):
            first = _META_BYTES + k * layout.nbytes
            self.state[name] = layout.views(self._block[first : first + layout.nbytes])
            self._table.own(dr.S0 + rule.state.index(name), self.state[name])
        self._choose_twins(rule, options)
        self._check_params()

    def _choose_twins(self, rule: RuleSpec, options: Mapping[str, Any]) -> None:
        steps = cpu_steps(rule, options, self.dtype)
        self._serial = steps.twin(parallel=False)
        wants = threads.wants_parallel(sum(self._layout.sizes))
        self._kernel = steps.twin(parallel=True) if wants else self._serial

    def _check_params(self) -> None:
        """Send the parameters alone through the door: the constructor refuses what a step would."""
        ids = self._table.ids
        while status := dr.enter(self._table.meta, ids):
            self._settle(status, {dr.P: self.params})

    @property
    def t(self) -> np.ndarray:
        """Steps taken, a 0-d int64 array that shows the counter itself."""
        return self._table.meta[dr.STEPS : dr.STEPS + 1].reshape(())

    def step(self, grads: Leaves, lr: float, params: Leaves | None, out: Leaves | None) -> None:
        """Check everything, then take the whole step; t advances last."""
        kernel = self._serial if forks.serial_only else self._kernel
        table = self._table
        if len(grads) == 1 and params is None and out is None:
            # the only gradient goes by value: 0.3 us less than a fresh table of ids
            status = kernel(table.meta, table.ids, id(grads[0]), 0, lr)
            if status == dr.OK:
                return
        used = {dr.P: self.params if params is None else list(params), dr.G: list(grads)}
        if out is not None:
            used[dr.OUT] = list(out)
        apart = 0
        while True:
            ids = np.zeros_like(table.ids)
            for slot, leaves in used.items():
                ids[slot] = object_ids(leaves)
            status = kernel(table.meta, ids, 0, apart, lr)
            if status == dr.OK:
                return
            apart |= self._settle(status, used)

    def _settle(self, status: int, used: dict[int, list[Any]]) -> int:
        """Mend what the door refused, or raise; 1 where arrays are apart though bounds overlap."""
        what, slot, leaf = dr.unpack_status(status)
        if what == dr.OVERLAP:
            state = [
                (f"state[{key!r}]", view) for key, views in self.state.items() for view in views
            ]
            written = [
                (self._name(slot, j), array)
                for slot in used
                if slot != dr.G
                for j, array in enumerate(used[slot])
            ]
            read = [(self._name(dr.G, j), array) for j, array in enumerate(used.get(dr.G, []))]
            problem = ar.shared_memory([*state, *written], read)
            if problem:
                raise ValueError(problem)
            return 1
        array = used[slot][leaf]
        if what == dr.LAYOUT:
            self._table.add_work(slot, leaf)
            return 0
        name, of = self._name(slot, leaf), self.names[leaf]
        plain = isinstance(array, np.ndarray) and not ar.is_masked(array)
        if what == dr.TYPE and plain:
            used[slot][leaf] = array.view(np.ndarray)  # a subclass: its memory serves
            return 0
        raise self._refusal(what, array, name, of, self._layout.shapes[leaf])

    def _refusal(
        self, what: int, array: Any, name: str, of: str, shape: tuple[int, ...]
    ) -> Exception:
        if what == dr.TYPE:
            return TypeError(f"{name}: {ar.describe(array)}")
        if what == dr.DTYPE:
            return TypeError(ar.bad_dtype(name, array.dtype, self.dtype, of))
        if what == dr.READONLY:
            return ValueError(f"{name}: is read-only. Pass a writable array, e.g. a copy.")
        if what == dr.SHAPE:
            return ValueError(ar.bad_shape(name, array.shape, shape, of))
        return ValueError(
            f"{name}: several of its elements lie on the same memory (a broadcast or sliding "
            "view). Pass a copy."
        )

    def _name(self, slot: int, leaf: int) -> str:
        what = {dr.P: "params", dr.G: "grads", dr.OUT: "out"}[slot]
        return what + self.names[leaf].removeprefix("params")

    def gradients(self) -> list[np.ndarray]:
        """Gradient buffers of the parameters' shapes in one flat buffer."""
        return self._layout.views(aligned_zeros(self._layout.nbytes))

    def check_state(self, name: str, leaves: Leaves) -> list[np.ndarray]:
        """Check arrays that shall become the state array `name`."""
        done = []
        for leaf, own, param in zip(leaves, self.state[name], self.names, strict=True):
            title = f"state[{name!r}]{param.removeprefix('params')}"
            if not isinstance(leaf, np.ndarray) or ar.is_masked(leaf):
                raise TypeError(f"{title}: {ar.describe(leaf)}")
            if leaf.dtype != own.dtype:
                raise TypeError(ar.bad_dtype(title, leaf.dtype, own.dtype, param))
            if leaf.shape != own.shape:
                raise ValueError(ar.bad_shape(title, leaf.shape, own.shape, param))
            done.append(leaf)
        return done

    def load(self, t: int, state: Mapping[str, Leaves]) -> None:
        """Copy t and the given state arrays in, whole or not at all: the last line is one copy."""
        first = dr.STEPS * 8
        staged = self._block[first:].copy()
        staged[:8].view(np.int64)[0] = t
        for k, name in enumerate(self.state):
            start = 8 + k * self._layout.nbytes
            views = self._layout.views(staged[start : start + self._layout.nbytes])
            for view, leaf in zip(views, state.get(name, ()), strict=name in state):
                np.copyto(view, leaf)
        np.copyto(self._block[first:], staged)
