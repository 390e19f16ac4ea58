"""Reading and writing float16 and bfloat16 in loops: each bit, beside NumPy and ml_dtypes."""

from types import SimpleNamespace

import numba
import numpy as np
import pytest

from numadam._core import half as storage
from numadam._jit.pointers import inner
from tests.core.conversions import (
    ALL,
    as_numpy_rounds,
    borders,
    dtype_of,
    loops,
    random,
    read_by,
    same_bits,
    special,
    write_by,
)


def test_every_number_is_read_exactly(way):
    dtype = dtype_of(way)
    same_bits(read_by(loops(way)[0], ALL), as_numpy_rounds(ALL.view(dtype), np.float32))


def test_borders_are_written_as_numpy_rounds(way):
    dtype = dtype_of(way)
    x = np.concatenate([borders(dtype), special()])
    same_bits(write_by(loops(way)[1], x).view(dtype), as_numpy_rounds(x, dtype))


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, np.inf), (1e-8, 1e-4), (1e-3, 1e3), (6e4, 7e4)], ids=str
)
def test_random_bits_are_written_as_numpy_rounds(way, low, high):
    dtype = dtype_of(way)
    x = random(1_000_000, low, high)
    same_bits(write_by(loops(way)[1], x).view(dtype), as_numpy_rounds(x, dtype))


def test_nan_is_written_quiet_and_reading_it_back_changes_nothing(way):
    dtype = dtype_of(way)
    read_all, write_all, *_ = loops(way)
    nan = np.concatenate([random(100_000), special()])
    nan = (nan.view(np.uint32) | np.uint32(0x7F800001)).view(np.float32)
    quiet = 0x40 if way == "bfloat16" else 0x200
    bits = write_by(write_all, nan)
    assert (bits & quiet).all()
    assert np.isnan(bits.view(dtype).astype(np.float32)).all()
    np.testing.assert_array_equal(write_by(write_all, read_by(read_all, bits)), bits)


def test_vectors_and_single_elements_agree(way):
    dtype = dtype_of(way)
    read_all, write_all, read_each, write_each = loops(way)
    x = np.concatenate([borders(dtype), random(200_000), special()])
    np.testing.assert_array_equal(write_by(write_all, x), write_by(write_each, x))
    one, other = read_by(read_all, ALL), read_by(read_each, ALL)
    np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32))


@pytest.mark.parametrize("n", [0, 1, 7, 16, 31, 63, 64, 65, 127, 200])
def test_lengths_that_leave_a_tail(way, n):
    _, write_all, _, write_each = loops(way)
    x = random(n + 3, 1e-9, 1e5)[3:]  # not at the start of a cache line
    np.testing.assert_array_equal(write_by(write_all, x), write_by(write_each, x))


@pytest.mark.parametrize("name", storage.STORAGES)
def test_an_absent_array(name):
    dtype = SimpleNamespace(name=name)  # ml_dtypes need not be there
    read, write = storage.reader(dtype), storage.writer(dtype)
    compiled_read, compiled_write = inner(read), inner(write)

    @numba.njit
    def both(a):
        compiled_write(a, 0, np.float32(1))
        return compiled_read(a, 0)

    assert both(None) is None
    assert read(None, 0) is None
    assert write(None, 0, np.float32(1)) is None


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_native_storages(name):
    dtype = storage.as_storage(name, "p")
    read, write = inner(storage.reader(dtype)), inner(storage.writer(dtype))
    assert storage.memory_dtype(dtype) == dtype

    @numba.njit
    def double(a):
        x = read(a, 1)
        write(a, 1, x + x)
        return x

    a = np.array([1, 0.1], dtype)
    assert double(a) == dtype.type(0.1)
    np.testing.assert_array_equal(a, np.array([1, 0.2], dtype))


@pytest.mark.parametrize("way", ["bfloat16", "float16"])
def test_the_loop_sees_the_same_memory(way):
    dtype = dtype_of(way)
    a = np.array([1.0, -0.5, 3.0], dtype)
    seen = a.view(storage.memory_dtype(dtype))
    read, write = inner(storage.reader(dtype)), inner(storage.writer(dtype))

    @numba.njit
    def halve(a):
        for i in range(a.size):
            write(a, i, read(a, i) * 0.5)  # a float64: to float32 first

    halve(seen)
    assert a.tolist() == [0.5, -0.25, 1.5]


@pytest.mark.parametrize("way", ["bfloat16", "float16"])
def test_whole_arrays(way):
    dtype = dtype_of(way)
    x = random(1000)
    narrow = as_numpy_rounds(x, dtype)
    assert narrow.dtype == dtype
    same_bits(narrow, as_numpy_rounds(x, dtype))
    wide = as_numpy_rounds(narrow, np.float32)
    assert wide.dtype == np.float32
    same_bits(
        wide,
        read_by(loops(way)[0], narrow.view(np.uint16)),
    )
