"""Gradients of few rows: lazy, where the other rows stay, and dense; what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from scipy.sparse import csc_array, csr_array, csr_matrix

import numadam as na
from numadam import Rows
from tests.bits import assert_same_bits
from tests.runs import digest, shorten_parts
from tests.trees import tree_leaves


class Lazy:
    """torch's SparseAdam in NumPy: rows without a gradient keep p, m and v; t is of the array."""

    def __init__(self, p, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, clip_norm=np.inf):
        self.p, self.m, self.v = p.copy(), np.zeros_like(p), np.zeros_like(p)
        self._lr, self._b1, self._b2, self._eps = lr, beta1, beta2, eps
        self._decay, self._limit, self.t = weight_decay, clip_norm, 0

    def step(self, indices, values):
        total = np.zeros_like(self.p)
        np.add.at(total, indices, values)
        rows = np.unique(indices)
        self.norm = np.linalg.norm(total)
        factor = self._limit / self.norm if self.norm > self._limit else 1.0
        self.t += 1
        p, m, v = self.p[rows], self.m[rows], self.v[rows]
        g = total[rows] * factor + self._decay * p
        m = self._b1 * m + (1 - self._b1) * g
        v = self._b2 * v + (1 - self._b2) * g * g
        root = np.sqrt(v / (1 - self._b2**self.t)) + self._eps
        self.p[rows] = p - self._lr * (m / (1 - self._b1**self.t)) / root
        self.m[rows], self.v[rows] = m, v


def draw(seed, shape=(40, 3), count=6):
    """A table, and gradients of some of its rows: in any order, some of them twice, one empty."""
    rng = np.random.default_rng(seed)
    calls = []
    for k in range(count):
        n = 0 if k == 3 else int(rng.integers(1, 12))
        calls.append((rng.integers(0, shape[0], n), rng.standard_normal((n, *shape[1:]))))
    return rng.standard_normal(shape), calls


def dense_of(indices, values, shape, dtype=float):
    dense = np.zeros(shape, dtype)
    np.add.at(dense, indices, values)
    return dense


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


# --- lazy ----------------------------------------------------------------------------------------


SHAPES = [(40, 3), (40,), (40, 2, 3), (40, 1), (1, 5), (40, 64)]


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        *((shape, {}) for shape in SHAPES),
        ((40, 3), {"weight_decay": 0.3}),  # of the rows that are touched
        ((40, 3), {"clip_norm": 1.5}),  # of the norm of their sums
    ],
    ids=str,
)
def test_lazy_against_numpy(shape, options):
    start, calls = draw(0, shape)
    opt, ref = na.Adam(start.copy(), 0.1, sparse="lazy", **options), Lazy(start, 0.1, **options)
    for indices, values in calls:
        opt.step(Rows(indices, values))
        ref.step(indices, values)
        for got, expected in (
            (opt.params, ref.p),
            (opt.state["m"], ref.m),
            (opt.state["v"], ref.v),
        ):
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)
        if "clip_norm" in options:
            assert opt.grad_norm == pytest.approx(ref.norm, rel=1e-14)
    assert opt.t == ref.t == len(calls)


def test_rows_without_a_gradient_keep_their_bits():
    start, _ = draw(1)
    opt = na.Adam(start.copy(), 0.1, sparse="lazy")
    opt.step(np.ones_like(start))  # dense gradients are welcome too
    p, m, v = (a.copy() for a in (opt.params, opt.state["m"], opt.state["v"]))
    touched = np.array([39, 0, 17, 17])
    opt.step(Rows(touched, np.ones((4, 3))))
    others = np.ones(40, bool)
    others[touched] = False
    for now, before in ((opt.params, p), (opt.state["m"], m), (opt.state["v"], v)):
        assert_same_bits(now[others], before[others])
        assert (now[~others] != before[~others]).all()


# --- masks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("marks", ["some", "none", "all"])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.2, "decoupled": False}], ids=str)
def test_a_mask_against_each_row_stepped_densely(dtype, marks, options):
    """Marked rows have the bits of optimisers of one row each; NaN in other gradients is unread."""
    rng = np.random.default_rng(5)
    start = rng.standard_normal((9, 3)).astype(dtype)
    mask = {"some": rng.random(9) < 0.5, "none": np.zeros(9, bool), "all": np.ones(9, bool)}[marks]
    opt = na.Adam(start.copy(), 0.1, sparse="lazy", **options)
    by_rows = na.Adam(start.copy(), 0.1, sparse="lazy", **options)
    each = [na.Adam(start[i].copy(), 0.1, **options) for i in range(9)]
    for _ in range(4):
        grads = rng.standard_normal((9, 3)).astype(dtype)
        grads[~mask] = np.nan
        opt.step(grads, rows=mask)
        by_rows.step(Rows(mask, grads[mask]))
        for i in np.flatnonzero(mask):
            each[i].step(grads[i])
    assert opt.t == by_rows.t == 4
    for got in (opt, by_rows):
        assert_same_bits(got.params, np.stack([one.params for one in each]))
        for name in ("m", "v"):
            assert_same_bits(got.state[name], np.stack([one.state[name] for one in each]))


