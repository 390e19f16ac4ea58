"""Usual arrays of a step: headers, tested in Python, and what compiled code makes of the rest.

Compiled code sees addresses, lengths and strides. All else is tested by functions whose source is
written for the arrays: it takes 0.1 us an array, twice that in a loop over arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import from_dtype, int64, types

from numadam._cpu.loop import AT, IN_TABLE
from numadam._jit.build import compiled

# --- headers ------------------------------------------------------------------------------------

# Bits of ``flags.num`` of an array, as the C API of NumPy names them.
_C_ORDER, _F_ORDER, _ALIGNED, _WRITEABLE = 0x1, 0x2, 0x100, 0x400


class Header(NamedTuple):
    """Shape, order and flags of a usual array: in the memory order of its parameter."""

    shape: tuple[int, ...]
    axes: int
    flags: int  # the bits of an array that is read; -1, which none has, for rare orders
    is_written: bool

    def fits(self, x: Any, dtype: np.dtype[Any]) -> bool:
        """Whether this array is as usual."""
        same = type(x) is np.ndarray and x.dtype == dtype and x.shape == self.shape
        return same and bool(x.flags.num & self.flags == self.flags)

    def test(self, x: str, dtype: str) -> str:
        """Expression for an array of this name to be as usual. `shape` is a name, too."""
        tests = [f"type({x}) is ndarray", f"({x}.dtype is {dtype} or {x}.dtype == {dtype})"]
        if self.axes != 1:
            tests += [f"{x}.shape == shape", f"{x}.flags.num & {self.flags} == {self.flags}"]
        else:  # compiled code checks the rest
            tests += [f"{x}.ndim == 1", *[f"{x}.flags.writeable"] * self.is_written]
        return " and ".join(tests)

    def flat(self, x: str) -> str:
        """Expression for the elements of such an array."""
        return x if self.axes == 1 else f'{x}.ravel("K")'


@functools.lru_cache(maxsize=256)
def header_of(shape: tuple[int, ...], order: tuple[int, ...], is_written: bool) -> Header:
    """The header of an array of this shape and order of axes in memory."""
    axes, flags = tuple(range(len(order))), -1
    if order in (axes, axes[::-1]):
        flags = _C_ORDER if order == axes else _F_ORDER
        flags |= _ALIGNED | (_WRITEABLE if is_written else 0)
    return Header(shape, len(shape), flags, is_written)


@functools.cache
def _made(source: str) -> Callable[..., Any]:
    names: dict[str, Any] = {}
    exec(compile(source, "<numadam: headers>", "exec"), names)
    make: Callable[..., Any] = names["make"]
    return make


def step_of_one(read: Header, written: Header, **names: Any) -> Callable[..., bool]:
    """``one(g, lr, params=None, out=None)``: a step of the only array, which is ``p``.

    `names` has that array, its dtype, what `step` needs, and ``run``, which takes all that is not
    as usual.
    """
    made: Callable[..., bool] = _maker_of_one(read, written)(np.ndarray, read.shape, **names)
    return made


@functools.lru_cache(maxsize=256)
def _maker_of_one(read: Header, written: Header) -> Callable[..., Any]:
    return _made(f"""\
def make(ndarray, shape, p, dtype, step, at, ok, not_finite, run):
    def one(g, lr, params=None, out=None):
        if (
            params is None and out is None
            and {read.test("g", "dtype")}
            and {written.test("p", "dtype")}
        ):
            status = step(at, {written.flat("p")}, {read.flat("g")}, lr)
            if status == ok:
                return True
            if status == not_finite:
                return False
        return run(g, lr, params, out)
    return one
""")


def step_by_slot(
    slots: Sequence[int],
    headers: Sequence[Header],
    dtypes: Sequence[np.dtype[Any]],
    **names: Any,
) -> Callable[[tuple[Any, ...], int, float], bool]:
    """``by_slot(arrays, t, lr)``: step t of one array of each of these slots.

    False, and nothing is written, where an array is not as usual or the guard stops the step.
    `names` has the counters, the arguments of `note` before the arrays, and those of `step`.
    """
    used = {f"x{slot}": header for slot, header in zip(slots, headers, strict=True)}
    tests = [header.test(x, f"dtypes[{k}]") for k, (x, header) in enumerate(used.items())]
    everything = ", ".join(f"x{slot}" for slot in range(6))
    source = f"""\
