"""Norms of several processes, with threads in their place: no MPI is needed here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import numadam as na
from numadam._mpi.ranks import Decomposition, RankError
from tests.rank_threads import Group


def run(size: int, work: Any) -> list[Any]:
    """``work(decomposition)`` on so many ranks; what each returned or raised."""

    def one(ranks: Any) -> Any:
        domain = object.__new__(Decomposition)
        domain._ranks, domain.owned, domain.offset = ranks, None, None
        return work(domain)

    return Group(size).run(one)


def cut(x: np.ndarray, rank: int, ranks: int) -> slice:
    """Unequal blocks, the first one empty where there are several."""
    ends = [0, *(len(x) * k**2 // ranks**2 for k in range(ranks))][1:] + [len(x)]
    ends[1:2] = [0] if ranks > 1 else ends[1:2]
    return slice(ends[rank], ends[rank + 1])


@pytest.mark.parametrize("ranks", [1, 2, 5, 13])
@pytest.mark.parametrize("option", ["clip_norm", "clip_array_norm"])
def test_any_number_of_ranks_has_the_bits_of_one(ranks, option):
    rng = np.random.default_rng(1)
    whole = [rng.standard_normal(700), rng.standard_normal((90, 2))]
    grads = [[rng.standard_normal(a.shape) * 10.0**k for a in whole] for k in (0, 40, -40, 3)]
    options = {option: 0.5, "nonfinite": "skip"}

    def work(domain):
        at = [cut(a, domain.rank, ranks) for a in whole]
        mine = [a[s].copy() for a, s in zip(whole, at, strict=True)]
        opt = na.Adam(mine, comm=domain, **options)
        seen = []
        for one in grads:
            opt.step([g[s] for g, s in zip(one, at, strict=True)])
            seen.append(opt.grad_norm)
        return at, mine, seen

    done = run(ranks, work)
    reference = [a.copy() for a in whole]
    opt = na.Adam(reference, **options)
    norms = []
    for one in grads:
        opt.step(one)
        norms.append(opt.grad_norm)
    for at, mine, seen in done:
        assert seen == norms
        for part, s, a in zip(mine, at, reference, strict=True):
            np.testing.assert_array_equal(part, a[s])


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_elements_that_do_not_count(dtype):
    """Against the norm of those that do, in float64."""
    rng = np.random.default_rng(2)
    owned = rng.random(1000) < 0.5
    g = rng.standard_normal(1000).astype(dtype)
    g[~owned] = [np.nan, np.inf, 1e30, 0.0] * (np.sum(~owned) // 4) + [1.0] * (np.sum(~owned) % 4)

    def work(domain):
        domain.owned = owned
        x = np.zeros(1000, dtype)
        opt = na.SGD(x, lr=1.0, comm=domain, clip_norm=1.0, nonfinite="raise")
        opt.step(g)
        return opt.grad_norm, x

    ((norm, x),) = run(1, work)
    wanted = np.linalg.norm(g[owned].astype(np.complex128))
    assert norm == pytest.approx(wanted, rel=1e-15)
    np.testing.assert_allclose(x[owned], -g[owned] / wanted, rtol=1e-6)
    assert np.isnan(x[~owned][0])


def test_each_step_with_a_norm_meets_once_and_others_never():
    def work(domain):
        free = na.Adam(np.ones(5), comm=domain, ema=0.9)
        normed = na.Adam(np.ones(5), comm=domain, clip_norm=1.0)
        normed.step(np.ones(5))  # finds the unit of the squares
        before = domain._ranks.exchanges
        for _ in range(4):
            free.step(np.ones(5))
            normed.step(np.ones(5))
        return domain._ranks.exchanges - before

    assert run(3, work) == [4, 4, 4]


def test_a_refusal_and_ranks_that_are_not_alike():
    def work(domain):
        opt = na.Adam(np.ones(5), comm=domain, clip_norm=1.0)
        last = domain.rank == 2
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

    done = run(3, work)
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

    def work(domain):
        opt = na.Adam(np.ones(5), comm=domain, clip_norm=1.0)
        opt.step(np.ones(5))
        gone = weakref.ref(opt._backend)
        del opt
        return gone() is None

    gc.disable()
    try:
        assert run(1, work) == [True]
    finally:
        gc.enable()
