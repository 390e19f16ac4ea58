"""Sparse gradients of both kinds among other arrays and options, and those that are refused."""

from __future__ import annotations

import copy

import ml_dtypes
import numpy as np
import pytest
from scipy.sparse import csc_array, csr_array, csr_matrix

import numadam as na
from numadam import Rows
from numadam._cpu import sparse as cpu_sparse
from tests.bits import assert_same_bits
from tests.cpu.lazy_adam import Lazy, dense_of, draw
from tests.runs import digest
from tests.trees import tree_leaves

# --- both ----------------------------------------------------------------------------------------

HOW = pytest.mark.parametrize("how", ["lazy", "dense"])


def tables(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "tables": [rng.standard_normal((30, 4)), rng.standard_normal((20, 2))],
        "head": {"w": rng.standard_normal((4, 2)), "b": rng.standard_normal(2)},
    }


def gradients(seed, sparse):
    """Two sparse leaves beside dense ones: `Rows` and CSR, or the dense arrays they stand for."""
    rng = np.random.default_rng(seed)
    grads = tables(seed)
    rows = np.sort(rng.permutation(30)[:5])
    values = rng.standard_normal((5, 4))
    dense = np.zeros((20, 2))
    dense[rng.permutation(20)[:3]] = rng.standard_normal((3, 2))
    if sparse:
        grads["tables"] = [Rows(rows, values), csr_matrix(dense)]
    else:
        grads["tables"] = [dense_of(rows, values, (30, 4)), dense]
    return grads, rows, np.flatnonzero(dense.any(1))


@HOW
def test_two_sparse_leaves_beside_dense_ones(how):
    params = tables()
    opt, plain = na.Adam(params, 0.1, sparse=how), na.Adam(tables(), 0.1)
    for seed in range(1, 6):
        before = copy.deepcopy(params)
        grads, *touched = gradients(seed, True)
        opt.step(grads)
        plain.step(gradients(seed, False)[0])
        if how == "lazy":
            for p, q, rows in zip(params["tables"], before["tables"], touched, strict=True):
                assert np.flatnonzero((p != q).any(1)).tolist() == rows.tolist()
    for name in ("w", "b"):
        assert_same_bits(params["head"][name], plain.params["head"][name])
    if how == "dense":
        assert digest(opt) == digest(plain)


@HOW
def test_groups_and_sparse_gradients(how):
    groups = {"tables.1": {"lr": 0.01, "weight_decay": 0.5}, "head.b": {"frozen": True}}
    params = tables()
    opt = na.Adam(params, 0.1, sparse=how, groups=groups)
    alone = [
        na.Adam(tables()["tables"][0], 0.1, sparse=how, weight_decay=lambda taken: 0.0),
        na.Adam(tables()["tables"][1], 0.01, sparse=how, weight_decay=0.5),
    ]
    for seed in range(1, 6):
        grads, *_ = gradients(seed, True)
        opt.step({**grads, "head": {"w": grads["head"]["w"], "b": None}})
        for one, g in zip(alone, grads["tables"], strict=True):
            one.step(g)
    for p, one in zip(params["tables"], alone, strict=True):
        assert_same_bits(p, one.params)


@HOW
def test_step_sizes_of_rows(how):
    start, calls = draw(9)
    lr = np.linspace(0.0, 0.2, 40)[:, None]
    opt = na.Adam(start.copy(), lr, sparse=how)
    plain = na.Adam(start.copy(), 0.1, sparse=how)
    for indices, values in calls:
        opt.step(Rows(indices, values))
        plain.step(Rows(indices, values))
    moved = plain.params - start
    np.testing.assert_allclose(opt.params - start, moved * lr / 0.1, rtol=1e-9, atol=1e-15)


def test_bounds_of_the_rows_that_are_touched():
    start, calls = draw(10)
    start = np.clip(start, -0.5, 0.5)
    low = np.linspace(-0.5, 0.0, 40)[:, None]
    opt = na.Adam(np.maximum(start, low), 0.3, sparse="lazy", bounds=(low, 0.5))
    ref = Lazy(np.maximum(start, low), 0.3)
    for indices, values in calls:
        opt.step(Rows(indices, values))
        total = dense_of(indices, values, start.shape)
        total[(ref.p <= low) & (total > 0)] = 0
        total[(ref.p >= 0.5) & (total < 0)] = 0
        rows = np.unique(indices)
        ref.step(rows, total[rows])
        ref.p = np.clip(ref.p, low, 0.5)
    np.testing.assert_allclose(opt.params, ref.p, rtol=1e-12)