def make(ndarray, shape, dtypes, counters, note, given, step, none, ok):
    def by_slot(arrays, t, lr):
        {everything} = arrays
        if {" and ".join(tests)}:
            counters[0] = t - 1
            at = note(*given, {", ".join(header.flat(x) for x, header in used.items())})
            return at != 0 and step(at, none, none, lr) == ok
        return False
    return by_slot
"""
    made: Callable[..., bool] = _made(source)(np.ndarray, headers[0].shape, dtypes, **names)
    return made


# --- addresses, and ranges of bytes that must not meet -------------------------------------------

#: Leaves whose addresses one call notes: a call takes 0.1 us.
TOGETHER = 4


def _note(x, block, word, span, size):  # type: ignore[no-untyped-def]  # Numba types it
    first, item = x.ctypes.data, x.itemsize
    if x.size != size or (size > 1 and x.strides[0] != item) or first % min(item, 8) != 0:
        return False
    block[word] = first
    if size > 0:
        block[span], block[span + 1] = first, first + item * size
    return True


def _apart(block, order, written):  # type: ignore[no-untyped-def]  # Numba types it
    for k in range(1, written):  # in order after the first time
        place, j = order[k], k
        while j > 0 and block[order[j - 1]] > block[place]:
            order[j] = order[j - 1]
            j -= 1
        order[j] = place
    for k in range(1, written):
        if block[order[k - 1] + 1] > block[order[k]]:
            return False
    for k in range(written, len(order)):
        first, last = block[order[k]], block[order[k] + 1]
        low, high = 0, written  # the first written range that ends behind the first byte
        while low < high:
            middle = (low + high) // 2
            if block[order[middle] + 1] <= first:
                low = middle + 1
            else:
                high = middle
        if low < written and first < last and block[order[low]] < last:
            return False
    return True


@functools.cache
def noter(dtypes: tuple[np.dtype[Any], ...], leaves: int, has_out: bool) -> Callable[..., int]:
    """``note(block, word, width, span, sizes, leaf, order, written, *arrays) -> at``.

    It notes so many leaves of a `StepMemory.block`, which have arrays of one axis and these dtypes:
    their addresses in the table, of which a row of `width` words begins in `word`, that of `out` in
    the last; and the ranges of their bytes from word `span` on. Returns 0 where the length of an
    array is not that of `sizes`, from `leaf` on, or its elements do not lie one behind the other.
    Reading an address from Python takes 4 times as long.

    Where `written` is not 0, these are the last arrays: 0, too, where one of the first so many
    ranges of `order`, the words in which they begin, meets any other of it; else the address of the
    frame. Empty ranges are 0, 0. These first ranges are sorted in place by their first byte.
    """
    columns = [str(k) for k in range(len(dtypes))]
    if has_out:
        columns[-1] = "width - 1"
    every = [(leaf, column) for leaf in range(leaves) for column in columns]
    names = [f"x{k}" for k in range(len(every))]
    places = [
        f"word + {leaf} * width + {column}, span + {2 * k}, sizes[leaf + {leaf}]"
        for k, (leaf, column) in enumerate(every)
    ]
    notes = [f"write({x}, block, {at})" for x, at in zip(names, places, strict=True)]
    text = f"""\
def note(block, word, width, span, sizes, leaf, order, written, {", ".join(names)}):
    if not ({" and ".join(notes)}):
        return 0
    if written and not apart(block, order, written):
        return 0
    block[{AT.table}], block[{AT.only}] = block.ctypes.data + {8 * len(AT)}, {IN_TABLE}
    return block.ctypes.data
"""
    words = types.Array(types.int64, 1, "C")
    arrays = [types.Array(from_dtype(dtype), 1, "A", readonly=True) for dtype in dtypes]
    numbers = words, int64, int64, int64, words, int64, words, int64
    signature = int64(*numbers, *arrays * leaves)
    scope = {"write": _note, "apart": _apart}
    name = f"note-{len(names)}-{dtypes[0].name}"
    return compiled(name, text, scope, signature, entry="note", nogil=False)


def meet(written: list[tuple[int, int]], read: list[tuple[int, int]]) -> bool:
    """Whether a range of bytes that is written meets another one; empty ranges are 0, 0.

    For arrays of any strides, before an exact comparison.
    """
    end_of_written = end = 0
    ranges = [(*span, True) for span in written] + [(*span, False) for span in read]
    for low, high, is_written in sorted(ranges):
        if low < high and (low < end_of_written or (is_written and low < end)):
            return True
        end = max(end, high)
        end_of_written = max(end_of_written, high if is_written else 0)
    return False
