"""On a GPU: blocks of several ranks, their norms and guards."""

from __future__ import annotations

import math

import numpy as np
import pytest

import numadam as na
from tests.cuda.gpu.ranks import on_ranks
from tests.processes import mpiexec

#: Bound of a norm, whatever the numbers are (`numadam._cuda.norms`).
ULP = 8
SHAPES = (7, 5, 3), (6, 2)
#: First rows of the blocks of each array, by the number of ranks; one block is empty.
ROWS = {
    1: ((0, 7), (0, 6)),
    2: ((0, 7, 7), (0, 3, 6)),
    3: ((0, 3, 7, 7), (0, 2, 4, 6)),
}


def draw(seed, dtype="float64", sizes=(1.0, 1.0)):
    random = np.random.default_rng(seed)
    return [
        (random.standard_normal(shape) * size).astype(dtype)
        for shape, size in zip(SHAPES, sizes, strict=True)
    ]


def blocks(arrays, ranks):
    """The rows of each array that a rank has."""
    both = zip(arrays, ROWS[ranks.size], strict=True)
    return [array[rows[ranks.rank] : rows[ranks.rank + 1]] for array, rows in both]


def stepped(cp, params, grads, size, **options):
    """Of each rank: its parameters after all steps, the norms or errors, t, and steps skipped."""

    def work(ranks):
        mine, norms = [cp.asarray(p) for p in blocks(params, ranks)], []
        comm = {"comm": ranks} if size > 1 else {}
        opt = na.AdamW(mine, lr=0.1, weight_decay=0.1, **comm, **options)
        for g in grads:
            try:
                opt.step([cp.asarray(block) for block in blocks(g, ranks)])
                norms.append(opt.grad_norm)
            except FloatingPointError as error:
                norms.append(str(error))
        return [cp.asnumpy(p) for p in mine], norms, opt.t, opt.skipped

    return on_ranks(size, work)


def exact_norm(arrays):
    return math.hypot(*(float(x) for array in arrays for x in array.flat))


@pytest.mark.parametrize(
    ("dtype", "clip", "size"), [("float32", "clip_norm", 2), ("float64", "clip_array_norm", 3)]
)
def test_norms_are_those_of_the_whole_arrays(cp, dtype, clip, size):
    params, grads = draw(0, dtype), [draw(seed, dtype) for seed in (1, 2)]
    ranks = stepped(cp, params, grads, size, **{clip: 0.5})
    (whole,) = stepped(cp, params, grads, 1, **{clip: 0.5})
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
def test_squares_that_leave_the_range_on_some_ranks(cp, sizes):
    params, g = draw(0), draw(1, sizes=sizes)
    # rows of the first array lie on the first ranks alone, of the second on all
    g[1][:2] *= 1e-230
    ranks = stepped(cp, params, [g], 3, clip_norm=1e-3)
    wanted = exact_norm(g)
    for rank in ranks:
        assert abs(rank[1][0] - wanted) <= ULP * np.spacing(wanted)
        assert rank[1] == ranks[0][1]


@pytest.mark.parametrize(
    ("guard", "bad"), [("raise", np.nan), ("skip", np.inf), ("propagate", np.inf)]
)
def test_the_guard_is_that_of_all_ranks(cp, guard, bad):
    params, g = draw(0), draw(1)
    g[1][-1, 0] = bad  # on the last rank
    ranks = stepped(cp, params, [g], 2, nonfinite=guard, clip_norm=1.0)
    before = stepped(cp, params, [], 2)
    for rank, (unchanged, *_) in zip(ranks, before, strict=True):
        assert rank[2:] == (guard == "propagate", guard == "skip")
        if guard == "propagate":
            assert np.isnan(rank[0][1]).all()
            continue
        assert guard != "raise" or "finite" in rank[1][0]
        for p, q in zip(rank[0], unchanged, strict=True):
            np.testing.assert_array_equal(p, q)


STATE = {"clip_norm": 1.0, "nonfinite": "skip", "ema": 0.9}