@HOW
def test_params_of_one_call_and_guard(how):
    start, calls = draw(11)
    opt = na.Adam(start.copy(), 0.1, sparse=how, nonfinite="raise")
    plain = na.Adam(start.copy(), 0.1, sparse=how, nonfinite="raise")
    other = start.copy()
    for indices, values in calls:
        opt.step(Rows(indices, values), params=other)
        plain.step(Rows(indices, values))
    assert_same_bits(other, plain.params)
    assert_same_bits(opt.params, start)
    before = digest(plain)
    with pytest.raises(FloatingPointError):
        plain.step(Rows(np.array([3, 1]), np.array([[1.0, 1.0, 1.0], [1.0, np.nan, 1.0]])))
    assert digest(plain) == before
    plain.step(start)
    opt.step(start, params=other)
    assert_same_bits(other, plain.params)


def test_direction_of_a_sparse_gradient():
    start, calls = draw(12)
    opt, plain = na.Adam(start.copy(), 0.1, sparse="dense"), na.Adam(start.copy(), 0.1)
    out, expected = np.full((40, 3), 7.0), np.empty((40, 3))
    for indices, values in calls:
        rows = np.unique(indices)
        opt.step(Rows(rows, values[: len(rows)]), out=out)
        plain.step(dense_of(rows, values[: len(rows)], (40, 3)), out=expected)
        assert_same_bits(out, expected)


@pytest.mark.parametrize("dtype", ["f4", "f2", ml_dtypes.bfloat16])
@HOW
def test_other_dtypes(how, dtype):
    """Tables in 16 bits, with state in float32 and with a float32 copy."""
    start, calls = draw(13)
    start = start.astype(dtype)
    options = {"master": True} if start.itemsize == 2 else {}
    opt = na.Adam(start.copy(), 0.1, sparse=how, **options)
    plain = na.Adam(start.copy(), 0.1, **options)
    for indices, values in calls:
        rows = np.unique(indices)
        values = values[: len(rows)].astype(dtype)
        opt.step(Rows(rows, values))
        plain.step(dense_of(rows, values, start.shape, dtype))
        if how == "lazy":  # the dense step moves all the others with momentum
            break
    assert (opt.params == plain.params).all()
    assert opt.state["m"].dtype == np.float32


def test_resumed_with_the_same_bits():
    start, calls = draw(14)
    opt = na.Adam(start, 0.1, sparse="lazy")
    for indices, values in calls[:3]:
        opt.step(Rows(indices, values))
    again = copy.deepcopy(opt)
    for indices, values in calls[3:]:
        opt.step(Rows(indices, values))
        again.step(Rows(indices, values))
    assert digest(opt) == digest(again)


# --- refused -------------------------------------------------------------------------------------


def bad_gradients():
    one, rows = np.array([1]), np.ones((1, 4))
    table = np.ones((30, 4))
    return {
        "another dtype": (Rows(one, rows.astype("f4")), TypeError, "values: expected float64"),
        "another width": (Rows(one, np.ones((1, 3))), ValueError, "values: expected shape (1, 4)"),
        "beyond the end": (Rows(np.array([30]), rows), ValueError, "indices: got the row 30"),
        "CSR of another shape": (csr_array(np.ones((31, 4))), ValueError, "expected shape (30, 4)"),
        "CSC": (csc_array(table), TypeError, "expected a sparse matrix in CSR format, got CSC"),
        "CSR of another dtype": (csr_array(table.astype("f4")), TypeError, "expected float64"),
    }


@HOW
@pytest.mark.parametrize("case", bad_gradients())
@pytest.mark.parametrize("seat", [0, 1])
def test_refused_gradients_leave_all_as_it_was(case, seat, how):
    """Also where another sparse leaf was right: the next step finds a table that is whole."""
    bad, error, says = bad_gradients()[case]
    params = [np.ones((30, 4)), np.ones((30, 4)), np.ones(3)]
    opt = na.Adam(params, sparse=how)
    good = [Rows(np.array([2, 5]), np.ones((2, 4))), csr_array(np.eye(30, 4)), np.ones(3)]
    opt.step(good)
    before = digest(opt)
    grads = list(good)
    grads[seat] = bad
    with pytest.raises(error) as caught:
        opt.step(grads)
    assert str(caught.value).startswith(f"grads[{seat}]")
    assert says in str(caught.value)
    for wrong in (np.ones(4), good[0], None):
        with pytest.raises((TypeError, ValueError), match=r"^grads\[2\]"):
            opt.step([good[0], good[1], wrong])
    assert digest(opt) == before
    untouched = na.Adam([np.ones((30, 4)), np.ones((30, 4)), np.ones(3)], sparse=how)
    untouched.step(good)
    for one in (opt, untouched):
        one.step([np.ones((30, 4)), good[0], np.ones(3)])
        one.step(good)
    assert digest(opt) == digest(untouched)


