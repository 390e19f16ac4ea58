"""Sparse gradients of both kinds among other arrays and options."""

from __future__ import annotations

import copy

import ml_dtypes
import numpy as np
import pytest
from scipy.sparse import csr_array

import numadam as na
from numadam import Rows
from tests.bits import assert_same_bits
from tests.cpu.lazy_adam import Lazy, dense_of, draw
from tests.cpu.sparse_leaves import HOW, gradients, tables
from tests.runs import digest
from tests.trees import tree_leaves


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
