"""CuPy arrays are known by their type, without importing CuPy and without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import numadam as na
from numadam._optimizer.dispatch import backend_for


@pytest.fixture
def real_cupy():
    import cupy

    return cupy


def on_host(cupy, a):
    """A real CuPy array over the memory of a NumPy array."""
    memory = cupy.cuda.UnownedMemory(a.ctypes.data, max(a.nbytes, 1), a, device_id=0)
    pointer = cupy.cuda.MemoryPointer(memory, 0)
    return cupy.ndarray(a.shape, a.dtype, pointer, strides=a.strides)


def test_cupy_arrays_go_to_the_gpu(real_cupy):
    a = on_host(real_cupy, np.zeros(3))
    assert backend_for([a], ["params"]).__name__ == "CudaBackend"


def test_numpy_arrays_stay_on_the_cpu(real_cupy):
    assert backend_for([np.zeros(3)], ["params"]).__name__ == "CpuBackend"


def test_both_together_are_refused(real_cupy):
    a = on_host(real_cupy, np.zeros(3))
    with pytest.raises(
        TypeError, match=r"params\[1\]: is a NumPy array, but params\[0\] is a CuPy"
    ):
        backend_for([a, np.zeros(3)], ["params[0]", "params[1]"])


def test_checks_of_real_cupy_arrays(real_cupy):
    from numadam._arrays import checks as ar
    from numadam._arrays.layout import Layout
    from numadam._cuda import arrays as ca

    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    c, f = on_host(real_cupy, base), on_host(real_cupy, np.asfortranarray(base))
    assert ca.check_params([c, f], ["c", "f"]) == 0
    order = ar.memory_order(f)
    assert order == (2, 1, 0)
    assert ca.flat_view(f, order).data.ptr == f.data.ptr
    assert ca.flat_view(f, (0, 1, 2)) is None
    assert not ar.overlaps_itself(c[:, ::-1, ::2])
    assert ar.overlaps_itself(real_cupy.lib.stride_tricks.as_strided(c, (3, 3), (4, 4)))
    assert ca.span(c[::-1]) == ca.span(c)
    layout = Layout([f.shape, (), (0, 3)], [order, (), (0, 1)], np.dtype(np.float32))
    views = layout.views(on_host(real_cupy, np.zeros(layout.nbytes, np.uint8)))
    assert [view.shape for view in views] == [(2, 3, 4), (), (0, 3)]
    assert views[0].strides == f.strides


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "complex64", "complex128"])
def test_short_and_complex_real_cupy_arrays(real_cupy, dtype):
    from numadam._arrays.layout import Layout
    from numadam._cuda import arrays as ca

    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    base = np.arange(12).astype(dtype).reshape(3, 4)
    c, f = on_host(real_cupy, base), on_host(real_cupy, np.asfortranarray(base))
    assert ca.check_params([c, f], ["c", "f"]) == 0
    flat = ca.flat_view(f, (1, 0))
    assert flat.data.ptr == f.data.ptr
    assert flat.dtype == ("uint16" if base.dtype.itemsize == 2 else base.dtype)
    assert ca.flat_view(c[:, ::2], (0, 1)) is None
    assert ca.in_memory(c[:, ::2]).strides == c[:, ::2].strides
    assert ca.is_flat(f, (1, 0))
    assert not ca.is_flat(f, (0, 1))
    assert not ca.is_flat(c[:, ::2], (0, 1))
    assert ca.is_flat(c[1:], (0, 1))
    empty = on_host(real_cupy, np.zeros((0, 3), dtype))
    assert ca.is_flat(empty, (0, 1))
    assert ca.flat_view(empty, (0, 1)).size == 0
    layout = Layout([(2, 3), ()], [(1, 0), ()], base.dtype)
    views = layout.views(on_host(real_cupy, np.zeros(layout.nbytes, np.uint8)))
    assert [(view.shape, view.dtype) for view in views] == [((2, 3), base.dtype), ((), base.dtype)]
    ca.check_overlap([("w", c[:2])], [("g", c[2:])])
    with pytest.raises(ValueError, match="g shares memory with w"):
        ca.check_overlap([("w", c[:, ::2])], [("g", c[1])])


def test_overlap_of_real_cupy_arrays(real_cupy):
    from numadam._cuda import arrays as ca

    a = on_host(real_cupy, np.zeros((4, 6)))
    ca.check_overlap([("w", a[:, ::2])], [("g", a[:, 1::2])])
    ca.check_overlap([("w", a[:2]), ("x", a[2:])], [])
    ca.check_overlap([("w", a[0])], [("g", a[1]), ("h", a[1])])
    with pytest.raises(ValueError, match="g shares memory with w"):
        ca.check_overlap([("w", a[:, ::2])], [("g", a[1])])
    with pytest.raises(ValueError, match="shares memory"):
        ca.check_overlap([("w", a[0]), ("x", a[:, 5])], [])


def test_numpy_use_imports_neither_cupy_nor_numba_cuda():
    code = (
        "import sys, numpy as np, numadam as na\n"
        "p = np.ones(3)\n"
        "opt = na.SGD(p)\n"
        "opt.step(np.ones(3))\n"
        "na.sgd_update(p, np.ones(3))\n"
        "names = [n for n in sys.modules if n == 'cupy' or n.startswith('numba.cuda')]\n"
        "assert not names, names\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)


def test_a_gradient_of_the_other_library_is_refused(real_cupy):
    g = on_host(real_cupy, np.zeros(2))
    with pytest.raises(TypeError, match="expected a NumPy array, got cupy"):
        na.minimize(lambda x: (1.0, g), np.ones(2), jac=True)


def test_a_tensor_on_a_gpu_without_cupy_says_what_to_install(monkeypatch):
    import importlib.util

    class Tensor:
        dtype = np.dtype(np.float32)

        def __dlpack_device__(self):
            return (2, 0)

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "cupy" else find(n))
    with pytest.raises(ImportError, match=r"need the CuPy package.*pip install"):
        na.Adam(Tensor())


def test_without_a_gpu_or_a_driver_one_sentence_says_so(real_cupy):
    from numadam._arrays.gpu import require_gpu

    try:
        count = real_cupy.cuda.runtime.getDeviceCount()
    except real_cupy.cuda.runtime.CUDARuntimeError:
        count = 0
    if count or os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        pytest.skip("there is a GPU, or the simulator of one")
    with pytest.raises((RuntimeError, ImportError), match=r"nvidia-smi|not installed"):
        require_gpu()
