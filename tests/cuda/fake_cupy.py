"""A stand-in for CuPy over host memory: what numadam uses of it, and no more.

With Numba's CUDA simulator it drives the whole stack, from the constructor to the kernel,
without a GPU. A fixture puts it in the place of ``cupy``.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy


class ndarray(numpy.ndarray):
    """A NumPy array that says it is CuPy's, on the GPU of `device`."""

    gpu = 0

    def __array_finalize__(self, other):
        self.gpu = getattr(other, "gpu", 0)

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)

    @property
    def device(self):
        return SimpleNamespace(id=self.gpu)

    def get(self):
        return numpy.array(self)


ndarray.__module__ = "cupy"


def asarray(a, dtype=None, order=None):
    if type(a) is ndarray and dtype in (None, a.dtype) and order is None:
        return a
    return numpy.array(a, dtype=dtype, order=order).view(ndarray)


def asnumpy(a):
    return numpy.array(a)


def zeros(shape, dtype=float):
    return numpy.zeros(shape, dtype).view(ndarray)


def ones(shape, dtype=float):
    return numpy.ones(shape, dtype).view(ndarray)


def empty(shape, dtype=float):
    array = zeros(shape, dtype)
    if array.dtype.kind in "fcu":  # whoever reads it before writing shall notice
        array.fill(0xFFFF if array.dtype.kind == "u" else numpy.nan)
    return array


def arange(n):
    return numpy.arange(n).view(ndarray)


def _of_numpy(name):
    def function(*args, **kwargs):
        return getattr(numpy, name)(*args, **kwargs).view(ndarray)

    return function


argsort, cumsum, flatnonzero, ascontiguousarray = map(
    _of_numpy, ("argsort", "cumsum", "flatnonzero", "ascontiguousarray")
)
int64, float64 = numpy.int64, numpy.float64


class _Device:
    def __init__(self, device):
        self.id = device

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        return None


cuda = SimpleNamespace(Device=_Device, get_current_stream=lambda: SimpleNamespace(ptr=0))


class csr_matrix:
    """What numadam looks at in a matrix of ``cupyx.scipy.sparse``."""

    format = "csr"

    def __init__(self, of):
        self.data, self.indices, self.indptr = map(asarray, (of.data, of.indices, of.indptr))
        self.shape, self.dtype = of.shape, of.dtype


sparse = SimpleNamespace(issparse=lambda x: isinstance(x, csr_matrix))
