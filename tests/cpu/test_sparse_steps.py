"""Steps with gradients of few rows: lazy, where the other rows stay, and dense."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

import numadam as na
from numadam import Rows
from tests.bits import assert_same_bits
from tests.cpu.lazy_adam import Lazy, dense_of, draw
from tests.runs import digest, shorten_parts

# --- lazy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 3), (40,), (40, 2, 3), (40, 1), (1, 5), (40, 64)], ids=str)
def test_lazy_against_numpy(shape):
    start, calls = draw(0, shape)
    opt, ref = na.Adam(start.copy(), 0.1, sparse="lazy"), Lazy(start, 0.1)
    for indices, values in calls:
        opt.step(Rows(indices, values))
        ref.step(indices, values)
        for got, expected in (
            (opt.params, ref.p),
            (opt.state["m"], ref.m),
            (opt.state["v"], ref.v),
        ):
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)
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


def test_lazy_with_decay_and_norm():
    """Decay is for the rows that are touched; the norm is that of their sums."""
    start, calls = draw(2)
    options = {"weight_decay": 0.3}
    opt, ref = na.Adam(start.copy(), 0.1, sparse="lazy", **options), Lazy(start, 0.1, **options)
    clipped, limited = (
        na.Adam(start.copy(), 0.1, sparse="lazy", clip_norm=1.5),
        Lazy(start, 0.1, limit=1.5),
    )
    for indices, values in calls:
        opt.step(Rows(indices, values))
        clipped.step(Rows(indices, values))
        ref.step(indices, values)
        limited.step(indices, values)
        size = np.linalg.norm(dense_of(indices, values, start.shape))
        assert clipped.grad_norm == pytest.approx(size, rel=1e-14)
    np.testing.assert_allclose(opt.params, ref.p, rtol=1e-12)
    np.testing.assert_allclose(clipped.params, limited.p, rtol=1e-12)


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


def test_means_and_averages_of_sparse_gradients():
    start, calls = draw(8)
    options = {"accumulate": 3, "sparse": "dense"}
    opt = na.Adam(start.copy(), 0.1, **options)
    plain = na.Adam(start.copy(), 0.1, accumulate=3)
    averaging = na.Adam(start.copy(), 0.1, ema=0.5, sparse="dense")
    average = na.Adam(start.copy(), 0.1, ema=0.5)
    for indices, values in calls:
        opt.step(Rows(indices, values))
        averaging.step(Rows(indices, values))
        plain.step(dense_of(indices, values, start.shape))
        average.step(dense_of(indices, values, start.shape))
    assert opt.t == 2
    np.testing.assert_allclose(opt.params, plain.params, rtol=1e-12)
    np.testing.assert_allclose(averaging.averaged, average.averaged, rtol=1e-12)
