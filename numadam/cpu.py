"""The CPU engine: NumPy arrays through the door into the compiled step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from numadam import arrays as ar
from numadam import door as dr
from numadam import forks
from numadam.cpu_pass import CpuPass, Named, check_params
from numadam.cpu_update import update
from numadam.engine import BareStep, Engine, Leaves
from numadam.rules.base import RuleSpec
from numadam.table import SKEW, Layout, Table, addresses

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
            if not ar.is_numpy(leaf):
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
        update(call)