@pytest.mark.parametrize(
    ("how", "owner", "name"),
    [("lazy", cpu_sparse.SparseGradients, "_in_order"), ("dense", cpu_sparse, "scatter")],
)
def test_an_exception_between_two_sparse_leaves(how, owner, name, monkeypatch):
    """Ctrl-C, or no memory: nothing is written, and nothing of the first leaf stays lent."""
    opt, untouched = (na.Adam([np.ones((30, 4)), np.ones((30, 4))], sparse=how) for _ in range(2))
    good = [Rows(np.array([2, 5]), np.ones((2, 4))), csr_array(np.eye(30, 4))]
    real, calls = getattr(owner, name), []

    def failing(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    for one in (opt, untouched):
        one.step(good)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        with pytest.raises(KeyboardInterrupt):
            opt.step(good)
    assert len(calls) == 2
    assert digest(opt) == digest(untouched)
    for one in (opt, untouched):
        one.step([np.ones((30, 4)), good[0]])
        one.step([good[1], np.ones((30, 4))])
        one.step(good)
    assert digest(opt) == digest(untouched)


def test_sparse_gradients_need_the_option():
    opt = na.Adam(np.ones((4, 3)))
    for grads in (Rows(np.array([1]), np.ones((1, 3))), csr_array(np.eye(4, 3))):
        with pytest.raises(
            ValueError, match=r"^grads: is sparse\. Make the optimiser with sparse='"
        ):
            opt.step(grads)
    assert opt.t == 0
    opt = na.Adam(np.ones((4, 3), complex), sparse="dense")
    with pytest.raises(TypeError, match=r"^grads: is sparse, but the parameters are complex"):
        opt.step(csr_array(np.eye(4, 3, dtype=complex)))


def test_rows_that_share_memory_with_what_is_written():
    """Lazily they are read while the step writes; densely they are copied first."""
    for kept in ("p", "m"):
        opt = na.Adam(np.arange(12.0).reshape(4, 3), sparse="lazy")
        before = digest(opt)
        shared = opt.params if kept == "p" else opt.state["m"]
        with pytest.raises(ValueError, match=r"^grads shares memory with (params|state\['m'\])"):
            opt.step(Rows(np.array([1, 2]), shared[:2]))
        assert digest(opt) == before
        opt.step(Rows(np.array([1, 2]), shared[:2].copy()))
        assert opt.t == 1
    opt = na.Adam(np.arange(12.0).reshape(4, 3), 0.1, sparse="dense")
    opt.step(Rows(np.array([1, 2]), opt.params[:2]))
    np.testing.assert_allclose(opt.params[1:3], [[3, 3.9, 4.9], [5.9, 6.9, 7.9]], rtol=1e-7)


def test_gradients_are_never_modified():
    rows, values = np.array([5, 1, 5]), np.ones((3, 4))
    matrix = csr_array(np.eye(30, 4))
    kept = rows.copy(), values.copy(), matrix.copy()
    for a in (rows, values, matrix.data, matrix.indices, matrix.indptr):
        a.setflags(write=False)
    for how in ("lazy", "dense"):
        opt = na.Adam([np.ones((30, 4)), np.ones((30, 4))], sparse=how)
        for _ in range(2):
            opt.step([Rows(rows, values), matrix])
    assert_same_bits(rows, kept[0])
    assert_same_bits(values, kept[1])
    assert (matrix != kept[2]).nnz == 0


def test_no_rows_at_all_is_a_step():
    """t counts it, as torch does; densely all rows move with their momentum."""
    for how in ("lazy", "dense"):
        opt = na.Adam([np.ones((4, 3)), np.ones((0, 3))], sparse=how)
        opt.step([np.ones((4, 3)), np.ones((0, 3))])
        before = opt.params[0].copy()
        empty = Rows(np.zeros(0, int), np.zeros((0, 3)))
        opt.step([empty, empty])
        opt.step([csr_array((4, 3)), csr_array((0, 3))])
        assert opt.t == 3
        assert (opt.params[0] == before).all() == (how == "lazy")
    assert all(np.isfinite(a).all() for a in tree_leaves(opt.params))
