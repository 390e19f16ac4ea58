"""The CUDA engine: CuPy arrays, checked in Python, into one launch per array. And launch policy.

* A step is launched on CuPy's current stream and does not wait for the GPU.
* t and the control block lie in host memory: a step needs no scalar from the GPU.
* Kernels are compiled when an optimiser is made, never inside a step.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from numadam import arrays as ar
from numadam import cuda_arrays as ca
from numadam.engine import BareStep, Engine, Leaves
from numadam.interrupts import held_back
from numadam.rules.base import STATE_SLOTS, RuleSpec
from numadam.table import Layout

#: Threads of a block: enough for any GPU to hide its memory's latency at 40 registers a thread.
BLOCK = 256
#: Blocks of a grid: fewer than 128 leave a large GPU idle (and numba-cuda warns of them; blocks
#: without an element end at once); above 65,536 each thread takes several elements.
BLOCKS_LEAST, BLOCKS_MOST = 128, 65_536


def grid_size(n: int) -> int:
    """Blocks for n elements."""
    return min(max(-(-n // BLOCK), BLOCKS_LEAST), BLOCKS_MOST)


def _require_numba_cuda() -> None:
    # `numba.cuda` would import without it: Numba's own deprecated target
    if importlib.util.find_spec("numba_cuda") is None:
        raise ImportError(
            "CuPy arrays need the numba-cuda package, which is not installed: "
            'pip install "numadam[cuda13]", or "numadam[cuda12]" for CUDA 12.'
        )


@contextmanager
def on_gpu(device: int) -> Iterator[None]:
    """Make a GPU the current one for CuPy and for numba-cuda: each remembers its own."""
    import cupy
    from numba import cuda

    with cupy.cuda.Device(device), cuda.gpus[device]:
        yield


@functools.lru_cache(maxsize=64)
def _numba_stream(pointer: int) -> Any:
    from numba import cuda

    return cuda.external_stream(pointer)


def numba_view(flat: Any) -> Any:
    """A CuPy array as numba-cuda takes it, without the default wait for CuPy's stream.

    The launch is on that stream, and so after all that CuPy has put there.
    """
    from numba import cuda

    return cuda.as_cuda_array(flat, sync=False)


class CudaPass:
    """The kernels of one rule over leaves of a layout, and the work arrays of strided leaves.

    Its methods are called while the GPU of the leaves is the current one. Arrays come by role:
    "p", "g", "out", and the names of the state.

    Parameters
    ----------
    rule, options
        What the step computes.
    layout : Layout
    device : int
        Number of the GPU.
    titles : mapping of str to str
        What the user calls a role, where that is something else.
    suffixes : sequence of str
        What follows the role in the name of each leaf, e.g. ``"['w']"``.
    outs : sequence of bool
        Whether kernels without and with `out` shall be there.
    """

    def __init__(
        self,
        rule: RuleSpec,
        options: Mapping[str, Any],
        layout: Layout,
        device: int,
        titles: Mapping[str, str],
        suffixes: Sequence[str],
        outs: Sequence[bool] = (False, True),
    ) -> None:
        import cupy

        from numadam.cuda_loop import compiled_kernel

        self._layout, self._device = layout, device
        self._titles, self._suffixes = titles, suffixes
        self._slots = (*rule.state, *[""] * STATE_SLOTS)[:STATE_SLOTS]
        self._kernels = {out: compiled_kernel(rule, options, layout.dtype, out) for out in outs}
        self._absent = numba_view(cupy.empty(0, layout.dtype))
        self._work: dict[tuple[str, int], Any] = {}

    def _named(self, role: str, arrays: Leaves) -> list[ca.Named]:
        title = self._titles.get(role, role)
        return [(title + end, array) for end, array in zip(self._suffixes, arrays, strict=True)]

    def check(self, used: Mapping[str, Leaves], owned: Sequence[ca.Named] = ()) -> None:
        """Check all arrays; `owned` are named arrays that the step writes besides."""
        layout = self._layout
        only_read = ("g", "p") if "out" in used else ("g",)
        named = {role: self._named(role, arrays) for role, arrays in used.items()}
        for role, entries in named.items():
            for k, entry in enumerate(entries):
                of = named["p"][k][0]
                ca.check_array(
                    entry, of, layout.shapes[k], layout.dtype, self._device, role not in only_read
                )
        read = [entry for role in only_read for entry in named.pop(role, [])]
        ca.check_overlap([*owned, *itertools.chain(*named.values())], read)

    def gather(self, used: Mapping[str, Leaves]) -> dict[str, list[Any]]:
        """Each array flat: its own memory, or a kept work array with a copy of it."""
        import cupy

        flats: dict[str, list[Any]] = {}
        for role, arrays in used.items():
            flats[role] = []
            for k, (array, order) in enumerate(zip(arrays, self._layout.orders, strict=True)):
                flat = ca.flat_view(array, order)
                if flat is None:
                    if (role, k) not in self._work:
                        self._work[role, k] = cupy.empty(array.size, array.dtype)
                    flat = self._work[role, k]
                    ca.copy_flat(flat, array, order, into_flat=True)
                flats[role].append(flat)
        return flats

    def scatter(self, used: Mapping[str, Leaves], flats: Mapping[str, list[Any]]) -> None:
        """Copy what the step wrote into work arrays back to where it belongs."""
        for role, arrays in used.items():
            if role == "g" or (role == "p" and "out" in used):
                continue
            for k, (array, order) in enumerate(zip(arrays, self._layout.orders, strict=True)):
                if flats[role][k] is self._work.get((role, k)):
                    ca.copy_flat(flats[role][k], array, order, into_flat=False)

    def views(self, flats: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """Flat arrays as numba-cuda takes them."""
        return {role: [numba_view(flat) for flat in leaves] for role, leaves in flats.items()}

    def launch(self, views: Mapping[str, list[Any]], h: tuple[Any, ...]) -> None:
        """One launch per leaf, on CuPy's current stream."""
        import cupy

        stream = _numba_stream(cupy.cuda.get_current_stream().ptr)
        kernel = self._kernels["out" in views]
        for k, n in enumerate(self._layout.sizes):
            if n == 0:
                continue
            rest = [views[s][k] if s in views else self._absent for s in (*self._slots, "out")]
            kernel[grid_size(n), BLOCK, stream](views["p"][k], views["g"][k], *rest, h)


