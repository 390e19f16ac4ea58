"""numadam's own kernels in the PTX machine, in the place of those that a GPU runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.cuda import fake_cupy
from tests.cuda.machine.ptx_machine import Launch
from tests.cuda.machine.ptx_parse import Program, parse

CAPABILITY = (9, 0)
#: Kernels of all tests of the process, each compiled once.
_kernels: dict[Any, Any] = {}


def _run(program: Program, blocks: int, threads: int, values: Sequence[Any]) -> None:
    Launch(program, blocks, threads, values, list(fake_cupy.allocations.values())).run()


class MachineKernel:
    """Called as `numadam._cuda.launch.Kernel`; compiled at its first launch."""

    def __init__(self, given: tuple[Any, ...], name: str, kinds: str) -> None:
        self._given, self.name = given, name
        self._program: Program | None = None

    def ready(self, scalars: np.ndarray | None = None) -> Any:
        """What launches it; the last arguments lie in `scalars`."""

        return MachineLaunch(self, scalars)

    def compiled(self) -> Program:
        from numadam._cuda.compiler import ptx_of

        if self._program is None:
            make, capability, plan, more = self._given
            ptx, name, _ = ptx_of(make, capability, plan, *more)
            self._program = parse(ptx, name, f"{self.name} of {plan.name}")
        return self._program


class MachineLaunch:
    """Called as `numadam._cuda.launch.Launch`."""

    def __init__(self, kernel: MachineKernel, scalars: np.ndarray | None) -> None:
        self._kernel, self._scalars = kernel, scalars

    def __call__(
        self, blocks: int, threads: int, numbers: Sequence[Any], addresses: Sequence[int] = ()
    ) -> None:
        last = () if self._scalars is None else self._scalars
        _run(self._kernel.compiled(), blocks, threads, (*addresses, *numbers, *last))

    def bind(self, *arguments: Any) -> Callable[[], None]:
        """Launches with these arguments."""
        return functools.partial(self, *arguments)


# --- kernels that numba-cuda launches -------------------------------------------------------------


def _type_of(value: Any) -> Any:
    from numba import cuda
    from numba.np.numpy_support import from_dtype

    if isinstance(value, tuple):
        return cuda.types.Tuple([_type_of(one) for one in value])
    if not isinstance(value, np.ndarray):
        return from_dtype(np.dtype(type(value)))
    layout = "C" if value.flags.c_contiguous else "A"
    return cuda.types.Array(from_dtype(value.dtype), value.ndim, layout)


def _flat(value: Any) -> Iterator[Any]:
    """What numba-cuda passes for an argument: of an array its memory, shape and strides."""
    if isinstance(value, tuple):
        for one in value:
            yield from _flat(one)
    elif isinstance(value, np.ndarray):
        yield from (0, 0, value.size, value.itemsize, value.ctypes.data)
        yield from value.shape + value.strides
    else:
        yield value


def view(array: Any) -> Any:
    """Stands for `numadam._cuda.launch.numba_view`."""
    assert array.data.ptr or not array.size  # and so the machine knows where it lies
    return array.view(np.ndarray)


def run(function: Any, blocks: int, threads: int, arguments: Sequence[Any]) -> None:
    """Run a kernel as numba-cuda launches it, on views."""
    from numba import cuda

    from numadam._cuda.compiler import ptx_of

    types = cuda.types.void(*map(_type_of, arguments))
    if (function, types) not in _kernels:
        ptx, name, _ = ptx_of(lambda: (function, types), CAPABILITY)
        _kernels[function, types] = parse(ptx, name, function.__name__)
    _run(_kernels[function, types], blocks, threads, list(_flat(tuple(arguments))))


def _launch(kernel: Any, turns: int, arguments: Sequence[Any]) -> None:
    """Stands for `numadam._cuda.launch.launch`."""
    import numadam._cuda.launch as policy

    if turns:
        run(kernel.py_func, policy.blocks_for(turns), policy.THREADS, arguments)


@contextmanager
def _no_gpu(device: int):
    yield


def install(monkeypatch) -> None:
    """Let numadam compile for a GPU that is not there, and launch in the machine."""
    import numba.cuda.dispatcher as dispatcher
    from numba import cuda

    import numadam._cuda.launch as policy
    from numadam._cuda import compiler as cuda_compile

    device = SimpleNamespace(compute_capability=CAPABILITY)
    for module in (dispatcher, cuda):
        monkeypatch.setattr(module, "get_current_device", lambda: device)
    monkeypatch.setattr(cuda_compile, "_kernels", _kernels)
    # no cubin, and nothing kept on disk
    monkeypatch.setattr(cuda_compile, "_image", lambda *given: (given, given[0].__name__, ""))
    monkeypatch.setattr(policy, "Kernel", MachineKernel)
    monkeypatch.setattr(policy, "compiling_for", _no_gpu)
    monkeypatch.setattr(policy, "numba_view", view)
    monkeypatch.setattr(policy, "launch", _launch)
