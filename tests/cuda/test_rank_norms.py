"""Norms over ranks on the GPU, in the simulator: ranks are threads, and the exchange is a fake."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import numadam as na
from numadam._mpi import decomposition
from tests.cuda.ranks import on_ranks

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy's scalars


@pytest.fixture(autouse=True)
def _any_comm(monkeypatch):
    """The option `comm` takes ranks that are threads."""
    monkeypatch.setattr(decomposition, "ranks_of", lambda comm: comm)


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
        opt = na.AdamW(mine, lr=0.1, weight_decay=0.1, comm=ranks, **options)
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
    ranks, _ = run(cupy, params, grads, size, **{clip: 0.5})
    (whole,), _ = run_whole(cupy, params, grads, **{clip: 0.5})
    for norms, g in zip(ranks[0][1], grads, strict=True):
        exact = [np.sum(a.astype(np.longdouble) ** 2) for a in g]
        exact = [sum(exact)] if clip == "clip_norm" else exact
        wanted = np.sqrt(np.array(exact, np.longdouble)).astype(float)
        assert np.all(np.abs(norms - wanted) <= ULP * np.spacing(wanted))
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


STATE = {"clip_norm": 1.0, "nonfinite": "skip", "accumulate": 2, "ema": 0.9}


def everything(opt):
    return {name: np.array(value) for name, value in opt.state.items()} | {
        "p": np.array(opt.params)
    }


@pytest.mark.parametrize("options", [{"clip_norm": 1.0}, STATE], ids=["one", "sum"])
def test_a_refusal_on_one_rank_leaves_all_as_they_were(cupy, options):
    count = options.get("accumulate", 1)

    def work(ranks):
        opt = na.Adam(cupy.asarray(np.arange(4.0)), comm=ranks, **options)
        good, bad = cupy.asarray(np.ones(4)), cupy.asarray(np.ones(5))
        for _ in range(count - 1):
            opt.step(good)
        before = everything(opt)
        kind, text = (
            (ValueError, "shape") if ranks.rank else (na.mpi.RankError, "rank 1 of 2.*shape")
        )
        with pytest.raises(kind, match=text):
            opt.step(bad if ranks.rank else good)
        for name, value in everything(opt).items():
            np.testing.assert_array_equal(value, before[name], err_msg=name)
        opt.step(good)
        assert opt.t == 1
        return opt.grad_norm

    norms, _ = on_ranks(2, work)
    np.testing.assert_allclose(norms, np.sqrt(8.0), rtol=1e-15)


def test_a_refusal_where_nothing_is_exchanged_stays_there(cupy):
    def work(ranks):
        p = cupy.asarray(np.arange(4.0))
        opt = na.Adam(p, comm=ranks)
        made = ranks._meeting.calls[ranks.rank]
        if ranks.rank:
            with pytest.raises(ValueError, match="shape"):
                opt.step(cupy.asarray(np.ones(5)))
        opt.step(cupy.asarray(np.ones(4)))
        assert ranks._meeting.calls[ranks.rank] == made
        return opt.t

    assert on_ranks(2, work)[0] == [1, 1]


def test_ranks_that_are_not_at_the_same_step_are_told(cupy):
    def work(ranks):
        opt = na.Adam(cupy.asarray(np.arange(4.0)), comm=ranks, clip_norm=1.0)
        if ranks.rank:
            opt.state = {**opt.state, "t": 3}
        with pytest.raises(na.mpi.RankError, match="t: is 0 on rank 0 and 3 on rank 1"):
            opt.step(cupy.asarray(np.ones(4)))
        assert opt.t == 3 * ranks.rank

    on_ranks(2, work)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("more", [{}, {"accumulate": 2, "bounds": (-9.0, 9.0)}])
def test_ghost_cells_do_not_count(cupy, dtype, more):
    """Two blocks with a ghost cell each, which holds a NaN gradient; the first norm is (3, 4)."""
    if "complex" in dtype:
        more = {key: value for key, value in more.items() if key != "bounds"}

    def work(ranks):
        owned = np.array([True, True, False] if ranks.rank == 0 else [False, True, True])
        g = np.array([3, 0, np.nan] if ranks.rank == 0 else [np.inf, 4, 0], dtype)
        p = cupy.asarray(np.ones(3, dtype))
        comm = na.mpi.Decomposition(ranks, owned)
        opt = na.SGD(p, lr=0.5, comm=comm, clip_norm=2.5, nonfinite="raise", **more)
        for _ in range(more.get("accumulate", 1)):
            opt.step(cupy.asarray(g))
        assert opt.t == 1
        assert opt.grad_norm == 5.0
        return np.array(p)

    (left, right), _ = on_ranks(2, work)
    np.testing.assert_allclose(left[:2], [1 - 0.75, 1], rtol=1e-6)
    np.testing.assert_allclose(right[1:], [0, 1], atol=1e-6)
    assert np.isnan(left[2])  # stepped as all others are


@pytest.mark.parametrize("library", ["NumPy", "CuPy"])
def test_ghost_cells_of_sparse_gradients_are_refused(cupy, library):
    """The norm reads the rows of a gradient, where the mask has those of the array."""

    def work(ranks):
        p = cupy.zeros((4, 2)) if library == "CuPy" else np.zeros((4, 2))
        comm = na.mpi.Decomposition(ranks, np.ones((4, 2), bool))
        with pytest.raises(ValueError, match=r"owned: with sparse='lazy' .*sparse='dense'"):
            na.SGD(p, comm=comm, sparse="lazy", clip_norm=1.0)

    on_ranks(1, work)


def test_a_captured_norm_of_ranks_is_refused(cupy):
    def work(ranks):
        with pytest.raises(ValueError, match=r"capturable: with comm.*Leave out capturable, or"):
            na.Adam(cupy.zeros(3), comm=ranks, capturable=True, clip_norm=1.0)
        na.Adam(cupy.zeros(3), comm=ranks, capturable=True).step(cupy.zeros(3))

    on_ranks(2, work)


@pytest.mark.mpi
def test_a_real_communicator_of_one_rank(cupy):
    from mpi4py import MPI

    from numadam._mpi import ranks

    decomposition.ranks_of = ranks.ranks_of  # the fixture takes it back
    g = cupy.asarray(np.array([3.0, 4.0]))
    one, two = cupy.zeros(2), cupy.zeros(2)
    opt = na.Adam(one, comm=MPI.COMM_SELF, clip_norm=1.0)
    opt.step(g)
    na.Adam(two, clip_norm=1.0).step(g)
    np.testing.assert_array_equal(one, two)
    assert opt.grad_norm == 5.0


def test_ranks_with_arrays_of_two_libraries_are_refused(cupy):
    def work(ranks):
        p = cupy.zeros(3) if ranks.rank else np.zeros(3)
        text = "library of params: is NumPy on rank 0 and CuPy on rank 1"
        with pytest.raises(na.mpi.RankError, match=text):
            na.Adam(p, comm=ranks, clip_norm=1.0)

    on_ranks(2, work)
