"""Arrays of any library: where they live, and how they lie in memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from array_api_compat import is_cupy_array

from numadam._version import install_command

# --- library of an array -------------------------------------------------------------------------
# The only file that asks whether an array is CuPy's. Gradients may be torch tensors, Numba's device
# arrays, JAX arrays, and everything else that has DLPack or an array interface: they are viewed
# without a copy, and never written. None of these libraries is imported: an object says by itself
# where its memory is.

is_cupy = is_cupy_array
#: Libraries whose arrays may never be written, whatever their memory allows.
_IMMUTABLE = ("jax", "jaxlib", "tensorflow")
#: Libraries whose arrays are computed, or gathered from many machines, where NumPy copies them.
_DISTRIBUTED = ("dask", "cupynumeric", "cunumeric")
_CPU, _CUDA, _CUDA_MANAGED = 1, 2, 13  # of DLPack
_LEGACY_STREAM = 1  # of the CUDA array interface; CuPy's number for it is 0


def is_array(x: Any) -> bool:
    """Whether an object is NumPy's or CuPy's array; importing neither."""
    return isinstance(x, np.ndarray) or is_cupy(x)


def units_of(x: Any) -> Any:
    """The unit of an array of astropy, pint, unyt or the like; None where there is none.

    Labelled arrays may have one among their notes; it says nothing about their arithmetic. A record
    array has its fields as attributes.
    """
    owner = x if isinstance(x, np.ndarray) and not isinstance(x, np.recarray) else type(x)
    for name in ("unit", "units"):
        if getattr(owner, name, None) is not None:
            return getattr(x, name)
    return None


def to_host(x: Any) -> Any:
    """A CuPy array as a NumPy copy of its order, for which the host waits; others as they are."""
    return x.get(order="A") if is_cupy(x) else x


def sample(x: Any, every: int) -> np.ndarray:
    """Every so many elements of an array in C order, on the host."""
    if every == 1 and type(x) is np.ndarray and x.ndim == 1:
        return x  # 0.6 us less
    x = as_view(x)
    if is_cupy(x):
        return np.asarray(to_host(x.reshape(-1)[::every]))
    return np.asarray(x).flat[::every]


def home(x: Any) -> str:
    """The library that can work on an object's memory: "NumPy", "CuPy", or "" for neither.

    That of a foreign array is the library that can view it.
    """
    if type(x) is np.ndarray:
        return "NumPy"
    if is_cupy(x):
        return "CuPy"
    # by type: a proxy claims to be an ndarray, but its memory cannot be read like one
    return "NumPy" if issubclass(type(x), np.ndarray) else _viewer(x)


def _viewer(x: Any) -> str:
    """The library that can view a foreign object, or ""; "" for its own arrays, too."""
    kind = type(x)
    if isinstance(x, (np.ndarray, np.generic)) or is_cupy(x):
        return ""
    if _library(x) == "torch" and getattr(x, "is_cpu", False):  # 1 us less than by DLPack
        return "NumPy"
    if hasattr(kind, "__dlpack_device__"):
        device = int(x.__dlpack_device__()[0])
        return {_CPU: "NumPy", _CUDA: "CuPy", _CUDA_MANAGED: "CuPy"}.get(device, "")
    if hasattr(kind, "__cuda_array_interface__"):
        return "CuPy"
    if is_distributed(x):
        return ""
    return "NumPy" if hasattr(x, "__array_interface__") and units_of(x) is None else ""


def _library(x: Any) -> str:
    """The library of an object's type."""
    return type(x).__module__.partition(".")[0]


def is_immutable(x: Any) -> bool:
    """Whether an object may never be written: its library, or it itself, says so."""
    library = _library(x)
    if library in _IMMUTABLE:
        return True
    if library == "torch":  # always writable; and reading the interface may raise
        return False
    interface = getattr(x, "__cuda_array_interface__", None)
    return interface is not None and bool(interface["data"][1])  # CuPy ignores this flag


def is_distributed(x: Any) -> bool:
    """Whether a copy of an array would gather it from many machines, or compute it."""
    return _library(x) in _DISTRIBUTED


def _as_numpy(x: Any) -> Any:
    """A foreign object in the host's memory as a NumPy array over it.

    DLPack takes 2 to 4 us, the views that JAX and torch offer 0.5; JAX's is read-only.
    """
    library = _library(x)
    if library in ("jax", "jaxlib"):
        return np.asarray(x)
    if library == "torch":
        return x.detach().numpy()  # torch must not differentiate the step
    return np.from_dlpack(x) if hasattr(x, "__dlpack__") else np.asarray(x)


