"""Gradients of few rows: what is right in them, and what coalescing makes of them."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array, csr_matrix

from numadam._arrays import sparse
from numadam._arrays.sparse import Rows, clear, coalesce, is_sparse, scatter
from tests.arrays.sparse_gradients import (
    CASES,
    F32,
    F64,
    TWO,
    check_form,
    dense_of,
    draw,
    pairwise,
    relaxed,
)

# --- Rows ----------------------------------------------------------------------------------------


@relaxed
@given(CASES)
def test_rows_are_the_dense_gradient(case):
    indices, values, shape = draw(case)
    before = indices.copy(), values.copy()
    dense = np.zeros(shape, values.dtype)
    rows, sums = coalesce(Rows(indices, values), "grads", shape, values.dtype)
    check_form(rows, sums, shape, values.dtype)
    np.testing.assert_array_equal(rows, np.unique(before[0]))
    scatter(rows, sums, dense)
    np.testing.assert_array_equal(dense, dense_of(*before, shape))
    clear(rows, dense)
    np.testing.assert_array_equal(dense, 0)
    np.testing.assert_array_equal(indices, before[0])
    np.testing.assert_array_equal(values, before[1])


@relaxed
@given(st.lists(st.integers(0, 4), max_size=60), st.sampled_from([F32, F64]), st.integers(0, 99))
def test_sums_are_pairwise_in_order_of_appearance(indices, dtype, seed):
    """Bit for bit, whatever other rows lie between."""
    indices = np.array(indices, np.int64)
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((len(indices), 2)) * 10.0 ** rng.integers(-5, 5)).astype(dtype)
    rows, sums = coalesce(Rows(indices, values), "grads", (5, 2), dtype)
    for row, total in zip(rows, sums, strict=True):
        np.testing.assert_array_equal(total, pairwise(list(values[indices == row])))
    exact = dense_of(indices, values.astype(F64), (5, 2))[rows]
    bound = 10 * np.finfo(dtype).eps * np.abs(values).sum()
    np.testing.assert_allclose(sums, exact, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_one_row_a_hundred_thousand_times(dtype):
    """Rounds grow as the logarithm of the longest run, and so does the error."""
    values = np.full((100_000, 2), 0.1, dtype)
    rows, sums = coalesce(Rows(np.full(100_000, 3), values), "grads", (4, 2), dtype)
    np.testing.assert_array_equal(rows, [3])
    np.testing.assert_allclose(sums, [[1e4, 1e4]], rtol=20 * np.finfo(dtype).eps)


def test_sorted_rows_are_not_copied():
    indices, values = np.array([1, 4, 6]), np.ones((3, 2, 2))
    rows, sums = coalesce(Rows(indices, values), "grads", (9, 2, 2), F64)
    assert np.shares_memory(rows, indices)
    assert np.shares_memory(sums, values)


@pytest.mark.parametrize("indices", [[1, 4, 4], [4, 1, 4], [4, 1, 0]])
def test_others_are_copied(indices):
    indices, values = np.array(indices), np.ones((3, 2))
    rows, sums = coalesce(Rows(indices, values), "grads", (9, 2), F64)
    assert not np.shares_memory(rows, indices)
    assert not np.shares_memory(sums, values)


def test_subclasses_lose_their_own_arithmetic():
    class Twice(np.ndarray):
        def __iadd__(self, other):
            raise AssertionError

    values = np.ones((3, 2)).view(Twice)
    rows, sums = coalesce(Rows(np.array([1, 0, 1]).view(Twice), values), "g", (2, 2), F64)
    check_form(rows, sums, (2, 2), F64)
    np.testing.assert_array_equal(sums, [[1, 1], [2, 2]])


def test_infinite_sums_make_no_noise():
    """The guard of a step judges them, in all gradients alike."""
    values = np.array([3e38, 3e38, np.inf, -np.inf, np.nan, 1], F32)
    with np.errstate(all="raise"):
        _, sums = coalesce(Rows(np.array([2, 2, 1, 1, 0, 0]), values), "grads", (3,), F32)
    np.testing.assert_array_equal(sums, [[np.nan], [np.nan], [np.inf]])


def test_scatter_writes_strided_gradients():
    dense = np.zeros((4, 3), order="F")
    rows, values = np.array([0, 3]), np.arange(6.0).reshape(2, 3)
    scatter(rows, values, dense)
    np.testing.assert_array_equal(dense, [[0, 1, 2], [0, 0, 0], [0, 0, 0], [3, 4, 5]])
    dense[1] = 7
    clear(rows, dense)
    np.testing.assert_array_equal(dense, [[0, 0, 0], [7, 7, 7], [0, 0, 0], [0, 0, 0]])


def test_rows_hold_the_arrays_themselves():
    indices, values = np.array([7, 2]), np.ones((2, 3), F32)
    rows = Rows(indices, values)
    assert rows.indices is indices
    assert rows.values is values
    assert repr(rows) == "Rows(2 rows, values of shape (2, 3), float32)"
    with pytest.raises(AttributeError):
        rows.index = indices
    again = pickle.loads(pickle.dumps(rows))
    np.testing.assert_array_equal(again.indices, indices)


# --- whose is it ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x",
    [
        Rows(np.arange(2), TWO),
        csr_array(TWO),
        csr_matrix(TWO),
        scipy.sparse.coo_array(TWO),
        scipy.sparse.lil_matrix(TWO),
    ],
    ids=lambda x: type(x).__name__,
)
def test_sparse(x):
    assert is_sparse(x)


@pytest.mark.parametrize("x", [TWO, np.matrix(TWO), None, 1.0, [TWO], Rows, csr_array])
def test_not_sparse(x):
    assert not is_sparse(x)


def test_nothing_is_imported_to_know():
    code = """
import sys, types
import numpy as np
from numadam._arrays.sparse import Rows, coalesce, is_sparse
rows = Rows(np.array([3, 1, 3]), np.ones((3, 2)))
coalesce(rows, "grads", (4, 2), np.dtype(float))
assert is_sparse(rows) and not is_sparse(object())
assert not {"scipy", "cupy", "numba"} & {name.partition(".")[0] for name in sys.modules}
sys.modules["scipy.sparse"] = types.ModuleType("scipy.sparse")  # another thread is importing it
assert not is_sparse(object())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.cuda("cupy")
def test_cupy_has_every_function():
    import cupy

    used = set(re.findall(r"\bxp\.(\w+)", Path(sparse.__file__).read_text()))
    assert {"argsort", "flatnonzero"} < used
    assert [name for name in used if not hasattr(cupy, name)] == []


@pytest.mark.cuda("cupy")
def test_arrays_of_two_libraries():
    import cupy

    def on_gpu(a):
        memory = cupy.cuda.UnownedMemory(a.ctypes.data, a.nbytes, a, device_id=0)
        return cupy.ndarray(a.shape, a.dtype, cupy.cuda.MemoryPointer(memory, 0))

    with pytest.raises(TypeError, match=r"^indices: expected a CuPy array, .* cupy.asarray\(x\)"):
        Rows(np.arange(2), on_gpu(TWO))
    with pytest.raises(TypeError, match=r"^indices: expected a NumPy array, .* cupy.asnumpy\(x\)"):
        Rows(on_gpu(np.arange(2)), TWO)
