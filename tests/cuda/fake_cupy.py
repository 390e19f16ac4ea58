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
        return SimpleNamespace(ptr=self.__array_interface__["data"][0])

    @property
    def device(self):
        return SimpleNamespace(id=self.gpu)


ndarray.__module__ = "cupy"


def asarray(a, dtype=None, order=None):
    return numpy.array(a, dtype=dtype, order=order).view(ndarray)


def zeros(shape, dtype=float):
    return numpy.zeros(shape, dtype).view(ndarray)


def empty(shape, dtype=float):
    array = zeros(shape, dtype)
    if array.dtype.kind == "f":
        array.fill(numpy.nan)  # whoever reads it before writing shall notice
    return array


def asnumpy(a):
    return numpy.array(a)


class _Device:
    def __init__(self, device):
        self.id = device

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        return None


cuda = SimpleNamespace(Device=_Device, get_current_stream=lambda: SimpleNamespace(ptr=0))
