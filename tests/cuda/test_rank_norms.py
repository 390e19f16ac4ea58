"""Norms over ranks on the GPU, in the simulator: ranks are threads, and the exchange is a fake."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import numadam as na
from tests.cuda.ranks import on_ranks

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy's scalars

#: Bound of a norm, whatever the numbers are (`numadam._cuda.norms`).
ULP = 8


def add_ranks(totals, exponents):
    from numadam._cuda.norm_ranks import add_ranks

    rows = np.empty((len(totals), 2, 1), np.int64)
    rows[:, 0, 0], rows[:, 1, 0] = np.array(totals, np.float64).view(np.int64), exponents
    (total,), (exponent,) = add_ranks(rows)
    return float(total.view(np.float64)), int(exponent)


@pytest.mark.parametrize("seed", range(40))
def test_sums_of_totals_are_rounded_once(seed):
    random = np.random.default_rng(seed)
    exponents = random.choice([-600, 0, 600], random.integers(1, 9))
    # as the second pass leaves them: of the range in which a total has this exponent
    ranges = {-600: (-1000, 298), 0: (-899, 1000), 600: (-199, 800)}
    totals = []
    for e in exponents:
        power = int(random.integers(*ranges[int(e)]))
        totals.append(float(np.ldexp(random.uniform(0.5, 1), power)))
    total, exponent = add_ranks(totals, exponents)
    exact = sum(
        (Fraction(t) * Fraction(2) ** int(2 * e) for t, e in zip(totals, exponents, strict=True)),
        Fraction(0),
    )
    got = Fraction(total) * Fraction(2) ** (2 * exponent)
    assert abs(got - exact) <= exact * Fraction(1, 2**53)


def test_totals_that_are_zero_or_not_finite():
    assert add_ranks([0.0, 0.0], [-600, -600])[0] == 0.0
    assert add_ranks([0.0, 2.0], [-600, 0]) == (2.0, 0)
    assert add_ranks([0.0, 2.0**40], [600, -600]) == (2.0**40, -600)
    for bad in (np.nan, np.inf):
        total, _ = add_ranks([1.0, bad, 0.0], [0, 600, -600])
        assert not np.isfinite(total)
    assert np.isnan(add_ranks([np.inf, np.nan], [600, 600])[0])


def blocks(cupy, arrays, size, rank):
    """The rank's rows of each array: the last rank has none of the first array."""
    ends = [len(arrays[0]) * k // (size - 1) for k in range(size)] + [len(arrays[0])]
    rest = [[len(a) * k // size for k in range(size + 1)] for a in arrays[1:]]
    return [
        cupy.asarray(a[cut[rank] : cut[rank + 1]])
        for a, cut in zip(arrays, [ends, *rest], strict=True)
    ]


def run(cupy, params, grads, size, **options):
    """All that is left on each rank, and the meeting."""

    def work(ranks):
        mine = blocks(cupy, params, size, ranks.rank)
        opt = na.AdamW(mine, lr=0.1, weight_decay=0.1, **options)
        if opt._backend._norms is not None:
            opt._backend._norms._exchange = ranks
        norms = []
        for g in grads:
            try:
                opt.step(blocks(cupy, g, size, ranks.rank))
            except FloatingPointError as error:
                norms.append(str(error))
            else:
                norms.append(opt.grad_norm if opt._settings.plan.norm else None)
        return [cupy.asnumpy(p) for p in mine], norms, opt.t, opt.skipped

    return on_ranks(size, work)


SHAPES = (7, 5, 3), (6, 2)


def arrays(seed, dtype, sizes=(1.0, 1.0)):
    random = np.random.default_rng(seed)
    return [
        (random.standard_normal(shape) * size).astype(dtype)
        for shape, size in zip(SHAPES, sizes, strict=True)
    ]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("clip", ["clip_norm", "clip_array_norm"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_norms_are_those_of_the_whole_arrays(cupy, dtype, clip, size):
    params, grads = arrays(0, dtype), [arrays(seed, dtype) for seed in (1, 2)]
    ranks, meeting = run(cupy, params, grads, size, **{clip: 0.5})
    (whole,), _ = run_whole(cupy, params, grads, **{clip: 0.5})
    for norms, g in zip(ranks[0][1], grads, strict=True):
        exact = [np.sum(a.astype(np.longdouble) ** 2) for a in g]
        exact = [sum(exact)] if clip == "clip_norm" else exact
        wanted = np.sqrt(np.array(exact, np.longdouble)).astype(float)
        assert np.all(np.abs(norms - wanted) <= ULP * np.spacing(wanted))
    assert meeting.calls == [2] * size
    for rank in ranks:
        assert rank[1] == ranks[0][1]  # the same bits
        assert rank[2] == 2
    for k, p in enumerate(whole[0]):
        got = np.concatenate([rank[0][k] for rank in ranks])
        np.testing.assert_allclose(got, p, rtol=4 * np.finfo(dtype).eps)


def run_whole(cupy, params, grads, **options):
    def work(ranks):
        mine = [cupy.asarray(p) for p in params]
        opt = na.AdamW(mine, lr=0.1, weight_decay=0.1, **options)
        for g in grads:
            opt.step([cupy.asarray(a) for a in g])
        return [cupy.asnumpy(p) for p in mine], opt.t

    return on_ranks(1, work)


@pytest.mark.parametrize("sizes", [(1e-200, 1e-200), (1e200, 1e-200), (1e200, 1.0), (1.0, 1e-200)])
def test_squares_that_leave_the_range_on_some_ranks(cupy, sizes):
    params, g = arrays(0, "float64"), arrays(1, "float64", sizes)
    # rows of the first array lie on the first ranks alone, of the second on all
    g[1][:2] *= 1e-30
    ranks, _ = run(cupy, params, [g], 3, clip_norm=1e-3)
    scale = max(sizes)
    wanted = scale * float(np.sqrt(sum(np.sum((a / scale).astype(np.longdouble) ** 2) for a in g)))
    for rank in ranks:
        assert abs(rank[1][0] - wanted) <= ULP * np.spacing(wanted)
        assert rank[1] == ranks[0][1]


@pytest.mark.parametrize("guard", ["raise", "skip", "propagate"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_guard_is_that_of_all_ranks(cupy, guard, bad):
    params, g = arrays(0, "float64"), arrays(1, "float64")
    g[1][-1, 0] = bad
    ranks, _ = run(cupy, params, [g], 2, nonfinite=guard, clip_norm=1.0)
    for k, rank in enumerate(ranks):
        assert rank[2] == (guard == "propagate")
        assert rank[3] == (1 if guard == "skip" else 0)
        if guard == "propagate":
            assert np.isnan(rank[0][1]).all()
            continue
        if guard == "raise":
            assert "finite" in rank[1][0]
        for p, before in zip(rank[0], blocks(cupy, params, 2, k), strict=True):
            np.testing.assert_array_equal(p, before)


def test_a_rank_that_another_one_has_stopped_writes_nothing(cupy):
    class Stopped:
        rank, size = 0, 2

        def gather(self, words):
            raise na.mpi.RankError("grads: rank 1 of 2 failed.")

    p = cupy.asarray(np.arange(4.0))
    opt = na.Adam(p, clip_norm=1.0, nonfinite="skip", accumulate=2)
    opt.step(cupy.asarray(np.ones(4)))
    opt._backend._norms._exchange = Stopped()
    before = {name: np.array(value) for name, value in opt.state.items()}
    with pytest.raises(na.mpi.RankError, match="rank 1 of 2"):
        opt.step(cupy.asarray(np.ones(4)))
    for name, value in opt.state.items():
        np.testing.assert_array_equal(value, before[name])
    np.testing.assert_array_equal(p, np.arange(4.0))