def _as_cupy(x: Any) -> Any:
    """A foreign object in the GPU's memory as a CuPy array over it."""
    require_gpu()
    import cupy

    if _library(x) == "torch":
        x = x.detach()  # torch must not differentiate the step
    return cupy.from_dlpack(x) if hasattr(x, "__dlpack__") else _shown(x)


def _shown(x: Any) -> Any:
    """An object that shows its memory by the CUDA array interface, as a CuPy array.

    The current stream waits for the object's. CuPy would make the host wait.
    """
    import cupy

    interface = dict(x.__cuda_array_interface__)
    stream = interface.pop("stream", None)
    view = cupy.asarray(SimpleNamespace(__cuda_array_interface__=interface, owner=x))
    if stream is not None:
        with view.device:
            current = cupy.cuda.get_current_stream()
            if stream != (current.ptr or _LEGACY_STREAM):
                event = cupy.cuda.Event(disable_timing=True)
                cupy.cuda.runtime.eventRecord(event.ptr, stream)
                current.wait_event(event)
    return view


_VIEWS = {"NumPy": _as_numpy, "CuPy": _as_cupy}


def as_view(x: Any) -> Any:
    """A foreign array as NumPy's or CuPy's over the same memory; anything else as it is."""
    library = _viewer(x)
    return _VIEWS[library](x) if library else x


def as_views(arrays: Sequence[Any], library: str, name: Callable[[int], str]) -> list[Any]:
    """Arrays to be read, those that are foreign and can be viewed by this library as its views.

    ``name(k)`` is what the user calls one of the arrays.
    """
    if all(type(x) is np.ndarray for x in arrays):
        return list(arrays)
    views = list(arrays)
    for k, x in enumerate(arrays):
        try:
            if _viewer(x) == library:
                views[k] = _VIEWS[library](x)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            error.add_note(f"This is about {name(k)}.")  # its library's own words
            raise
    return views


# --- what CuPy arrays need -----------------------------------------------------------------------


def install_for_gpu() -> str:
    """The commands that install all that numadam needs on a GPU."""
    return f"{install_command('cuda13')}, or for CUDA 12 {install_command('cuda12')}"


def require_gpu() -> None:
    """Raise, in one sentence, what is missing: a package, a driver, a GPU."""
    # `numba.cuda` would import without numba-cuda: Numba's own deprecated target
    runtime = getattr(getattr(sys.modules.get("cupy"), "cuda", None), "runtime", None)
    if getattr(runtime, "is_hip", False):
        raise RuntimeError("This CuPy is built for AMD's ROCm: numadam needs NVIDIA's CUDA.")
    modules = {"cupy": "CuPy", "numba_cuda": "numba-cuda", "cuda.bindings": "cuda-bindings"}
    for module, package in modules.items():
        spec = None
        with contextlib.suppress(ModuleNotFoundError):  # the package around it
            spec = sys.modules.get(module) or importlib.util.find_spec(module)
        if spec is None:
            raise ImportError(
                f"Arrays on a GPU need the {package} package, which is not installed: "
                f"{install_for_gpu()}."
            )
    from numba import config

    if config.ENABLE_CUDASIM:
        raise RuntimeError(
            "NUMBA_ENABLE_CUDASIM is set, but numadam's kernels exist only compiled: unset it."
        )
    import cupy

    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(
            f"CuPy finds no usable GPU ({error}). Check the driver with `nvidia-smi`, and "
            f"that the packages are those for its version of CUDA: {install_for_gpu()}."
        ) from error
    if count == 0:
        raise RuntimeError("CuPy finds no GPU: check the driver with `nvidia-smi`.")


# --- layout of state and work arrays in one flat buffer ------------------------------------------

_LINE = 64  # bytes of a cache line: every array of ours begins on one


# A store and a load whose addresses agree in the last 12 bits wait for each other. Users' large
# arrays begin at the start of a page, so ours keep a quarter of a page away from them and from
# each other: measured 13 to 25 % less time at 100,000 to 1,000,000 elements.
_PAGE, SKEW, _LARGE = 4_096, 1_024, 65_536

# Bytes of a huge page of Linux, which gives one only where it is asked to: 2 to 11 % less time for
# a step of 300,000 to 1,000,000 elements. The processor knows the places of 1,500 to 3,000 pages at
# a time, and 1,000,000 elements and their state lie on 4,000 small ones.
_HUGE, _MADV_HUGEPAGE = 2_097_152, 14


#: ``partial(assign, array, ..., values)`` for `at_once`; `numpy.copyto` has a part in Python.
assign = np.ndarray.__setitem__


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


#: The first field of NumPy's ``PyArrayObject`` stands after the head of every object.
_HEAD, _word_at = object.__basicsize__, ctypes.c_int64.from_address


