"""Arithmetic instructions of PTX: NumPy functions of one number a thread.

A table of whole mnemonics, so that a modifier which is not here is an unknown instruction.

* Sums, products, quotients and square roots are NumPy's, which are rounded correctly. A fused
  multiply-add is the C library's, which rounds once.
* float32 NaN is what a GPU makes of any: 0x7fffffff.
* ``rcp.approx.ftz.f64`` is right to 20 bits, as the manual says, and no better.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np


class Op(NamedTuple):
    """A function, the type of its result, and those of its arguments."""

    function: Callable[..., Any]
    result: str
    arguments: tuple[str, ...]


#: What the types of PTX are in NumPy: "b" and "u" are both plain bits.
DTYPES = {"pred": np.dtype(bool)} | {
    f"{letter}{bits}": np.dtype(f"{kind}{bits // 8}")
    for letter, kind in (("b", "u"), ("u", "u"), ("s", "i"), ("f", "f"))
    for bits in (8, 16, 32, 64)
    if (letter, bits) != ("f", 8)
}
OPS: dict[str, Op] = {}
_INTEGERS = [f"{letter}{bits}" for letter in "su" for bits in (16, 32, 64)]
_FLOATS = ["f32", "f64"]
_WIDE = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64"}

_libm = ctypes.CDLL(ctypes.util.find_library("m"))
_fma, _fmaf = _libm.fma, _libm.fmaf
_fma.restype, _fma.argtypes = ctypes.c_double, [ctypes.c_double] * 3
_fmaf.restype, _fmaf.argtypes = ctypes.c_float, [ctypes.c_float] * 3


@numba.vectorize(["f4(f4,f4,f4)"])
def fma32(a, b, c):
    return _fmaf(a, b, c)


@numba.vectorize(["f8(f8,f8,f8)"])
def fma64(a, b, c):
    return _fma(a, b, c)


def bits_of(x: Any) -> Any:
    """The bits of floats, as unsigned integers."""
    return np.asarray(x).view(f"u{np.asarray(x).itemsize}")


def _one_nan(function: Callable[..., Any]) -> Callable[..., Any]:
    """A float32 or float16 function whose NaN are all alike."""

    def canonical(*arguments: Any) -> Any:
        found = np.array(function(*arguments))
        if found.dtype != np.float64 and np.isnan(found).any():
            bits = found.view(f"u{found.itemsize}")
            bits[np.isnan(found)] = np.iinfo(bits.dtype).max >> 1
        return found

    return canonical


def _add(mnemonic: str, function: Any, result: str, *arguments: str) -> None:
    floats = result[0] == "f" and arguments[0][0] == "f"
    OPS[mnemonic] = Op(_one_nan(function) if floats else function, result, arguments)


# --- sums and products ----------------------------------------------------------------------------

for _name, _function in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply)):
    for _t in _FLOATS:
        # the word .rn forbids the assembler to fuse, and none fuses here
        for _rounding in ("", ".rn"):
            _add(f"{_name}{_rounding}.{_t}", _function, _t, _t, _t)
    for _t in _INTEGERS:
        _add(f"{_name}.lo.{_t}" if _name == "mul" else f"{_name}.{_t}", _function, _t, _t, _t)
    _add(f"{_name}.f16", _function, "f16", "f16", "f16")


def _wide(t: str) -> Callable[..., Any]:
    kind = DTYPES[_WIDE[t]].type
    return lambda a, b: np.multiply(a, b, dtype=kind)


def _high(a: Any, b: Any) -> Any:
    """The upper half of a product."""
    kind, bits = np.asarray(a).dtype, 8 * np.asarray(a).itemsize
    return (np.multiply(a, b, dtype=object) >> bits).astype(kind)


for _t, _w in _WIDE.items():
    _add(f"mul.wide.{_t}", _wide(_t), _w, _t, _t)
for _t in _INTEGERS:
    _add(f"mad.lo.{_t}", lambda a, b, c: a * b + c, _t, _t, _t, _t)
for _t in ("s32", "u32", "s64", "u64"):
    _add(f"mul.hi.{_t}", _high, _t, _t, _t)
_add("fma.rn.f32", fma32, "f32", "f32", "f32", "f32")
_add("fma.rn.f64", fma64, "f64", "f64", "f64", "f64")

# --- quotients and roots --------------------------------------------------------------------------


def _divided(a: Any, b: Any) -> Any:
    """Integers, rounded towards zero."""
    if not np.all(b):
        raise ZeroDivisionError("a division of integers by zero, which is undefined")
    a, b = np.broadcast_arrays(a, b)
    quotient = np.floor_divide(a, b)
    return quotient + ((quotient < 0) & (quotient * b != a)).astype(quotient.dtype)


def _reciprocal(a: Any) -> Any:
    """Subnormal numbers are zeros, the lower half of the result is empty."""
    tiny = np.finfo(np.float64).tiny
    found = 1 / np.where(np.abs(a) < tiny, np.copysign(0.0, a), a)
    found = np.where(np.abs(found) < tiny, np.copysign(0.0, found), found)
    return (bits_of(found) & np.uint64(0xFFFF_FFFF_0000_0000)).view(np.float64)


for _t in _FLOATS:
    _add(f"div.rn.{_t}", np.divide, _t, _t, _t)
    _add(f"sqrt.rn.{_t}", np.sqrt, _t, _t)
for _t in _INTEGERS:
    _add(f"div.{_t}", _divided, _t, _t, _t)
    _add(f"rem.{_t}", lambda a, b: a - _divided(a, b) * b, _t, _t, _t)
_add("rcp.approx.ftz.f64", _reciprocal, "f64", "f64")

# --- signs, the smaller and the larger ------------------------------------------------------------


def _of_two(pick: Any, at_zeros: Any) -> Callable[..., Any]:
    """A number rather than NaN, and -0 below +0."""

    def function(a: Any, b: Any) -> Any:
        zeros = at_zeros(bits_of(a), bits_of(b)).view(np.asarray(a).dtype)
        return np.where((a == 0) & (b == 0), zeros, pick(a, b))

    return function


for _t in _FLOATS:
    _add(f"min.{_t}", _of_two(np.fmin, np.bitwise_or), _t, _t, _t)
    _add(f"max.{_t}", _of_two(np.fmax, np.bitwise_and), _t, _t, _t)
    OPS[f"neg.{_t}"], OPS[f"abs.{_t}"] = Op(np.negative, _t, (_t,)), Op(np.abs, _t, (_t,))
for _t in _INTEGERS:
    _add(f"min.{_t}", np.minimum, _t, _t, _t)
    _add(f"max.{_t}", np.maximum, _t, _t, _t)
    if _t[0] == "s":
        _add(f"neg.{_t}", np.negative, _t, _t)
        _add(f"abs.{_t}", np.abs, _t, _t)

# --- bits -----------------------------------------------------------------------------------------


def _shifted(shift: Any) -> Callable[..., Any]:
    """Further than the register is wide nothing is left, or the sign alone."""

    def function(a: Any, by: Any) -> Any:
        width = 8 * np.asarray(a).itemsize
        kept = shift(a, np.minimum(by, width - 1).astype(np.asarray(a).dtype))
        if np.asarray(a).dtype.kind == "i":
            return kept
        return np.where(by < width, kept, np.zeros_like(kept))

    return function


for _t in ("pred", "b16", "b32", "b64"):
    for _name, _function in (
        ("and", np.bitwise_and), ("or", np.bitwise_or), ("xor", np.bitwise_xor)
    ):  # fmt: skip
        _add(f"{_name}.{_t}", _function, _t, _t, _t)
    _add(f"not.{_t}", np.invert, _t, _t)
# the global addresses are the host's; a thread's own array begins far below
for _name in ("to.global", "to.local", "local"):
    _add(f"cvta.{_name}.u64", np.positive, "u64", "u64")
for _bits in (16, 32, 64):
    _add(f"shl.b{_bits}", _shifted(np.left_shift), f"b{_bits}", f"b{_bits}", "u32")
    for _letter in "bsu":
        _t = f"{_letter}{_bits}"
        _add(f"shr.{_t}", _shifted(np.right_shift), _t, _t, "u32")

# --- comparisons and choices ----------------------------------------------------------------------

_COMPARE = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal,
}  # fmt: skip


def _unordered(a: Any, b: Any) -> Any:
    return np.isnan(a) | np.isnan(b)


def _set(mnemonic: str, compare: Any, t: str, nan: bool | None = None) -> None:
    """A comparison: whatever it says of NaN, where that is fixed; and with a predicate besides."""

    def plain(a: Any, b: Any) -> Any:
        found = compare(a, b)
        if nan is None:
            return found
        return found | _unordered(a, b) if nan else found & ~_unordered(a, b)

    OPS[f"setp.{mnemonic}.{t}"] = Op(plain, "pred", (t, t))
    for name, join in (("and", np.bitwise_and), ("or", np.bitwise_or), ("xor", np.bitwise_xor)):
        OPS[f"setp.{mnemonic}.{name}.{t}"] = Op(
            lambda a, b, c, join=join: join(plain(a, b), c), "pred", (t, t, "pred")
        )


for _name, _function in _COMPARE.items():
    for _t in _FLOATS:
        _set(_name, _function, _t, nan=False)
        _set(f"{_name}u", _function, _t, nan=True)
    for _t in _INTEGERS:
        _set(_name, _function, _t)
    if _name in ("eq", "ne"):
        for _t in ("b16", "b32", "b64"):
            _set(_name, _function, _t)
for _t in _FLOATS:
    _set("num", lambda a, b: ~_unordered(a, b), _t)
    _set("nan", _unordered, _t)
for _t in (t for t in DTYPES if t not in ("pred", "f16") and not t.endswith("8")):
    _add(f"selp.{_t}", lambda a, b, p: np.where(p, a, b), _t, _t, _t, "pred")

# --- conversions ----------------------------------------------------------------------------------


def _to(t: str) -> Callable[..., Any]:
    return lambda a: np.asarray(a).astype(DTYPES[t])


def _truncated(t: str) -> Callable[..., Any]:
    """A float as an integer: the nearest that there is, and of NaN what the manual says."""
    info = np.iinfo(DTYPES[t])

    def function(a: Any) -> Any:
        a = np.asarray(a)
        whole, last = np.trunc(a).astype(np.float64), float(info.max) + (info.bits < 64)
        inside = (whole >= info.min) & (whole < last)
        found = np.where(inside, whole, 0.0).astype(DTYPES[t])
        found = np.where(whole >= last, info.max, np.where(whole < info.min, info.min, found))
        is_f64 = a.dtype == np.float64 or info.bits == 64
        of_nan = (info.min or 1 << (info.bits - 1)) if is_f64 else 0
        return np.where(np.isnan(a), of_nan, found).astype(DTYPES[t])

    return function


_ROUND = {"rmi": np.floor, "rpi": np.ceil, "rzi": np.trunc, "rni": np.rint}
_ALL = [*_INTEGERS, "s8", "u8"]
for _t in _ALL:
    for _of in _ALL:
        _add(f"cvt.{_t}.{_of}", _to(_t), _t, _of)
    for _of in _FLOATS:
        _add(f"cvt.rn.{_of}.{_t}", _to(_of), _of, _t)
        if _t in _INTEGERS:
            OPS[f"cvt.rzi.{_t}.{_of}"] = Op(_truncated(_t), _t, (_of,))
for _t, _of in (("f64", "f32"), ("f32", "f16"), ("f64", "f16")):
    _add(f"cvt.{_t}.{_of}", _to(_t), _t, _of)
    _add(f"cvt.rn.{_of}.{_t}", _to(_of), _of, _t)
for _t in _FLOATS:
    for _name, _function in (
        ("rmi", np.floor),
        ("rpi", np.ceil),
        ("rzi", np.trunc),
        ("rni", np.rint),
    ):
        _add(f"cvt.{_name}.{_t}.{_t}", _function, _t, _t)
