"""Gradients of few rows as CSR arrays of SciPy and CuPy."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array, csr_matrix

from numadam._arrays.sparse import coalesce, is_sparse
from tests.arrays.sparse_gradients import F32, F64, check_form, read_only, relaxed


@relaxed
@given(
    n=st.integers(0, 6),
    w=st.integers(1, 5),
    entries=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(-9, 9))),
    dtype=st.sampled_from([F32, F64]),
    kind=st.sampled_from([csr_array, csr_matrix]),
    integers=st.sampled_from(["i4", "i8"]),
)
def test_csr_is_the_dense_gradient(n, w, entries, dtype, kind, integers):
    """With duplicates, unsorted columns, stored zeros and empty rows."""
    entries = sorted([e for e in entries if e[0] < n and e[1] < w], key=lambda e: e[0])
    i, j, data = np.array(entries, int).reshape(-1, 3).T
    x = kind((n, w), dtype=dtype)
    x.data, x.indices = read_only(data.astype(dtype)), read_only(j.astype(integers))
    x.indptr = read_only(np.searchsorted(i, np.arange(n + 1)).astype(integers))
    arrays = x.data, x.indices, x.indptr
    expected = np.zeros((n, w), dtype)
    np.add.at(expected, (i, j), data.astype(dtype))
    rows, values = coalesce(x, "grads", (n, w), dtype)
    check_form(rows, values, (n, w), dtype)
    np.testing.assert_array_equal(rows, np.unique(i))
    np.testing.assert_array_equal(values, expected[rows])
    assert all(a is b for a, b in zip(arrays, (x.data, x.indices, x.indptr), strict=True))


def test_csr_with_room_to_spare():
    """More memory than entries, as after eliminate_zeros."""
    x = csr_array((3, 4))
    x.data, x.indices = np.arange(1.0, 6), np.array([2, 0, 1, 9])
    x.indptr = np.array([0, 1, 1, 3])
    rows, values = coalesce(x, "grads", (3, 4), F64)
    np.testing.assert_array_equal(rows, [0, 2])
    np.testing.assert_array_equal(values, [[0, 0, 1, 0], [2, 3, 0, 0]])


def test_csr_without_columns():
    rows, values = coalesce(csr_array((3, 0)), "grads", (3, 0), F64)
    assert rows.shape == (0,)
    assert values.shape == (0, 0)


def broken(**arrays):
    x = csr_array(np.eye(3))
    for name, array in arrays.items():
        setattr(x, name, np.array(array))
    return x


@pytest.mark.parametrize(
    ("x", "shape", "error", "text"),
    [
        (
            scipy.sparse.coo_array(np.eye(3)),
            (3, 3),
            TypeError,
            "g: expected a sparse matrix in CSR format, got COO. Use .tocsr().",
        ),
        (
            scipy.sparse.csc_matrix(np.eye(3)),
            (3, 3),
            TypeError,
            "g: expected a sparse matrix in CSR format, got CSC. Use .tocsr().",
        ),
        (
            csr_array(np.eye(3)),
            (9,),
            ValueError,
            "g: is a CSR matrix, but its parameter has shape (9,). Pass a dense array, or "
            "numadam.Rows for a gradient of few rows.",
        ),
        (
            csr_array(np.eye(3)),
            (3, 4),
            ValueError,
            "g: expected shape (3, 4) like the parameter, got (3, 3).",
        ),
        (
            csr_array(np.eye(3, dtype=F32)),
            (3, 3),
            TypeError,
            "g: expected float64 like the parameter, got float32. Use .astype(numpy.float64).",
        ),
        (
            broken(indices=[0, 1, 3]),
            (3, 3),
            ValueError,
            "g: is no valid CSR matrix: its indices name the columns 0 to 3, but it has 3. "
            "Build it anew.",
        ),
        (
            broken(indices=[0, -1, 2]),
            (3, 3),
            ValueError,
            "g: is no valid CSR matrix: its indices name the columns -1 to 2, but it has 3. "
            "Build it anew.",
        ),
        *(
            (
                broken(indptr=indptr),
                (3, 3),
                ValueError,
                "g: is no valid CSR matrix: its indptr does not divide 3 entries among 3 rows. "
                "Build it anew.",
            )
            for indptr in ([0, 1, 3], [0, 1, 2, 4], [0, 2, 1, 3], [1, 2, 2, 3], [0, 1, 2, -3])
        ),
    ],
)
def test_refused_csr(x, shape, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        coalesce(x, "g", shape, F64)


def test_csr_of_cupy(monkeypatch):
    """Known by cupyx, if that is loaded; the rest is the same code."""

    class Matrix:
        def __init__(self, x):
            self.format, self.shape, self.dtype = x.format, x.shape, x.dtype
            self.data, self.indices, self.indptr = x.data, x.indices, x.indptr

    x = csr_matrix(np.array([[0, 0], [1.0, 2.0]]))
    assert not is_sparse(Matrix(x))
    module = SimpleNamespace(issparse=lambda x: isinstance(x, Matrix))
    monkeypatch.setitem(sys.modules, "cupyx.scipy.sparse", module)
    assert is_sparse(Matrix(x))
    rows, values = coalesce(Matrix(x), "grads", (2, 2), F64)
    np.testing.assert_array_equal(rows, [1])
    np.testing.assert_array_equal(values, [[1, 2]])
    with pytest.raises(TypeError, match=r"got CSC. Use .tocsr\(\)"):
        coalesce(Matrix(x.tocsc()), "grads", (2, 2), F64)
