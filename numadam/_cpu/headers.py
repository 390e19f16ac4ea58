"""Headers of usual arrays, which Python checks, by functions whose source is written for them.

Compiled code sees addresses, lengths and strides, and checks these. All else is here: it takes
0.1 us an array, twice that in a loop over arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

# Bits of ``flags.num`` of an array, as the C API of NumPy names them.
_C_ORDER, _F_ORDER, _ALIGNED, _WRITEABLE = 0x1, 0x2, 0x100, 0x400


class Header(NamedTuple):
    """What an array is as a rule: of this shape, in the memory order of its parameter."""

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