@pytest.mark.parametrize("options", [{"clip_norm": 1.0}, STATE], ids=["one", "all"])
def test_a_refusal_on_one_rank_leaves_all_as_they_were(cp, options):
    def work(ranks):
        opt = na.Adam(cp.arange(4.0), comm=ranks, **options)
        good, bad = cp.ones(4), cp.ones(5)

        def everything():
            return {name: cp.asnumpy(x) for name, x in {**opt.state, "p": opt.params}.items()}

        before = everything()
        kind, text = (
            (ValueError, "shape") if ranks.rank else (na.mpi.RankError, "rank 1 of 2.*shape")
        )
        with pytest.raises(kind, match=text):
            opt.step(bad if ranks.rank else good)
        for name, value in everything().items():
            np.testing.assert_array_equal(value, before[name], err_msg=name)
        opt.step(good)
        assert opt.t == 1
        return opt.grad_norm

    np.testing.assert_allclose(on_ranks(2, work), np.sqrt(8.0), rtol=1e-15)


def test_a_refusal_where_nothing_is_exchanged_stays_there(cp):
    def work(ranks):
        opt = na.Adam(cp.arange(4.0), comm=ranks)
        before = ranks.exchanges
        if ranks.rank:
            with pytest.raises(ValueError, match="shape"):
                opt.step(cp.ones(5))
        opt.step(cp.ones(4))
        assert ranks.exchanges == before
        return opt.t

    assert on_ranks(2, work) == [1, 1]


def test_ranks_that_are_not_at_the_same_step_are_told(cp):
    def work(ranks):
        opt = na.Adam(cp.arange(4.0), comm=ranks, clip_norm=1.0)
        if ranks.rank:
            opt.state = {**opt.state, "t": 3}
        with pytest.raises(na.mpi.RankError, match="t: is 0 on rank 0 and 3 on rank 1"):
            opt.step(cp.ones(4))
        assert opt.t == 3 * ranks.rank

    on_ranks(2, work)


def test_what_ranks_refuse(cp):
    def work(ranks):
        text = "library of params: is NumPy on rank 0 and CuPy on rank 1"
        with pytest.raises(na.mpi.RankError, match=text):
            na.Adam(cp.zeros(3) if ranks.rank else np.zeros(3), comm=ranks, clip_norm=1.0)

    on_ranks(2, work)


# --- ranks of MPI ---------------------------------------------------------------------------------

PROGRAM = """
import sys

import cupy as cp
import numpy as np
from mpi4py import MPI

import numadam as na
from tests import emulator

comm, given = MPI.COMM_WORLD, np.load(sys.argv[1])
cp.cuda.Device(comm.rank % cp.cuda.runtime.getDeviceCount()).use()
options = {"lr": 0.1, "weight_decay": 0.1, "clip_norm": 0.5}
x, grads, rows = given["x"], given["grads"], slice(*((0, 200), (200, 300))[comm.rank])
block = cp.asarray(x[rows])
opt = na.AdamW(block, comm=comm, **options)
for g in grads:
    opt.step(cp.asarray(g[rows]))
np.savez(f"{sys.argv[2]}/{comm.rank}", block=cp.asnumpy(block), norm=opt.grad_norm)
if emulator.is_running():
    assert emulator.faults() == []
"""


@pytest.mark.mpi
def test_two_ranks_of_mpi_step_as_one_process(cp, tmp_path):
    random = np.random.default_rng(0)
    x, grads = random.standard_normal(300), random.standard_normal((2, 300))
    np.savez(tmp_path / "given.npz", x=x, grads=grads)
    done = mpiexec(2, "-c", PROGRAM, tmp_path / "given.npz", tmp_path)
    assert done.returncode == 0, done.stderr
    whole = cp.asarray(x)
    opt = na.AdamW(whole, lr=0.1, weight_decay=0.1, clip_norm=0.5)
    for g in grads:
        opt.step(cp.asarray(g))
    ranks, bound = [], 4 * 2.0**-52
    for rank in range(2):
        with np.load(tmp_path / f"{rank}.npz") as arrays:
            ranks.append(dict(arrays))
    joined, wanted = np.concatenate([rank["block"] for rank in ranks]), cp.asnumpy(whole)
    np.testing.assert_allclose(joined, wanted, rtol=bound, atol=0.1 * bound)
    for rank in ranks:
        assert rank["norm"] == ranks[0]["norm"]
        np.testing.assert_allclose(rank["norm"], opt.grad_norm, rtol=1e-15)
