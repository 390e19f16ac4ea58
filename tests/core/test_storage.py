"""Arrays in float16 and bfloat16: their names, each bit in loops, the instructions."""

import functools
import platform
import re
import sys
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import pytest

from numadam._core import half as storage
from numadam._jit.pointers import inner
from tests.processes import python

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


@pytest.fixture(params=PAIRS)
def way(request: pytest.FixtureRequest) -> str:
    """A 16-bit storage, and how it is converted."""
    if request.param == "float16" and not storage.converts_half():
        pytest.skip("this CPU does not convert float16 itself")
    return request.param


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


def test_every_number_is_read_exactly(way):
    dtype = dtype_of(way)
    same_bits(read_by(loops(way)[0], ALL), as_numpy_rounds(ALL.view(dtype), np.float32))


def test_borders_are_written_as_numpy_rounds(way):
    dtype = dtype_of(way)
    x = np.concatenate([borders(dtype), special()])
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


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_an_absent_array(name):
    dtype = SimpleNamespace(name=name)  # ml_dtypes need not be there
    read, write = storage.reader(dtype, there=False), storage.writer(dtype)
    compiled_read, compiled_write = inner(read), inner(write)

    @numba.njit
    def both(a):
        compiled_write(a, 0, np.float32(1))
        return compiled_read(a, 0)

    assert both(None) is None
    assert read(None, 0) is None
    assert write(None, 0, np.float32(1)) is None


# --- instructions ---------------------------------------------------------------------------------


PAIRS_NATIVE = (storage.at, storage.put)
REFUSED = """
try:
    na.SGD(np.ones(3, "f2"))
except TypeError as error:
    print(error)
na.SGD(np.ones(3, "f4")).step(np.ones(3, "f4"))
"""


@pytest.mark.skipif(not X86, reason="chooses an x86-64 CPU without F16C")
def test_a_cpu_that_does_not_convert_half():
    said = python(REFUSED, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    assert said.startswith("params: float16 needs a processor that converts it")


@pytest.mark.skipif(not X86, reason="reads x86-64 instructions")
def test_machine_code(way):
    for k in (0, 1):
        loop = loops(way)[k]
        reading = numba.types.void(numba.uint16[::1], numba.float32[::1])
        writing = numba.types.void(numba.float32[::1], numba.uint16[::1])
        compiled = numba.njit((reading, writing)[k], error_model="numpy")(loop.py_func)
        (assembly,) = compiled.inspect_asm().values()
        assert not re.search("extendhf|truncsfhf", assembly)
        if way == "float16":
            assert ("vcvtph2ps", "vcvtps2ph")[k] in assembly
        elif way == "bfloat16" and storage.converts_half():  # a CPU with AVX2, but for the oldest
            # 32 bits an element, in vectors
            assert re.search((r"\sv?pslld\s", r"\sv?psrld\s")[k], assembly)
            assert not re.search(r"\sv?p(addq|srlq)\s+[^\n]*%[xyz]mm", assembly)


@pytest.mark.cuda
@pytest.mark.parametrize("way", ["bfloat16", "float16", "float32"])
def test_ptx(way, monkeypatch):
    """One load, one store, and nothing wide between them."""
    import numba.cuda.dispatcher as dispatcher
    from numba import cuda

    capability = (9, 0)
    device = SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)
    pair = PAIRS.get(way, PAIRS_NATIVE)
    read, write = (cuda.jit(device=True)(function) for function in pair)

    def kernel(a, b, s):
        i = cuda.grid(1)
        if i < a.size:
            write(b, i, read(a, i) * s)

    types = cuda.types
    array = (types.float32 if way == "float32" else types.uint16)[::1]
    ptx, _ = cuda.compile(
        kernel,
        types.void(array, array, types.float32),
        device=False,
        abi="numba",
        cc=capability,
        output="ptx",
    )
    body = re.sub(r"\b_Z\w+", "name", ptx)
    for unwanted in (".f64", ".local", "call", ".ftz"):
        assert unwanted not in body
    assert body.count("ld.global") == body.count("st.global") == 1
    assert ("cvt.rn.f16.f32" in body) == (way == "float16")


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", ["float32", "f4", np.float32, np.dtype("float32", metadata={"a": 1}), "half", float]
)
def test_storages_that_numpy_knows(given):
    dtype = storage.as_storage(given, "dtype")
    assert dtype == np.dtype(given)
    assert dtype.name in storage.STORAGES
    assert not dtype.metadata


def test_spellings_of_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    of_array = np.zeros(1, ml_dtypes.bfloat16).dtype
    for given in ("bfloat16", ml_dtypes.bfloat16, of_array):
        dtype = storage.as_storage(given, "dtype")
        assert dtype == np.dtype(ml_dtypes.bfloat16)
        assert storage.memory_dtype(dtype) == np.uint16
    with pytest.raises(TypeError, match="got float8_e4m3fn"):
        storage.as_storage(ml_dtypes.float8_e4m3fn, "dtype")


@pytest.mark.parametrize(
    ("given", "got"),
    [
        ("int32", "int32"),
        (complex, "complex128"),
        ("bf16", "'bf16'"),
        ("f4,,", "'f4,,'"),
        (None, "None"),
        (3, "3"),
        (np.dtype("float32").newbyteorder(), "float32 of foreign byte order"),
        ([("a", "f4")], "void32"),
    ],
    ids=str,
)
def test_what_is_no_storage(given, got):
    text = f"m_dtype: expected float64, float32, float16 or bfloat16, got {got}"
    with pytest.raises(TypeError, match=re.escape(text)):
        storage.as_storage(given, "m_dtype")


def test_without_ml_dtypes_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r"m_dtype: .* pip install ml_dtypes"):
        storage.as_storage("bfloat16", "m_dtype")
    assert storage.as_storage("float16", "m_dtype") == np.float16
