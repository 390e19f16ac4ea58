"""On a GPU: blocks of several ranks, their norms and guards."""

from __future__ import annotations

import math

import cupy
import numpy as np
import pytest

import numadam as na
from tests.processes import on_ranks as on_threads

#: Bound of a norm, whatever the numbers are (`numadam._cuda.norms`).
ULP = 8
SHAPES = (7, 5, 3), (6, 2)
#: First rows of the blocks of each array, by the number of ranks; one block is empty.
ROWS = {
    1: ((0, 7), (0, 6)),
    2: ((0, 7, 7), (0, 3, 6)),
    3: ((0, 3, 7, 7), (0, 2, 4, 6)),
}


def on_ranks(size, work):
    """Results of ``work(ranks)`` on each rank, a thread with a GPU of its own if there is one."""
    count = cupy.cuda.runtime.getDeviceCount()

    def on_gpu(ranks):
        # each process would have streams of its own
        with cupy.cuda.Device(ranks.rank % count), cupy.cuda.Stream(non_blocking=True) as stream:
            result = work(ranks)
            stream.synchronize()
            return result

    return on_threads(size, on_gpu)


def draw(seed, dtype="float64", sizes=(1.0, 1.0)):
    random = np.random.default_rng(seed)
    return [
        (random.standard_normal(shape) * size).astype(dtype)
        for shape, size in zip(SHAPES, sizes, strict=True)
    ]


def blocks(arrays, ranks):
    """The rows of each array that a rank has, on its GPU."""
    both = zip(arrays, ROWS[ranks.size], strict=True)
    return [cupy.asarray(a[rows[ranks.rank] : rows[ranks.rank + 1]]) for a, rows in both]


def stepped(params, grads, size, **options):
    """Of each rank: its parameters after all steps, the norms or errors, t, and steps skipped."""

    def work(ranks):
        mine, norms = blocks(params, ranks), []
        comm = {"comm": ranks} if size > 1 else {}
        opt = na.AdamW(mine, lr=0.1, weight_decay=0.1, **comm, **options)
        for g in grads:
            try:
                opt.step(blocks(g, ranks))
                norms.append(opt.grad_norm)
            except FloatingPointError as error:
                norms.append(str(error))
        return list(map(cupy.asnumpy, mine)), norms, opt.t, opt.skipped

    return on_ranks(size, work)


def exact_norm(arrays):
    return math.hypot(*(float(x) for array in arrays for x in array.flat))


@pytest.mark.parametrize(
    ("dtype", "clip", "size"), [("float32", "clip_norm", 2), ("float64", "clip_array_norm", 3)]
)
def test_norms_are_those_of_the_whole_arrays(dtype, clip, size):
    params, grads = draw(0, dtype), [draw(seed, dtype) for seed in (1, 2)]
    ranks = stepped(params, grads, size, **{clip: 0.5})
    (whole,) = stepped(params, grads, 1, **{clip: 0.5})
    for norms, g in zip(ranks[0][1], grads, strict=True):
        wanted = exact_norm(g) if clip == "clip_norm" else [exact_norm([array]) for array in g]
        assert np.all(np.abs(np.subtract(norms, wanted)) <= ULP * np.spacing(wanted))
    for rank in ranks:
        assert rank[1:3] == (ranks[0][1], 2)  # the same bits
    bound = 4 * float(np.finfo(dtype).eps)
    for k, p in enumerate(whole[0]):
        got = np.concatenate([rank[0][k] for rank in ranks])
        np.testing.assert_allclose(got, p, rtol=bound, atol=0.1 * bound)  # of steps of 0.1


@pytest.mark.parametrize("sizes", [(1e-200, 1e-200), (1e-200, 1e200), (1e200, 1.0), (1.0, 1e-200)])
def test_squares_that_leave_the_range_on_some_ranks(sizes):
    params, g = draw(0), draw(1, sizes=sizes)
    # rows of the first array lie on the first ranks alone, of the second on all
    g[1][:2] *= 1e-230
    ranks = stepped(params, [g], 3, clip_norm=1e-3)
    wanted = exact_norm(g)
    for rank in ranks:
        assert abs(rank[1][0] - wanted) <= ULP * np.spacing(wanted)
        assert rank[1] == ranks[0][1]


@pytest.mark.parametrize(
    ("guard", "bad"), [("raise", np.nan), ("skip", np.inf), ("propagate", np.inf)]
)
def test_the_guard_is_that_of_all_ranks(guard, bad):
    params, g = draw(0), draw(1)
    g[1][-1, 0] = bad  # on the last rank
    ranks = stepped(params, [g], 2, nonfinite=guard, clip_norm=1.0)
    before = stepped(params, [], 2)
    for rank, (unchanged, *_) in zip(ranks, before, strict=True):
        assert rank[2:] == (guard == "propagate", guard == "skip")
        if guard == "propagate":
            assert np.isnan(rank[0][1]).all()
            continue
        assert guard != "raise" or "finite" in rank[1][0]
        for p, q in zip(rank[0], unchanged, strict=True):
            np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0, "nonfinite": "skip"}], ids=str)
def test_a_refusal_on_one_rank_leaves_all_as_they_were(options):
    """Where nothing is exchanged, the others step."""

    def work(ranks):
        opt, good = na.Adam(cupy.arange(4.0), comm=ranks, **options), cupy.ones(4)
        before = [cupy.asnumpy(array) for array in (opt.params, opt.state["m"])]
        if options or ranks.rank:
            alone = not options or ranks.rank
            kind = ValueError if alone else na.mpi.RankError
            with pytest.raises(kind, match="shape" if alone else "rank 1 of 2.*shape"):
                opt.step(cupy.ones(5) if ranks.rank else good)
        for array, old in zip((opt.params, opt.state["m"]), before, strict=True):
            cupy.testing.assert_array_equal(array, old)
        opt.step(good)
        return opt.t, opt.grad_norm if options else 8**0.5

    np.testing.assert_allclose(on_ranks(2, work), [(1, 8**0.5)] * 2, rtol=1e-15)