def test_masks_of_several_arrays_with_groups_and_a_norm():
    """As `Rows` of row numbers; an array whose mask is None is stepped as a whole."""
    rng = np.random.default_rng(6)
    start = {"w": rng.standard_normal((7, 2)), "b": rng.standard_normal(7), "c": np.ones(())}
    masks = {"w": rng.random(7) < 0.5, "b": rng.random(7) < 0.5, "c": None}
    options = {"lr": {"w": 0.1, "b": 0.2, "c": 0.3}, "clip_norm": 0.5, "sparse": "lazy"}
    masked, numbered = (na.Adam(copy.deepcopy(start), **options) for _ in range(2))
    for _ in range(3):
        grads = {name: rng.standard_normal(p.shape) for name, p in start.items()}
        masked.step(grads, rows=masks)
        rows = {k: Rows(np.flatnonzero(masks[k]), grads[k][masks[k]]) for k in "wb"}
        numbered.step({**rows, "c": grads["c"]})
    size = np.sqrt(sum((grads[k][masks[k]] ** 2).sum() for k in "wb") + grads["c"] ** 2)
    assert masked.grad_norm == pytest.approx(size, rel=1e-14)
    for name in start:
        assert_same_bits(masked.params[name], numbered.params[name])
        assert (masked.params[name] != start[name]).any()
    for name in "wb":
        assert_same_bits(masked.params[name][~masks[name]], start[name][~masks[name]])


def test_masks_with_other_parameters_but_no_out():
    """A direction is refused without masks, too: tests/settings/test_options.py."""
    opt, other = na.Adam(SIX.copy(), 0.1, sparse="lazy"), SIX.copy()
    with pytest.raises(ValueError, match=r"^out: sparse='lazy' gives a direction in some rows"):
        opt.step(SIX, rows=MASK, out=np.empty((3, 2)))
    opt.step(SIX, rows=MASK, params=other)
    assert_same_bits(opt.params, SIX)
    assert ((other != SIX).all(1) == MASK).all()


MASK, SIX = np.array([True, False, True]), np.ones((3, 2))
LAZY = {"sparse": "lazy"}


@pytest.mark.parametrize(
    ("p", "options", "grads", "rows", "error", "text"),
    [
        (SIX, {}, SIX, MASK, ValueError, "rows: a step of some rows .* sparse='lazy'"),
        (SIX, {"sparse": "dense"}, SIX, MASK, ValueError, "rows: a step of some .* sparse='lazy'"),
        (SIX, LAZY, SIX, MASK.tolist(), TypeError, "rows: expected a NumPy or CuPy array, got l"),
        (SIX, LAZY, SIX.tolist(), MASK, TypeError, "grads: expected a NumPy or CuPy array, got l"),
        (SIX, LAZY, SIX, MASK.astype(int), TypeError, "rows: expected a mask of bool, got int64"),
        (SIX, LAZY, SIX, MASK[:2], ValueError, r"rows: expected a mask of shape \(3,\)"),
        (SIX, LAZY, SIX, SIX > 0, ValueError, r"rows: expected a mask of shape \(3,\), .*\(3, 2\)"),
        (SIX, LAZY, SIX[MASK], MASK, ValueError, r"grads: expected shape \(3, 2\) .*Rows\(mask"),
        (SIX, LAZY, SIX.astype("f4"), MASK, TypeError, "grads: expected float64 .* got float32"),
        (SIX, LAZY, Rows(MASK, SIX[MASK]), MASK, TypeError, "grads: is sparse, and names its rows"),
        (SIX, LAZY, Rows(MASK[:2], SIX[:1]), None, ValueError, "grads.indices: expected a mask"),
        (SIX + 0j, LAZY, SIX + 0j, MASK, TypeError, "rows: the parameters are complex"),
        (np.ones(()), LAZY, np.ones(()), MASK, ValueError, r"rows: its parameter has shape \(\)"),
        ({"w": SIX}, LAZY, {"w": SIX}, MASK, ValueError, "rows: expected "),
        ({"w": SIX}, LAZY, {"w": SIX}, {"w": MASK[:2]}, ValueError, r"rows\['w'\]: expected a m"),
    ],
)  # fmt: skip
def test_bad_masks_are_refused_before_anything_is_written(p, options, grads, rows, error, text):
    opt = na.Adam(copy.deepcopy(p), 0.1, **options)
    with pytest.raises(error, match=f"^{text}"):
        opt.step(grads, rows=rows)
    assert opt.t == 0
    for now, before in zip(tree_leaves(opt.params), tree_leaves(p), strict=True):
        assert now.tobytes() == before.tobytes()


