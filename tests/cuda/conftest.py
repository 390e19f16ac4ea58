"""Devices of the CUDA tests: in Numba's simulator, as PTX, or on a GPU."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

#: Fixtures that need an extra, and the mark that their tests get.
FIXTURES = {
    "cupy": pytest.mark.simulator,
    "machine": pytest.mark.cuda,
    "real_cupy": pytest.mark.cuda("cupy"),
}


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items):
    for item in items:
        for name in FIXTURES.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(FIXTURES[name])


def _run_block(manager, grid_point, *args):
    """One block of simulated threads, which wait for each other at a barrier."""
    from numba.cuda.simulator.kernel import BlockThread

    points = list(np.ndindex(*manager._block_dim))
    barrier = threading.Barrier(len(points))

    def guarded():
        try:
            manager._f(*args)
        except BaseException:
            barrier.abort()
            raise

    threads = [BlockThread(guarded, manager, grid_point, point, False) for point in points]
    for thread in threads:
        thread.syncthreads = barrier.wait
        thread.start()
    for thread in threads:
        thread.join()
    failed = [thread.exception for thread in threads if thread.exception]
    for error, trace in sorted(failed, key=lambda e: isinstance(e[0], RuntimeError)):
        raise error.with_traceback(trace)


def _quick_simulator(monkeypatch):
    """Mend what is slow or wrong in the simulator.

    It asks every thread in turn whether it waits, and takes the interpreter lock to do so; at
    every call of a device function it looks for the module `cuda`, which those of a kernel's own
    module alone use; and two of its threads may find no shared array, and make one each.
    """
    from numba.cuda.simulator import kernel, kernelapi

    allocate, launch = kernelapi.FakeCUDAShared.array, kernel.FakeCUDAKernel.__call__
    lock = threading.Lock()

    def call(function, *args):
        return function.fn(*args) if function._device else launch(function, *args)

    def array(shared, shape, dtype):
        with lock:
            if not hasattr(shared, "only"):  # a kernel here has one at most
                shared.only = allocate(shared, shape, dtype)
            return shared.only

    monkeypatch.setattr(kernel.FakeCUDAKernel, "__call__", call)
    monkeypatch.setattr(kernel.BlockManager, "run", _run_block)
    monkeypatch.setattr(kernelapi.FakeCUDAShared, "array", array)


@pytest.fixture
def stand_in(monkeypatch):
    """The stand-in for CuPy."""
    from numadam._arrays import checks as arrays
    from numadam._arrays import sparse
    from tests.cuda import fake_cupy

    def is_numpy(x):
        # a fake array is NumPy's too, and must not be taken for one
        return not isinstance(x, fake_cupy.ndarray) and arrays.is_numpy(x)

    monkeypatch.setattr(sparse, "is_numpy", is_numpy)

    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)
    monkeypatch.setitem(sys.modules, "cupyx", fake_cupy)
    monkeypatch.setitem(sys.modules, "cupyx.scipy.sparse", fake_cupy.sparse)
    return fake_cupy


@pytest.fixture
def cupy(monkeypatch, request):
    """The stand-in for CuPy, with launches of a few threads: each is a Python thread."""
    from numba import cuda

    import numadam._cuda.launch as policy

    fake_cupy = request.getfixturevalue("stand_in")
    _quick_simulator(monkeypatch)
    monkeypatch.setattr(policy, "THREADS", 4)
    monkeypatch.setattr(policy, "MIN_BLOCKS", 1)
    monkeypatch.setattr(policy, "MAX_BLOCKS", 3)
    # the simulator has neither of these
    monkeypatch.setattr(cuda, "external_stream", lambda pointer: pointer)
    monkeypatch.setattr(cuda, "as_cuda_array", lambda x, sync: x.view(np.ndarray), raising=False)
    return fake_cupy


@pytest.fixture
def machine(stand_in, monkeypatch):
    """The stand-in for CuPy, with compiled kernels in the PTX machine."""
    from tests.cuda.machine import machine_kernels

    machine_kernels.install(monkeypatch)
    return stand_in