class CudaEngine(Engine):
    """State and compiled step of CuPy parameters.

    The state arrays lie in one flat block on the GPU, t and the control block on the host.
    """

    def __init__(
        self, rule: RuleSpec, options: Mapping[str, Any], params: Leaves, names: Sequence[str]
    ) -> None:
        dtype, self._device = ca.check_params(params, names)
        _require_numba_cuda()
        self.params, self._names, self._rule = list(params), list(names), rule
        shapes, orders = [p.shape for p in params], [ar.memory_order(p) for p in params]
        self._layout = layout = Layout(shapes, orders, dtype)
        self.control = np.array(rule.control_values(options))
        self._steps = np.zeros((), np.int64)
        titles = {"p": "params", "g": "grads"}
        suffixes = [name.removeprefix("params") for name in names]
        with on_gpu(self._device):
            self._pass = CudaPass(rule, options, layout, self._device, titles, suffixes)
            self._pass.check({"p": self.params})
            present = rule.present(options)
            self._block = self._zeros(layout.nbytes * len(present))
            self.state = self._state_views(self._block, present)
            flats = {
                name: [ca.flat_view(*leaf) for leaf in zip(views, orders, strict=True)]
                for name, views in self.state.items()
            }
            self._kept = self._pass.views(flats)
        self._owned = [
            (f"state[{name!r}]{end}", view)
            for name, views in self.state.items()
            for end, view in zip(suffixes, views, strict=True)
        ]

    @staticmethod
    def _zeros(size: int) -> Any:
        import cupy

        return cupy.zeros(size, np.uint8)

    def _state_views(self, block: Any, present: Sequence[str]) -> dict[str, list[Any]]:
        size = self._layout.nbytes
        return {
            name: self._layout.views(block[k * size : (k + 1) * size])
            for k, name in enumerate(present)
        }

    @property
    def t(self) -> Any:
        """Steps taken, a 0-d int64 array that shows the counter itself."""
        return self._steps

    def step(
        self, grads: Leaves, lr: float, params: Leaves | None = None, out: Leaves | None = None
    ) -> None:
        """Check everything, then take the whole step; t advances last."""
        from numadam.cuda_loop import scalars

        used = {"p": list(self.params if params is None else params), "g": list(grads)}
        if out is not None:
            used["out"] = list(out)
        with on_gpu(self._device):
            self._pass.check(used, self._owned)
            flats = self._pass.gather(used)
            views = {**self._pass.views(flats), **self._kept}
            h = scalars(self._rule, self.control, lr, int(self._steps) + 1, self._layout.dtype)
            # all that changes arrays or t, and nothing that may be refused
            with held_back():
                self._pass.launch(views, h)
                self._pass.scatter(used, flats)
                self._steps += 1

    def gradients(self) -> list[Any]:
        """Gradient buffers of the parameters' shapes in one flat buffer."""
        with on_gpu(self._device):
            return self._layout.views(self._zeros(self._layout.nbytes))

    def check_arrays(self, what: str, leaves: Leaves) -> list[Any]:
        """Check arrays to be copied into the leaves of `what`."""
        layout = self._layout
        for k, (leaf, param) in enumerate(zip(leaves, self._names, strict=True)):
            entry = (what + param.removeprefix("params"), leaf)
            shape = layout.shapes[k]
            ca.check_array(entry, param, shape, layout.dtype, self._device, written=False)
        return list(leaves)

    def load(self, t: int, state: Mapping[str, Leaves]) -> None:
        """Copy t and the given state arrays in, whole or not at all: the block is one copy."""
        with on_gpu(self._device):
            staged = self._block.copy()
            views = self._state_views(staged, list(self.state))
            for name, leaves in state.items():
                for view, leaf in zip(views[name], leaves, strict=True):
                    view[...] = leaf
            with held_back():
                self._block[...] = staged
                self._steps[...] = t

    @classmethod
    def update(cls, call: BareStep) -> None:
        """Take one step on the caller's own arrays; the first call for an option compiles."""
        rule, options, p, g, state, t, lr, out = call
        dtype, device = ca.check_params([p], ["p"])
        _require_numba_cuda()
        from numadam.cuda_loop import scalars

        layout = Layout([p.shape], [ar.memory_order(p)], dtype)
        used = {"p": [p], "g": [g], **{name: [array] for name, array in state.items()}}
        if out is not None:
            used["out"] = [out]
        with on_gpu(device):
            run = CudaPass(rule, options, layout, device, {}, [""], [out is not None])
            run.check(used)
            flats = run.gather(used)
            views = run.views(flats)
            h = scalars(rule, rule.control_values(options), lr, t, dtype)
            with held_back():
                run.launch(views, h)
                run.scatter(used, flats)
