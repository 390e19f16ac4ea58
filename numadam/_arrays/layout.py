"""Layout of state and work arrays in one flat buffer."""

from __future__ import annotations

import ctypes
import functools
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

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


def address_of(array: np.ndarray) -> int:
    """The address of the first element, in a tenth of the time of ``array.ctypes.data``."""
    # the first field of NumPy's ``PyArrayObject``, after the head of every object
    return ctypes.c_int64.from_address(id(array) + object.__basicsize__).value


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

    @staticmethod
    def allocate(
        head: int, layouts: Sequence[Layout], skew: int = SKEW
    ) -> tuple[np.ndarray, list[int]]:
        """A zeroed block with `head` bytes and a buffer of each layout; the offset of each."""
        firsts, end, unit = Layout.place(head, layouts, skew)
        return aligned_zeros(end, unit), firsts

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
