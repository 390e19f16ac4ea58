"""On a GPU: `Sharded` over CuPy arrays of several ranks, and how they go from rank to rank."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from numadam._mpi.transport import Pieces, Staged
from tests import emulator
from tests.cuda.gpu.ranks import on_ranks

pytestmark = pytest.mark.mpi

#: Of several parts and rounds where a bucket has 300 bytes; one is empty, one is frozen.
SHAPES = {"w": (7, 25), "none": (0,), "b": (3,), "still": (4,), "last": (2, 120)}
FROZEN = {"still": {"frozen": True}}
SIZE = 7 * 25 + 3 + 2 * 120


def draw(seed, dtype="float32"):
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}


def on_gpu(cp, arrays):
    return {name: cp.asarray(array) for name, array in arrays.items()}


def on_host(cp, arrays):
    return {name: cp.asnumpy(array) for name, array in arrays.items()}


def check_equal(arrays, wanted, **bounds):
    """The same bits, or numbers within bounds."""
    for name, array in arrays.items():
        if bounds:
            np.testing.assert_allclose(array, wanted[name], **bounds)
        else:
            np.testing.assert_array_equal(array, wanted[name], err_msg=name)


def sharded(cp, size, kind, start, grads, **options):
    """Parameters of each rank after all steps, and its optimiser and messages.

    `grads` are those of each step and rank.
    """

    def work(ranks):
        params = on_gpu(cp, start)
        opt = na.mpi.Sharded(kind, params, ranks, **options)
        for of_ranks in grads:
            opt.step(on_gpu(cp, of_ranks[ranks.rank]))
        return on_host(cp, params), opt, ranks.comm.log

    return on_ranks(size, work)


@pytest.mark.parametrize(
    ("size", "dtype", "reduce", "transport", "bucket_bytes"),
    [
        (1, "float32", "mean", "auto", 300),
        (2, "float32", "sum", "host", 300),
        (3, "float64", "mean", "mpi", 300),
        (4, "float32", "sum", "mpi", 2**20),
    ],
)
def test_steps_are_those_of_one_process_with_the_sum_in_order(
    cp, size, dtype, reduce, transport, bucket_bytes
):
    options = {"lr": 0.1, "weight_decay": 0.1, "groups": FROZEN}
    start = draw(0, dtype)
    grads = [[draw(10 * step + rank, dtype) for rank in range(size)] for step in (1, 2)]
    ranks = sharded(
        cp, size, na.AdamW, start, grads,
        reduce=reduce, transport=transport, bucket_bytes=bucket_bytes, **options,
    )  # fmt: skip
    params = on_gpu(cp, start)
    opt = na.AdamW(params, **options)
    for of_ranks in grads:
        total = of_ranks[0]
        for other in of_ranks[1:]:
            total = {name: total[name] + other[name] for name in SHAPES}
        if reduce == "mean":
            total = {name: array / array.dtype.type(size) for name, array in total.items()}
        opt.step(on_gpu(cp, total))
    for found, shard, log in ranks:
        assert (shard.t, shard.transport) == (2, transport.replace("auto", "host"))
        check_equal(found, on_host(cp, params))
        arrays = {array for *_, array in log}
        assert arrays <= {cp.ndarray if transport == "mpi" else np.ndarray}
    states = [shard.state["m"].values() for _, shard, _ in ranks]
    assert sum(m.size for state in states for m in state if m is not None) == SIZE


def test_a_rank_passes_on_twice_its_share(cp):
    """2 (N-1)/N of the bytes of the parameters, which no exchange can undercut."""
    start = {"w": np.zeros(6_400, np.float32)}
    ranks = sharded(cp, 4, na.SGD, start, [[start] * 4], transport="mpi", bucket_bytes=2_560)
    for _, _, log in ranks:
        assert sum(count for _, count, _ in log) == 2 * 3 / 4 * 6_400 * 4


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_pinned_memory_is_used_again_when_it_is_free(cp, dtype):
    """Two exchanges on their way have memory of their own; the host waits once for each copy."""

    def work(ranks):
        sent = cp.arange(5).astype(dtype)
        way, got = Staged(ranks.comm), [cp.zeros(5, dtype) for _ in range(3)]
        emulator.is_running() and emulator.waits()
        first = way.alltoall(Pieces(sent, [0], [5]), Pieces(got[0], [0], [5]))
        assert not emulator.is_running() or emulator.waits() == 1
        second = way.alltoall(Pieces(-sent, [0], [5]), Pieces(got[1], [0], [5]))
        first()
        second()
        assert cp.cuda.get_current_stream().done  # only then is the pinned memory free
        rooms = {id(room) for room in way._free}
        way.alltoall(Pieces(sent, [0], [5]), Pieces(got[2], [0], [5]))()
        assert len(rooms) == 4
        assert {id(room) for room in way._free} == rooms
        for array, wanted in zip(got, (sent, -sent, sent), strict=True):
            cp.testing.assert_array_equal(array, wanted)

    on_ranks(1, work)


def test_own_buffers_and_gradients_in_another_order(cp):
    start, grads = draw(0), draw(1)

    def work(ranks):
        one, two = on_gpu(cp, start), on_gpu(cp, start)
        opt, other = (na.mpi.Sharded(na.SGD, p, ranks, lr=0.5) for p in (one, two))
        for name, buffer in opt.grads.items():
            assert type(buffer) is cp.ndarray
            buffer[...] = cp.asarray(grads[name])
        opt.step()
        other.step({name: cp.asarray(g, order="F") for name, g in grads.items()})
        check_equal(on_host(cp, one), {name: start[name] - grads[name] for name in SHAPES})
        check_equal(on_host(cp, two), on_host(cp, one))

    on_ranks(2, work)


def test_what_is_refused_writes_nothing_on_any_rank(cp):
    start = draw(0)

    def work(ranks):
        params, good = on_gpu(cp, start), on_gpu(cp, draw(1))
        opt = na.mpi.Sharded(na.SGD, params, ranks, lr=0.5, nonfinite="raise")
        bad = {
            r"grads\['b'\]: expected shape": {"b": cp.zeros(4, np.float32)},
            r"grads\['w'\]: expected float32": {"w": cp.zeros((7, 25))},
            r"grads\['b'\]: expected a CuPy array": {"b": np.zeros(3, np.float32)},
            r"grads\['w'\] shares memory with params\['w'\]": {"w": params["w"]},
        }
        for text, grads in bad.items():
            kind = (TypeError, ValueError) if ranks.rank else na.mpi.RankError
            with pytest.raises(kind, match=text):
                opt.step({**good, **grads} if ranks.rank else good)
        infinite = {**good, "last": good["last"] / (1 - ranks.rank)}
        with pytest.raises(FloatingPointError):
            opt.step(infinite)
        check_equal(on_host(cp, params), start)
        opt.step(good)
        assert opt.t == 1

    on_ranks(2, work)


@pytest.mark.parametrize(
    ("make", "options", "text"),
    [
        (lambda cp: cp.ones((3, 4), order="F"), {}, "C order.*cupy.ascontiguous"),
        (lambda cp: cp.ones(3, "i8"), {}, "expected float64"),
        (lambda cp: [cp.ones(3), np.ones(3)], {}, r"params\[1\]"),
        (lambda cp: cp.ones(3), {"transport": "nccl"}, "expected 'auto', 'mpi' or 'host'"),
    ],
)
def test_bad_parameters(cp, make, options, text):
    def work(ranks):
        with pytest.raises((TypeError, ValueError), match=text):
            na.mpi.Sharded(na.SGD, make(cp), ranks, **options)

    on_ranks(2, work)


@pytest.mark.parametrize("clip", ["clip_norm", "clip_array_norm"])
def test_norms_are_those_of_the_sums(cp, clip):
    options = {"lr": 0.1, clip: 0.5}
    start = draw(0, "float64")
    grads = [[draw(10 * step + rank, "float64") for rank in range(3)] for step in (1, 2)]
    ranks = sharded(cp, 3, na.AdamW, start, grads, **options)
    params = {name: array.copy() for name, array in start.items()}
    opt = na.AdamW(params, **options)
    for of_ranks in grads:
        opt.step({name: sum(g[name] for g in of_ranks) for name in SHAPES})
    for found, shard, _ in ranks:
        assert shard.t == 2
        assert shard.grad_norm == ranks[0][1].grad_norm  # the same bits
        np.testing.assert_allclose(shard.grad_norm, opt.grad_norm, rtol=8 * 2.0**-52)
        check_equal(found, ranks[0][0])
        check_equal(found, params, rtol=1e-12)


def test_a_folder_is_read_by_other_ranks_on_the_gpu_and_on_the_host(cp, tmp_path):
    options = {"lr": 0.1, "groups": FROZEN}
    start, grads = draw(0), draw(1)

    def save(ranks):
        params = on_gpu(cp, start)
        opt = na.mpi.Sharded(na.AdamW, params, ranks, **options)
        opt.step(on_gpu(cp, grads))
        opt.save(tmp_path / "run")
        opt.step(on_gpu(cp, grads))
        return on_host(cp, params)

    def load(ranks):
        params = on_gpu(cp, {name: np.zeros_like(array) for name, array in start.items()})
        opt = na.mpi.Sharded(na.AdamW, params, ranks, **options)
        opt.load(tmp_path / "run")
        assert opt.t == 1
        opt.step({name: cp.asarray(g * np.float32(2 / ranks.size)) for name, g in grads.items()})
        return on_host(cp, params)

    wanted, _ = on_ranks(2, save)
    for size in (1, 2, 4):
        for found in on_ranks(size, load):
            check_equal(found, wanted)
    opt = na.load(tmp_path / "run")
    assert type(opt.params["w"]) is np.ndarray
    assert opt.t == 1
