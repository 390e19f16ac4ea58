"""Arrays of CuPy as kernels and checks need them, and sparse gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from numadam._arrays import checks as ar
from numadam._arrays.interop import Layout, as_views
from numadam._backend import Leaves, Rows, SparseGradients, Title
from numadam._core import plan as pl

# --- checks of single CuPy arrays and of their overlap -------------------------------------------
# Nothing here touches the GPU. The error texts are those of `_arrays.checks`. Overlap is decided by
# NumPy on stand-ins: NumPy arrays with the address, shape and strides of the GPU's, whose elements
# are never read.

Named = tuple[str, Any]
#: First address of an array, and one past its last.
Span = tuple[int, int]


def check_params(params: Sequence[Any], names: Sequence[str]) -> None:
    """Check type, dtype and device of parameters; the rest is `check_array`."""
    import cupy

    for array, name in zip(params, names, strict=True):
        if not isinstance(array, cupy.ndarray):
            raise TypeError(f"{name}: {ar.describe(array, 'CuPy')}")
    ar.common_dtype(params, names)
    device = int(params[0].device.id)
    for array, name in zip(params, names, strict=True):
        check_device(array, name, device, names[0])


def check_device(array: Any, name: str, device: int, of: str) -> None:
    """Refuse an array that is not on the GPU of the parameters."""
    if array.device.id != device:
        raise ValueError(
            f"{name}: is on GPU {array.device.id}, but {of} is on GPU {device}. One optimiser "
            "works on one device: copy the array there, or make a second optimiser."
        )


def check_array(
    named: Named, of: str, shape: tuple[int, ...], dtype: np.dtype[Any], device: int, written: bool
) -> None:
    """Check one array against its parameter, which the user calls `of`."""
    import cupy

    name, array = named
    if not isinstance(array, cupy.ndarray):
        raise TypeError(f"{name}: {ar.describe(array, 'CuPy')}")
    if array.dtype != dtype:
        raise TypeError(ar.bad_dtype(name, array.dtype, dtype, of))
    if array.shape != shape:
        raise ValueError(ar.bad_shape(name, array.shape, shape, of))
    check_device(array, name, device, of)
    if written and ar.overlaps_itself(array):
        raise ValueError(ar.same_memory(name))


def span(array: Any) -> Span:
    """Lowest address and one past the highest; (0, 0) for an array without elements."""
    if array.size == 0:
        return 0, 0
    low = high = int(array.data.ptr)
    if array.flags.c_contiguous:
        return low, low + int(array.nbytes)
    for stride, n in zip(array.strides, array.shape, strict=True):
        low += min(0, (n - 1) * stride)
        high += max(0, (n - 1) * stride)
    return low, high + array.dtype.itemsize


class _StandIn:
    """A GPU array's address, shape and strides, by NumPy's array interface."""

    def __init__(self, array: Any) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (int(array.data.ptr), True),
            "shape": array.shape,
            "strides": array.strides,
            "typestr": f"|V{array.dtype.itemsize}",
        }


def _stand_ins(named: Sequence[Named]) -> list[Named]:
    return [(name, np.asarray(_StandIn(array))) for name, array in named if array.size]


def check_overlap(written: Sequence[Named], read: Sequence[Named]) -> None:
    """Refuse a written array that shares an element with any other.

    Disjoint spans decide it; strides are compared only where spans overlap.
    """
    if ar.are_disjoint([span(array) for _, array in (*written, *read)]):
        return
    arrays = _stand_ins(written)
    problem = ar.shared_memory(arrays, arrays) or ar.shared_memory(arrays, _stand_ins(read))
    if problem:
        raise ValueError(problem)


def address_of(array: Any) -> int:
    """Address of the first element; 0 where there is none."""
    return int(array.data.ptr) if array.size else 0


def is_flat(array: Any, order: tuple[int, ...]) -> bool:
    """Whether the array is contiguous and aligned, its axes in this order."""
    aligned = array.size == 0 or int(array.data.ptr) % array.dtype.itemsize == 0
    return bool(_ordered(array, order).flags.c_contiguous) and aligned


def copy_flat(flat: Any, array: Any, order: tuple[int, ...], into_flat: bool) -> None:
    """Copy an array of any strides into a flat one, in the given order of axes, or back."""
    ordered = _ordered(array, order)
    shaped = flat.reshape(ordered.shape)
    source, target = (ordered, shaped) if into_flat else (shaped, ordered)
    target[...] = source


def _ordered(array: Any, order: tuple[int, ...]) -> Any:
    """The memory of an array, its axes in this order."""
    return array.transpose(order) if array.ndim > 1 else array


# --- gradients that touch a few rows -------------------------------------------------------------


class CudaSparseGradients(SparseGradients):
    """Sparse gradients on one GPU. To sort and check their rows, the host waits for it."""

    def __init__(
        self, layout: Layout, device: int, how: str | None, title: Title, counts: Leaves
    ) -> None:
        super().__init__("CuPy", layout, how, title, counts)
        self._device = device
        #: of the step at hand: gradients with dense buffers among them, and the rows in these
        self._scattered: tuple[Leaves, Rows] = (), {}
        #: whether dense gradients are rows, too
        self.by_row = bool(counts)

    def convert(self, used: dict[int, Leaves]) -> Rows:
        """Rows and values of lazy gradients; dense ones take their place in `used`.

        Call `finish` after the step.
        """
        rows = self.rows_of(used[pl.G])
        if self.how == "lazy" or not rows:
            return rows
        used[pl.G] = self.as_dense(used[pl.G], rows)
        self._scattered = used[pl.G], rows
        return {}

    def finish(self) -> None:
        """Clear the dense buffers of this step."""
        scattered, self._scattered = self._scattered, ((), {})
        self.clear(*scattered)

    def checked(self, grad: Any, name: str, leaf: int) -> Any:
        """Check a dense gradient, and return it as an array of CuPy."""
        layout = self._layout
        (view,) = as_views([grad], "CuPy", lambda _: name)
        of, shape = self._title(pl.P, leaf), layout.shapes[leaf]
        check_array((name, view), of, shape, layout.dtype, self._device, written=False)
        return view

    def check_values(self, values: Any, name: str, leaf: int) -> None:
        """Refuse values that are not on this GPU."""
        super().check_values(values, name, leaf)
        check_device(values, name, self._device, self._title(pl.P, leaf))
