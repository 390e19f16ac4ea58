"""Norms of several processes, with threads in their place: no MPI is needed here."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from numadam.mpi import RankError
from tests.rank_threads import Group


def cut(x: np.ndarray, rank: int, ranks: int) -> slice:
    """Unequal blocks, the first one empty where there are several."""
    ends = [0, *(len(x) * k**2 // ranks**2 for k in range(ranks))][1:] + [len(x)]
    ends[1:2] = [0] if ranks > 1 else ends[1:2]
    return slice(ends[rank], ends[rank + 1])


@pytest.mark.parametrize("size", [1, 2, 5, 13])
@pytest.mark.parametrize("option", ["clip_norm", "clip_array_norm"])
def test_any_number_of_ranks_has_the_numbers_of_one(size, option):
    rng = np.random.default_rng(1)
    whole = [rng.standard_normal(700), rng.standard_normal((90, 2))]
    grads = [[rng.standard_normal(a.shape) * 10.0**k for a in whole] for k in (0, 40, -40, 3)]
    options = {option: 0.5, "nonfinite": "skip"}

    def work(ranks):
        at = [cut(a, ranks.rank, size) for a in whole]
        mine = [a[s].copy() for a, s in zip(whole, at, strict=True)]
        opt = na.Adam(mine, comm=ranks, **options)
        seen = []
        for one in grads:
            opt.step([g[s] for g, s in zip(one, at, strict=True)])
            seen.append(opt.grad_norm)
        return at, mine, seen

    done = Group(size).run(work)
    reference = [a.copy() for a in whole]
    opt = na.Adam(reference, **options)
    norms = []
    for one in grads:
        opt.step(one)
        norms.append(opt.grad_norm)
    for at, mine, seen in done:
        assert seen == done[0][2]  # the bits of every rank are the same
        for norm, expected in zip(seen, norms, strict=True):
            np.testing.assert_allclose(norm, expected, rtol=1e-14)
        for part, s, a in zip(mine, at, reference, strict=True):
            np.testing.assert_allclose(part, a[s], rtol=1e-12, atol=1e-15)


def test_each_step_with_a_norm_meets_once_and_others_never():
    def work(ranks):
        free = na.Adam(np.ones(5), comm=ranks, ema=0.9)
        normed = na.Adam(np.ones(5), comm=ranks, clip_norm=1.0)
        normed.step(np.ones(5))  # finds the unit of the squares
        before = ranks.exchanges
        for _ in range(4):
            free.step(np.ones(5))
            normed.step(np.ones(5))
        return ranks.exchanges - before

    assert Group(3).run(work) == [4, 4, 4]


def test_a_refusal_and_ranks_that_are_not_alike():
    def work(ranks):
        opt = na.Adam(np.ones(5), comm=ranks, clip_norm=1.0)
        last = ranks.rank == 2
        try:
            opt.step(np.ones(6 if last else 5))
        except (ValueError, RankError) as error:
            found = [error]
        opt.clip_norm = 2.0 if last else 1.0
        try:
            opt.step(np.ones(5))
        except RankError as error:
            found.append(error)
        return *found, opt.t, opt.params

    done = Group(3).run(work)
    assert [type(first) for first, *_ in done] == [RankError, RankError, ValueError]
    assert "rank 2 of 3 failed. ValueError: grads: expected shape (5,)" in str(done[0][0])
    for _, second, t, params in done:
        assert str(second).startswith("clip_norm: is 1 on rank 0 and 2 on rank 2")
        assert t == 0
        np.testing.assert_array_equal(params, 1.0)


def test_an_optimiser_of_several_ranks_is_freed_without_a_search_for_cycles():
    """A step refers to no back end: memory of both would stay until Python looks for cycles."""
    import gc
    import weakref

    def work(ranks):
        opt = na.Adam(np.ones(5), comm=ranks, clip_norm=1.0)
        opt.step(np.ones(5))
        gone = weakref.ref(opt._backend)
        del opt
        return gone() is None

    gc.disable()
    try:
        assert Group(1).run(work) == [True]
    finally:
        gc.enable()
