"""A stand-in for CuPy over host memory: what numadam uses of it, and no more.

With Numba's CUDA simulator, or with the PTX machine, it drives the whole stack, from the
constructor to the kernel, without a GPU. A fixture puts it in the place of ``cupy``.
"""

from __future__ import annotations

import weakref
from types import SimpleNamespace

import numpy

__version__ = "14.0.0"


#: Address and bytes of all memory that a kernel may know of, by who owns it.
allocations: dict[int, tuple[int, int]] = {}
#: Bytes before and behind each array that belong to nobody.
_GUARD = 512


def _allocated(owner, address, nbytes):
    allocations[id(owner)] = address, nbytes
    weakref.finalize(owner, allocations.pop, id(owner))


class ndarray(numpy.ndarray):
    """A NumPy array that says it is CuPy's, on the GPU of `device`."""

    gpu = 0

    def __array_finalize__(self, other):
        self.gpu = getattr(other, "gpu", 0)

    @property
    def data(self):
        owner = self
        while isinstance(owner.base, numpy.ndarray):
            owner = owner.base
        if id(owner) not in allocations:  # what NumPy made, and not `zeros`
            _allocated(owner, owner.ctypes.data, owner.nbytes)
        return SimpleNamespace(ptr=self.ctypes.data, device_id=self.gpu)

    @property
    def device(self):
        return SimpleNamespace(id=self.gpu)

    def get(self, stream=None, out=None, blocking=True):
        if out is None:
            return numpy.array(self)
        assert type(out) is numpy.ndarray
        out[...] = self
        return out

    def set(self, values, stream=None):
        assert values.shape == self.shape
        assert values.dtype == self.dtype
        self.view(numpy.ndarray)[...] = values


ndarray.__module__ = "cupy"


def asarray(a, dtype=None, order=None):
    if hasattr(a, "__cuda_array_interface__"):
        return numpy.asarray(SimpleNamespace(__array_interface__=a.__cuda_array_interface__)).view(
            ndarray
        )
    if type(a) is ndarray and dtype in (None, a.dtype) and order is None:
        return a
    given = numpy.array(a, dtype=dtype, order=order or "K")
    order = sorted(range(given.ndim), key=lambda axis: -abs(given.strides[axis]))
    room = zeros([given.shape[axis] for axis in order], given.dtype)
    made = room.transpose(numpy.argsort(order)) if order else room.reshape(given.shape)
    made.view(numpy.ndarray)[...] = given
    return made


def from_dlpack(x):
    return numpy.from_dlpack(x.array).view(ndarray)


def asnumpy(a):
    return numpy.array(a)


def full(shape, value, dtype=float):
    made = zeros(shape, dtype)
    made[...] = value
    return made


def zeros(shape, dtype=float):
    """As CuPy's, aligned to 512 bytes."""
    dtype = numpy.dtype(dtype)
    count = int(numpy.prod(shape, dtype=int)) * dtype.itemsize
    room = numpy.zeros(count + 512 + 2 * _GUARD, numpy.uint8)
    skip = _GUARD + -room.ctypes.data % 512
    _allocated(room, room.ctypes.data + skip, count)
    return room[skip : skip + count].view(dtype).reshape(shape).view(ndarray)


def ones(shape, dtype=float):
    return full(shape, 1, dtype)


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


add, divide, concatenate = map(_of_numpy, ("add", "divide", "concatenate"))
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


class _Event:
    done = True

    def __init__(self, disable_timing=False):
        self.recorded = 0

    def record(self, stream):
        self.recorded += 1
        stream.log.append("record")

    def synchronize(self):
        assert self.recorded


class _Stream:
    ptr = 0
    capturing = False

    def __init__(self, non_blocking=False):
        self.log = []  # of what synchronises

    def is_capturing(self):
        return self.capturing

    def synchronize(self):
        self.log.append("synchronize")

    def wait_event(self, event):
        assert event.recorded
        self.log.append("wait")


stream = _Stream()
cuda = SimpleNamespace(
    Device=_Device,
    Event=_Event,
    Stream=_Stream,
    get_current_stream=lambda: stream,
    runtime=SimpleNamespace(
        getDevice=lambda: 0,
        getDeviceCount=lambda: 1,
        deviceGetPCIBusId=lambda device: f"0000:{device:02x}:00.0",
    ),
)


def empty_pinned(shape, dtype):
    """Of cupyx."""
    return numpy.zeros(shape, dtype)


class csr_matrix:
    """Attributes that numadam reads of a matrix of ``cupyx.scipy.sparse``."""

    format = "csr"

    def __init__(self, of):
        self.data, self.indices, self.indptr = map(asarray, (of.data, of.indices, of.indptr))
        self.shape, self.dtype = of.shape, of.dtype


sparse = SimpleNamespace(issparse=lambda x: isinstance(x, csr_matrix))
