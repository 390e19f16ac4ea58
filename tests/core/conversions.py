"""Compiled loops that read and write 16-bit numbers, and numbers at the borders of their range."""

import functools
import os
import platform
import subprocess
import sys
from typing import Any

import numba
import numpy as np
import pytest

from numadam._core import half as storage
from numadam._jit.pointers import inner

X86 = platform.machine() in ("x86_64", "AMD64")
ALL = np.arange(1 << 16, dtype=np.uint16)

PAIRS = {
    "bfloat16": (storage._read_bfloat16, storage._write_bfloat16),
    "float16": (storage._read_float16, storage._write_float16),
}


def dtype_of(way: str) -> np.dtype:
    if way == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 in NumPy needs ml_dtypes")
    return storage.as_storage(way, "way")


@functools.cache
def loops(way: str) -> tuple[Any, Any, Any, Any]:
    """Read all, write all, and each one element at a time: no vectors."""
    read, write = map(inner, PAIRS[way])

    @numba.njit(error_model="numpy")
    def read_all(a, out):
        for i in range(a.size):
            out[i] = read(a, i)

    @numba.njit(error_model="numpy")
    def write_all(x, out):
        for i in range(x.size):
            write(out, i, x[i])

    @numba.njit(error_model="numpy")
    def read_each(a, out):
        for i in range(a.size):
            read_all(a[i : i + 1], out[i : i + 1])

    @numba.njit(error_model="numpy")
    def write_each(x, out):
        for i in range(x.size):
            write_all(x[i : i + 1], out[i : i + 1])

    return read_all, write_all, read_each, write_each


def read_by(loop: Any, bits: np.ndarray) -> np.ndarray:
    out = np.empty(bits.shape, np.float32)
    loop(bits, out)
    return out


def write_by(loop: Any, x: np.ndarray) -> np.ndarray:
    out = np.empty(x.shape, np.uint16)
    loop(x, out)
    return out


def same_bits(got: np.ndarray, wanted: np.ndarray) -> None:
    """Equal bit for bit, and NaN where NaN is wanted: which one is free."""
    nan = np.isnan(wanted)
    assert np.isnan(got[nan]).all()
    bits = np.dtype(f"u{wanted.itemsize}")
    np.testing.assert_array_equal(got.view(bits)[~nan], wanted.view(bits)[~nan])


def borders(dtype: np.dtype) -> np.ndarray:
    """Every number of a 16-bit dtype, the middle to the next, and float32's neighbours of each."""
    numbers = as_numpy_rounds(ALL.view(dtype), np.float32)
    wide = np.sort(numbers[np.isfinite(numbers)].astype(np.float64))
    # one step above the largest is where inf begins, as if it were a number
    over = wide[-1] + (wide[-1] - wide[-2])
    wide = np.concatenate([[-over], wide, [over]])
    middle = (wide[1:] + wide[:-1]) / 2
    with np.errstate(over="ignore"):
        x = np.concatenate([wide, middle, [np.inf, -np.inf]]).astype(np.float32)
    inf = np.float32(np.inf)
    with np.errstate(over="ignore", under="ignore"):
        return np.concatenate([x, np.nextafter(x, inf), np.nextafter(x, -inf)])


def special() -> np.ndarray:
    """float32 at the ends of its own range, and NaNs of every kind."""
    bits = [0, 1, 2, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F7F7FFF, 0x7F7F8000]
    bits += [0x7F800000, 0x7F800001, 0x7F807FFF, 0x7F808000, 0x7FBFFFFF]
    bits += [0x7FC00000, 0x7FFF7FFF, 0x7FFF8000, 0x7FFFFFFF]
    both = np.array([bits, [b | 0x80000000 for b in bits]], np.uint32)
    return both.ravel().view(np.float32)


def random(n: int, low: float = 0.0, high: float = np.inf) -> np.ndarray:
    """Random bits, with sizes between these two."""
    first, last = np.array([low, high], np.float32).view(np.uint32)
    rng = np.random.default_rng(7)
    bits = rng.integers(first, last, n, np.uint32, endpoint=True)
    return (bits | rng.integers(0, 2, n, np.uint32) << np.uint32(31)).view(np.float32)


def as_numpy_rounds(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(all="ignore"):
        return x.astype(dtype)


def run_python(code: str, **settings: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