def test_norm_has_the_bits_of_the_rows_alone():
    """However long the table: blocks without a gradient add nothing."""
    rng = np.random.default_rng(3)
    values = rng.standard_normal((90, 7))
    found = set()
    for n in (90, 700, 2000):
        opt = na.Adam(np.zeros((n, 7)), sparse="lazy", clip_norm=np.inf)
        opt.step(Rows(np.sort(rng.permutation(n)[:90]), values))
        found.add(opt.grad_norm.hex())
    opt = na.Adam(np.zeros((90, 7)), clip_norm=np.inf)
    opt.step(values)
    assert found == {opt.grad_norm.hex()}


def test_touching_all_rows_is_the_dense_step_bit_for_bit(form):
    rng = np.random.default_rng(4)
    start, *calls = rng.standard_normal((5, 500, 9)).astype("f4")
    lazy, dense = na.Adam(start.copy(), sparse="lazy"), na.Adam(start.copy())
    shorten_parts(lazy, 77)
    for g in calls:
        order = rng.permutation(500)
        lazy.step(Rows(order, g[order]))
        dense.step(g)
    assert digest(lazy) == digest(dense)


@pytest.mark.parametrize("part", [1, 2, 3, 7, 64, 10_000])
def test_parts_may_end_anywhere_in_a_row(part, form):
    start, calls = draw(5, (300, 5))
    opt, whole = (na.Adam(start.astype("f4"), 0.1, sparse="lazy") for _ in range(2))
    shorten_parts(opt, part)
    shorten_parts(whole, 1 << 20)
    for indices, values in calls:
        for one in (opt, whole):
            one.step(Rows(indices, values.astype("f4")))
    assert digest(opt) == digest(whole)


def test_strided_tables_go_through_their_work_array():
    start, calls = draw(6)
    room = np.full((80, 7), 77.0)
    room[::2, 1:7:2] = start
    plain = na.Adam(start.copy(), 0.1, sparse="lazy")
    strided = na.Adam(room[::2, 1:7:2], 0.1, sparse="lazy")
    twice = start[:, :, None].repeat(2, 2)
    turned = na.Adam(twice.transpose(0, 2, 1).copy().transpose(0, 2, 1), 0.1, sparse="lazy")
    for indices, values in calls:
        plain.step(Rows(indices, values))
        strided.step(Rows(indices.astype("u1"), np.asfortranarray(values)))
        turned.step(Rows(indices, values[:, :, None].repeat(2, 2)))
    assert_same_bits(np.ascontiguousarray(strided.params), plain.params)
    assert (room[1::2] == 77).all()
    assert (room[:, ::2] == 77).all()
    for k in range(2):
        assert_same_bits(np.ascontiguousarray(turned.params[:, :, k]), plain.params)


def test_lazy_refuses_tables_whose_rows_do_not_lie_together():
    opt = na.Adam(np.asfortranarray(np.ones((4, 3))), sparse="lazy")
    with pytest.raises(ValueError, match=r"^grads: sparse='lazy' needs parameters whose rows lie"):
        opt.step(Rows(np.array([1]), np.ones((1, 3))))
    opt.step(np.ones((4, 3)))
    assert opt.t == 1


# --- dense ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.3}, {"clip_norm": 1.0}], ids=str)
def test_dense_has_the_bits_of_the_dense_gradient(options, order):
    start, calls = draw(7)
    opt = na.Adam(start.copy(order), 0.1, sparse="dense", **options)
    plain = na.Adam(start.copy(order), 0.1, **options)
    for k, (indices, values) in enumerate(calls):
        rows = np.unique(indices)  # each once: the sum of several is rounded in another order
        values = np.resize(values, (len(rows), 3))
        dense = dense_of(rows, values, start.shape)
        opt.step(Rows(rows, values) if k % 2 else csr_array(dense))
        plain.step(dense)
        assert digest(opt) == digest(plain)


# --- several leaves and options -------------------------------------------------------------------


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


# --- refused --------------------------------------------------------------------------------------


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
