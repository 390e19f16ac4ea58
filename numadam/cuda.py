"""The CUDA engine: CuPy arrays, checked in Python, into one launch per array.

t, all counters and the control block lie in host memory: a step needs no scalar from the GPU.
Where a norm or a guard is asked for, the host waits for the sums (`cuda_norms`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from numadam import arrays as ar
from numadam import cuda_arrays as ca
from numadam import plan as pl
from numadam.cuda_launch import on_gpu, require_numba_cuda
from numadam.engine import BareStep, Engine, Leaves
from numadam.interrupts import held_back
from numadam.storage import memory_dtype
from numadam.table import Layout

if TYPE_CHECKING:
    from numadam.cuda_pass import Sparse
    from numadam.cuda_scalars import StepScalars
    from numadam.settings import Settings

# places of the counters
_T, _CALLS, _SKIPPED, _IN_A_ROW = range(4)


class CudaEngine(Engine):
    """State and compiled step of CuPy parameters.

    The state arrays lie in one flat block on the GPU; counters and running products on the host.
    """

    def __init__(self, settings: Settings, params: Leaves, names: Sequence[str]) -> None:
        from numadam.cuda_pass import CudaPass
        from numadam.cuda_sparse import SparseGradients

        self.params, self.names, self.settings = list(params), list(names), settings
        self._device, plan = int(params[0].device.id), settings.plan
        shapes, orders = [p.shape for p in params], [ar.memory_order(p) for p in params]
        self._layout = layout = Layout(shapes, orders, plan.dtype)
        self._layouts = {
            name: Layout(shapes, orders, plan.array_dtype(slot))
            for name, slot in plan.state_slots().items()
        }
        self._counts = np.zeros(4, np.int64)
        self._products = np.ones((len(settings.control), len(plan.products)))
        how = settings.options["sparse"]
        # the optimiser refuses `out` with the others
        only_here = plan.average or plan.master or plan.accumulate or how == "lazy"
        outs = (False,) if only_here else (False, True)
        with on_gpu(self._device):
            self._pass = CudaPass(plan, layout, self._device, self._title, outs, lazy=how == "lazy")
            self._sparse = SparseGradients(plan, layout, self._device, how, self._title)
            self._pass.check({pl.P: self.params})
            self._block = _zeros(sum(one.nbytes for one in self._layouts.values()))
            self.state = self._views(self._block)
            for name, slot in plan.state_slots().items():
                self._own(slot, self.state[name])
            self._fill_per_element()
            self._start()
        self._owned = [
            (f"state[{name!r}]{self.names[k].removeprefix('params')}", view)
            for name, views in self.state.items()
            for k, view in enumerate(views)
        ]

    @staticmethod
    def check_params(params: Leaves, names: Sequence[str]) -> None:
        """Check type and dtype of all parameters, and that they lie on one GPU."""
        ca.check_params(params, names)
        require_numba_cuda()

    def _title(self, slot: int, leaf: int) -> str:
        what = {pl.P: "params", pl.G: "grads", pl.OUT: "out"}[slot]
        return what + self.names[leaf].removeprefix("params")

    def _views(self, block: Any) -> dict[str, list[Any]]:
        """The state arrays in a block like the engine's own."""
        views, first = {}, 0
        for name, layout in self._layouts.items():
            views[name] = layout.views(block[first : first + layout.nbytes])
            first += layout.nbytes
        return views

    def _own(self, slot: int, arrays: Leaves) -> None:
        """Let every step have arrays of the engine's own."""
        flats = map(ca.flat_view, arrays, self._layout.orders)
        self._pass.own |= self._pass.views({slot: list(flats)})

    def _fill_per_element(self) -> None:
        """Arrays of bounds and step sizes in the memory order of the parameters."""
        for slot, values in self.settings.per_element.items():
            dtype = self.settings.plan.array_dtype(slot)
            layout = Layout(self._layout.shapes, self._layout.orders, dtype)
            views = layout.views(_zeros(layout.nbytes))
            for view, value in zip(views, values, strict=True):
                _fill(view, value)
            self._own(slot, views)

    def _start(self) -> None:
        """Parameters into their bounds, and what is not zero before the first step."""
        settings, plan = self.settings, self.settings.plan
        averages = plan.average and not settings.options["ema_debias"]
        if plan.bounds or plan.master or averages:
            used = {pl.P: self.params}
            flats = self._pass.gather(used)
            self._pass.begin(self._pass.views(flats), self._scalars(0.0, 1), averages)
            if plan.bounds:
                self._pass.scatter(used, flats)
        for name, value in settings.rule.initial(settings.options).items():
            for view in self.state[name]:
                _fill(view, value)

    def _scalars(self, lr: float, n: int, flushing: bool = False) -> StepScalars:
        from numadam.cuda_scalars import StepScalars

        settings, t = self.settings, self.t + 1
        control, rows = settings.control, settings.rows
        return StepScalars(settings.plan, control, self._products, rows, lr, t, n, flushing)

    @property
    def counters(self) -> dict[str, np.ndarray]:
        """By name read-only arrays that show the counters themselves."""
        places = {"t": _T}
        if self.settings.plan.accumulate:
            places["calls"] = _CALLS
        if self.settings.options["nonfinite"] == "skip":
            places |= {"skipped": _SKIPPED, "skipped_in_a_row": _IN_A_ROW}
        found: dict[str, np.ndarray] = {
            name: self._counts[k : k + 1].reshape(()) for name, k in places.items()
        }
        for k, name in enumerate(self.settings.plan.products):
            found[name] = self._products[:, k]
        for view in found.values():
            view.flags.writeable = False
        return found

    @property
    def t(self) -> int:
        """Steps taken."""
        return int(self._counts[_T])

    @property
    def skipped(self) -> tuple[int, int]:
        """Steps that the guard skipped, in all and in a row until now."""
        return int(self._counts[_SKIPPED]), int(self._counts[_IN_A_ROW])

    @property
    def grad_norm(self) -> Any:
        """Norm of the last gradients before clipping: one number, or one an array."""
        norm = self._pass.norm
        assert norm is not None  # the optimiser asks only where norms are formed
        of_each = self.settings.plan.norm == "array"
        return norm.norms[:-1].tolist() if of_each else float(norm.norms[-1])

    def step(
        self, grads: Leaves, lr: float, params: Leaves | None = None, out: Leaves | None = None
    ) -> bool:
        """Check everything, then take the whole step; t advances last.

        Returns False where the guard stopped the step.
        """
        used: dict[int, Leaves] = {pl.P: self.params if params is None else list(params)}
        used[pl.G] = list(grads)
        if out is not None:
            used[pl.OUT] = list(out)
        with on_gpu(self._device), self._sparse.lent(used) as sparse:
            self._pass.check(used, self._owned, sparse)
            flats = self._pass.gather(used, sparse)
            every, calls = self.settings.options["accumulate"], int(self._counts[_CALLS])
            scalars = self._scalars(lr, calls + 1)
            if calls + 1 < every:
                with held_back():
                    self._pass.add(self._pass.views(flats), scalars, first=calls == 0)
                    self._counts[_CALLS] += 1
                return True
            return self._take(used, flats, scalars, sparse)

    def flush(self, lr: float) -> bool:
        """Take a step with the mean of the gradients that have been added up."""
        import cupy

        plan = self.settings.plan
        used: dict[int, Leaves] = {pl.P: self.params}
        with on_gpu(self._device):
            self._pass.check(used, self._owned)
            flats = self._pass.gather(used)
            # one block of zeros stands for every gradient: the sum is what counts
            zeros = cupy.zeros(max(self._layout.sizes), memory_dtype(plan.dtype))
            flats[pl.G] = [zeros[:size] for size in self._layout.sizes]
            scalars = self._scalars(lr, int(self._counts[_CALLS]), flushing=True)
            return self._take(used, flats, scalars, {})

    def _take(
        self, used: dict[int, Leaves], flats: Any, scalars: StepScalars, sparse: Sparse
    ) -> bool:
        """The step itself, over arrays that have been checked."""
        run, counts = self._pass, self._counts
        views = run.views(flats)
        if not run.form_norms(views, scalars, self.settings.control[0]):
            guard = self.settings.options["nonfinite"]
            if guard == "skip":
                with held_back():
                    counts[[_SKIPPED, _IN_A_ROW]] += 1
                    counts[_CALLS] = 0
            if guard != "propagate":
                return False
        products = scalars.advanced()
        # all that changes arrays or counters, and nothing that may be refused
        with held_back():
            run.step(views, scalars, sparse)
            run.scatter(used, flats)
            self._products[...] = products
            counts[[_CALLS, _IN_A_ROW]] = 0
            counts[_T] += 1
        return True

    def drop(self) -> None:
        """Forget the gradients that have been added up."""
        self._counts[_CALLS] = 0

    def gradients(self) -> list[Any]:
        """Gradient buffers of the parameters' shapes in one flat buffer."""
        with on_gpu(self._device):
            return self._layout.views(_zeros(self._layout.nbytes))

    def check_arrays(
        self, what: str, leaves: Leaves, dtype: np.dtype[Any] | None = None
    ) -> list[Any]:
        """Check arrays to be copied into the leaves of `what`."""
        wanted = self._layout.dtype if dtype is None else dtype
        for k, (leaf, param) in enumerate(zip(leaves, self.names, strict=True)):
            entry = (what + param.removeprefix("params"), leaf)
            shape = self._layout.shapes[k]
            ca.check_array(entry, param, shape, wanted, self._device, written=False)
        return list(leaves)

    def state_dtype(self, name: str) -> np.dtype[Any]:
        """The dtype of a state array."""
        return self._layouts[name].dtype

    def load(self, counters: Mapping[str, Any], state: Mapping[str, Leaves]) -> None:
        """Copy counters and state arrays in, whole or not at all: the block is one copy."""
        counts, products = self._counts.copy(), self._products.copy()
        places = {"t": _T, "calls": _CALLS, "skipped": _SKIPPED, "skipped_in_a_row": _IN_A_ROW}
        for name, value in counters.items():
            if name in places:
                counts[places[name]] = value
            else:
                products[:, self.settings.plan.products.index(name)] = value
        with on_gpu(self._device):
            staged = self._block.copy()
            views = self._views(staged)
            for name, leaves in state.items():
                for view, leaf in zip(views[name], leaves, strict=True):
                    ca.in_memory(view)[...] = ca.in_memory(leaf)
            with held_back():
                self._block[...] = staged
                self._counts[...] = counts
                self._products[...] = products

    @classmethod
    def update(cls, call: BareStep) -> None:
        """Take one step on the caller's own arrays; the first call for an option compiles."""
        from numadam.cuda_update import update

        update(call)


def _zeros(size: int) -> Any:
    import cupy

    return cupy.zeros(size, np.uint8)


def _fill(view: Any, value: Any) -> None:
    """Write numbers into an array of any storage, for both parts of a complex number."""
    import cupy

    if view.dtype.kind == "c":
        view[...] = cupy.asarray(value) * (1 + 1j)
    elif memory_dtype(view.dtype) == view.dtype:
        view[...] = cupy.asarray(value)
    else:
        # CuPy may not know the dtype, and NumPy does
        ca.in_memory(view)[...] = cupy.asarray(ca.in_memory(np.asarray(value).astype(view.dtype)))