def address_of(array: np.ndarray) -> int:
    """The address of the first element, in a tenth of the time of ``array.ctypes.data``."""
    return _word_at(id(array) + _HEAD).value


def aligned_zeros(size: int, unit: int = _LINE) -> np.ndarray:
    """`size` zero bytes that begin on a multiple of `unit`; large blocks on huge pages."""
    huge = size >= _HUGE and sys.platform == "linux"
    unit = _HUGE if huge else unit
    length = _round_up(size, unit)
    block = np.zeros(length + unit, np.uint8)
    skip = -address_of(block) % unit
    if huge:  # a hint, before the first touch: where there are none the pages are small ones
        where = ctypes.c_void_p(address_of(block) + skip)
        ctypes.CDLL(None).madvise(where, ctypes.c_size_t(length), _MADV_HUGEPAGE)
    return block[skip : skip + size]


class Layout:
    """Offsets of the leaves in a flat buffer: one after the other, large ones from a page on.

    `phases` are the elements by which each leaf is shifted from there.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        orders: Sequence[tuple[int, ...]],
        dtype: np.dtype,
        phases: Sequence[int] | None = None,
    ) -> None:
        self.shapes, self.orders, self.dtype = tuple(shapes), tuple(orders), dtype
        self.sizes = [math.prod(shape) for shape in shapes]
        self.offsets: list[int] = []
        #: whether an array begins on a page of its own
        self.paged = False
        end = 0
        for size, phase in zip(self.sizes, phases or [0] * len(self.sizes), strict=True):
            length, shift = size * dtype.itemsize, phase * dtype.itemsize
            if length >= _LARGE:
                end, self.paged = _round_up(end, _PAGE), True
            self.offsets.append(end + shift)
            end += _round_up(length + shift, _LINE)
        #: bytes from one buffer of this layout to the next
        self.nbytes = _round_up(end, _PAGE) + SKEW if self.paged else end
        self._views = list(map(self._view, self.offsets, self.sizes, self.shapes, self.orders))

    def _view(self, first: int, size: int, shape: tuple[int, ...], order: tuple[int, ...]) -> Any:
        """Bytes of a leaf, its shape in memory, and the order of the axes from there; or None."""
        where = slice(first, first + size * self.dtype.itemsize)
        if order == tuple(range(len(order))):
            return where, shape, None
        return where, tuple(shape[axis] for axis in order), tuple(np.argsort(order).tolist())

    def of_rows(self) -> Layout:
        """The layout of an int64 for each row (of the first axis) of each leaf."""
        shapes = [shape[:1] for shape in self.shapes]
        orders = [tuple(range(len(shape))) for shape in shapes]
        return Layout(shapes, orders, np.dtype(np.int64))

    @staticmethod
    def place(head: int, layouts: Sequence[Layout], skew: int = SKEW) -> tuple[list[int], int, int]:
        """Offsets of a buffer of each layout behind `head` bytes, their end, and an alignment."""
        large = any(layout.paged for layout in layouts)
        end = max(head, skew) if large else _round_up(head, _LINE)
        firsts = []
        for layout in layouts:
            firsts.append(end)
            end += layout.nbytes
        return firsts, end, _PAGE if large else _LINE

    def addresses(self, begin: int) -> list[int]:
        """The addresses of the leaves in a buffer that begins there."""
        return [begin + offset for offset in self.offsets]

    def views(self, buffer: np.ndarray) -> list[np.ndarray]:
        """The leaves in a buffer of bytes, shaped and laid out as the parameters."""
        views = []
        for where, shape, axes in self._views:
            view = buffer[where].view(self.dtype).reshape(shape)
            views.append(view if axes is None else view.transpose(axes))
        return views

    def zeros(self, skew: int = SKEW) -> list[np.ndarray]:
        """The leaves in a new buffer of zeros."""
        (first,), end, unit = Layout.place(0, [self], skew)
        return self.views(aligned_zeros(end, unit)[first:])


#: Arrays up to which what follows from their layout is kept for the next optimiser.
FEW = 128


def few(cached: Any, layout: Layout) -> Any:
    """A cached function for a layout of a few arrays, and the plain function for many."""
    return cached if len(layout.shapes) <= FEW else cached.__wrapped__


_layout_of = functools.lru_cache(maxsize=256)(Layout)


def layout_of(
    shapes: Sequence[tuple[int, ...]], orders: Sequence[tuple[int, ...]], dtype: np.dtype
) -> Layout:
    """As `Layout`; for a few arrays the same object each time."""
    if len(shapes) > FEW:
        return Layout(shapes, orders, dtype)
    return _layout_of(tuple(shapes), tuple(orders), dtype)
