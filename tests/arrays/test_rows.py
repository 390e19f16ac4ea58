"""Gradients of few rows, as `Rows` and CSR: what is right, and what coalescing makes of them."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array, csr_matrix

from numadam._arrays.sparse import Rows, clear, coalesce, scatter
from tests.trees import LAYOUTS, lay, relaxed

TWO = np.ones((2, 3))
F32, F64 = np.dtype("float32"), np.dtype("float64")


def dense_of(indices, values, shape):
    """The dense gradient that row gradients stand for."""
    dense = np.zeros(shape, values.dtype)
    np.add.at(dense, indices.astype(np.int64), values)
    return dense


def pairwise(terms):
    """Neighbours added up, then neighbouring pairs, and so on; one without a partner waits."""
    while len(terms) > 1:
        pairs = [a + b for a, b in zip(terms[::2], terms[1::2], strict=False)]
        terms = pairs + ([terms[-1]] if len(terms) % 2 else [])
    return terms[0]


def read_only(a):
    a = a.copy()
    a.setflags(write=False)
    return a


CASES = st.fixed_dictionaries(
    {
        "n": st.integers(1, 9),
        "row": st.sampled_from([(), (1,), (3,), (2, 3), (0,), (2, 0, 3)]),
        "k": st.integers(0, 40),
        "dtype": st.sampled_from([F32, F64]),
        "integers": st.sampled_from(["i1", "u1", "<i4", ">i4", "i8", ">i8", "u8"]),
        "layout": st.sampled_from([*LAYOUTS, "read-only"]),
        "order": st.sampled_from(["any", "sorted", "unique", "both"]),
        "seed": st.integers(0, 2**32 - 1),
    }
)


def draw(case):
    """Rows whose sums are exact, in every order of addition."""
    rng = np.random.default_rng(case["seed"])
    n, k = case["n"], case["k"]
    if case["order"] in ("unique", "both"):
        indices = rng.permutation(n)[:k]
    else:
        indices = rng.integers(0, n, k)
    if case["order"] in ("sorted", "both"):
        indices.sort()
    values = rng.integers(-99, 99, (len(indices), *case["row"])).astype(case["dtype"])
    arrays, layout = (indices.astype(case["integers"]), values), case["layout"]
    arrays = (read_only(a) if layout == "read-only" else lay(a, layout) for a in arrays)
    return *arrays, (n, *case["row"])


def check_form(rows, values, shape, dtype):
    assert rows.dtype == np.int64
    assert rows.dtype.isnative
    assert values.dtype == dtype
    assert type(rows) is type(values) is np.ndarray
    assert values.shape == (len(rows), int(np.prod(shape[1:])))
    for array in (rows, values):
        assert array.flags.c_contiguous
        assert array.flags.aligned
    assert (np.diff(rows) > 0).all()


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


def test_infinite_sums_make_no_noise():
    """The guard of a step judges them, in all gradients alike."""
    values = np.array([3e38, 3e38, np.inf, -np.inf, np.nan, 1], F32)
    with np.errstate(all="raise"):
        _, sums = coalesce(Rows(np.array([2, 2, 1, 1, 0, 0]), values), "grads", (3,), F32)
    np.testing.assert_array_equal(sums, [[np.nan], [np.nan], [np.inf]])


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


# --- CSR arrays -----------------------------------------------------------------------------------


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


def broken(**arrays):
    x = csr_array(np.eye(3))
    for name, array in arrays.items():
        setattr(x, name, np.array(array))
    return x


DIVIDES = (
    "g: is no valid CSR matrix: its indptr does not divide 3 entries among 3 rows. Build it anew."
)
INDPTRS = [0, 1, 3], [0, 1, 2, 4], [0, 2, 1, 3], [1, 2, 2, 3], [0, 1, 2, -3]


@pytest.mark.parametrize(
    ("x", "shape", "error", "text"),
    [
        (scipy.sparse.coo_array(np.eye(3)), (3, 3), TypeError,
         "g: expected a sparse matrix in CSR format, got COO. Use .tocsr()."),
        (csr_array(np.eye(3)), (9,), ValueError,
         "g: is a CSR matrix, but its parameter has shape (9,). Pass a dense array, or "
         "numadam.Rows for a gradient of few rows."),
        (csr_array(np.eye(3)), (3, 4), ValueError,
         "g: expected shape (3, 4) like the parameter, got (3, 3)."),
        (csr_array(np.eye(3, dtype=F32)), (3, 3), TypeError,
         "g: expected float64 like the parameter, got float32. Use .astype(numpy.float64)."),
        (broken(indices=[0, 1, 3]), (3, 3), ValueError,
         "g: is no valid CSR matrix: its indices name the columns 0 to 3, but it has 3. Build it "
         "anew."),
        *((broken(indptr=indptr), (3, 3), ValueError, DIVIDES) for indptr in INDPTRS),
    ],
)  # fmt: skip
def test_refused_csr(x, shape, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        coalesce(x, "g", shape, F64)


# --- refused --------------------------------------------------------------------------------------


LISTED = (
    "expected a NumPy or CuPy array, got list. Nest it as the params are, or use numpy.asarray(x)."
)


@pytest.mark.parametrize(
    ("indices", "values", "error", "text"),
    [
        ([0, 1], TWO, TypeError, f"indices: {LISTED}"),
        (np.arange(2), TWO.tolist(), TypeError, f"values: {LISTED}"),
        (np.arange(2), np.ma.masked_array(TWO), TypeError,
         "values: expected a NumPy or CuPy array, got a masked array: which elements count? Use "
         "x.filled(0) or x.data."),
        (np.ones(2), TWO, TypeError,
         "indices: expected integers or a mask of bool, got float64. Use .astype(int)."),
        (np.ones(3, bool), TWO, ValueError,
         "values: expected 3 rows, one for each True, got shape (2, 3)."),
        *((np.ones((2, 1), kind), TWO, ValueError,
           "indices: expected one axis, got shape (2, 1). Use .reshape(-1), and give values one "
           "row for each index.") for kind in (bool, int)),
        (np.arange(2), TWO.astype(">f8"), TypeError,
         "values: expected float32 or float64 like the parameter, got float64 of foreign byte "
         "order (>f8). Use .astype(numpy.float64) or .astype(numpy.float32)."),
        (np.arange(3), TWO, ValueError,
         "values: expected 3 rows, one for each index, got shape (2, 3)."),
        (np.array([4, -3]), TWO, ValueError,
         "indices: got the row -3. Rows count from 0: add the number of rows to what counts from "
         "the end."),
    ],
)  # fmt: skip
def test_refused_when_made(indices, values, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        Rows(indices, values)
    # what was right when it was made is checked again
    rows = Rows(np.arange(2), TWO)
    rows.indices, rows.values = indices, values
    with pytest.raises(error, match=f"^{re.escape('grads[0].' + text)}$"):
        coalesce(rows, "grads[0]", (9, 3), F64)


@pytest.mark.parametrize(
    ("indices", "values", "shape", "dtype", "error", "text"),
    [
        (np.arange(2), TWO, (), F64, ValueError,
         "g: its parameter has shape (), and no rows. Pass a dense array."),
        (np.arange(2), TWO, (9, 3), F32, TypeError,
         "g.values: expected float32 like the parameter, got float64. Use .astype(numpy.float32)."),
        (np.arange(2), TWO, (9, 4), F64, ValueError,
         "g.values: expected shape (2, 4), 2 rows of a parameter of shape (9, 4), got (2, 3)."),
        (np.array([0, 9]), TWO, (9, 3), F64, ValueError,
         "g.indices: got the row 9, but the parameter has shape (9, 3): 9 rows, counted from 0."),
        (np.array([2**63 + 5, 0], np.uint64), TWO, (9, 3), F64, ValueError,
         "g.indices: got the row 9223372036854775813, but the parameter has shape (9, 3): 9 rows, "
         "counted from 0."),
    ],
)  # fmt: skip
def test_refused_beside_the_parameter(indices, values, shape, dtype, error, text):
    rows = Rows(indices, values)
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        coalesce(rows, "g", shape, dtype)
