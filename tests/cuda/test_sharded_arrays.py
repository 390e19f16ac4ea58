"""`Sharded` over CuPy arrays, in the simulator: ranks are threads."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from numadam._mpi import decomposition
from tests.cuda.ranks import on_ranks

pytestmark = pytest.mark.mpi


@pytest.fixture(autouse=True)
def _any_comm(monkeypatch):
    """A communicator is the ranks that are threads."""
    from numadam.mpi import sharded

    for module in (decomposition, sharded):
        monkeypatch.setattr(module, "ranks_of", lambda comm: comm)


SHAPES = {"w": (7, 5), "b": (3,), "still": (4,), "last": (2, 20)}


def draw(seed, dtype):
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}


def on_gpu(cupy, arrays):
    return {name: cupy.asarray(array) for name, array in arrays.items()}


def stepped(cupy, size, start, grads, **options):
    """Parameters after all steps of each rank, with the gradients of each step and rank."""

    def work(ranks):
        params = on_gpu(cupy, start)
        opt = na.mpi.Sharded(na.AdamW, params, ranks, **options)
        for of_ranks in grads:
            opt.step(on_gpu(cupy, of_ranks[ranks.rank]))
        held = sum(np.asarray(one).size for one in opt.state["m"].values() if one is not None)
        return {name: np.array(one) for name, one in params.items()}, opt.t, opt.transport, held

    return on_ranks(size, work)[0]


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps_are_those_of_one_process_with_the_sum_in_order(cupy, dtype, size, reduce):
    options = {"lr": 0.1, "weight_decay": 0.1, "groups": {"still": {"frozen": True}}}
    start = draw(0, dtype)
    grads = [[draw(10 * step + rank, dtype) for rank in range(size)] for step in (1, 2)]
    ranks = stepped(cupy, size, start, grads, reduce=reduce, bucket_bytes=300, **options)
    params = on_gpu(cupy, start)
    opt = na.AdamW(params, **options)
    for of_ranks in grads:
        total = {name: of_ranks[0][name].copy() for name in SHAPES}
        for one in of_ranks[1:]:
            total = {name: total[name] + one[name] for name in SHAPES}
        if reduce == "mean":
            total = {name: one / one.dtype.type(size) for name, one in total.items()}
        opt.step(on_gpu(cupy, total))
    for found, t, transport, _ in ranks:
        assert (t, transport) == (2, "host")
        for name, one in found.items():
            np.testing.assert_array_equal(one, params[name], err_msg=name)
    assert sum(rank[3] for rank in ranks) == 35 + 3 + 40


def test_own_buffers_and_gradients_in_another_order(cupy):
    start, grads = draw(0, "float32"), draw(1, "float32")

    def work(ranks):
        one, two = on_gpu(cupy, start), on_gpu(cupy, start)
        opt, other = (na.mpi.Sharded(na.SGD, p, ranks, lr=0.5) for p in (one, two))
        for name, buffer in opt.grads.items():
            assert type(buffer) is cupy.ndarray
            buffer[...] = cupy.asarray(grads[name])
        opt.step()
        other.step({name: cupy.asarray(g, order="F") for name, g in grads.items()})
        for name, p in one.items():
            np.testing.assert_array_equal(p, start[name] - np.float32(0.5) * 2 * grads[name])
            np.testing.assert_array_equal(p, two[name])

    on_ranks(2, work)


def test_what_is_refused_writes_nothing_on_any_rank(cupy):
    start = draw(0, "float32")

    def work(ranks):
        params = on_gpu(cupy, start)
        opt = na.mpi.Sharded(na.SGD, params, ranks, lr=0.5)
        good = on_gpu(cupy, draw(1, "float32"))
        bad = {
            r"grads\['b'\]: expected shape": {**good, "b": cupy.zeros(4, np.float32)},
            r"grads\['w'\]: expected float32": {**good, "w": cupy.zeros((7, 5))},
            r"grads\['b'\]: expected a CuPy array": {**good, "b": np.zeros(3, np.float32)},
            r"grads\['w'\] shares memory with params\['w'\]": {**good, "w": params["w"]},
        }
        for text, grads in bad.items():
            kind = (TypeError, ValueError) if ranks.rank else na.mpi.RankError
            with pytest.raises(kind, match=text):
                opt.step(grads if ranks.rank else good)
        for name, p in params.items():
            np.testing.assert_array_equal(p, start[name])
        assert opt.t == 0

    on_ranks(2, work)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda cupy: cupy.asarray(np.ones((3, 4)), order="F"), "C order.*cupy.ascontiguous"),
        (lambda cupy: cupy.ones(3, "i8"), "expected float64"),
        (lambda cupy: [cupy.ones(3), np.ones(3)], r"params\[1\]"),
    ],
)
def test_bad_parameters(cupy, make, text):
    def work(ranks):
        with pytest.raises((TypeError, ValueError), match=text):
            na.mpi.Sharded(na.SGD, make(cupy), ranks)

    on_ranks(2, work)


def test_a_way_that_is_not_there(cupy):
    def work(ranks):
        with pytest.raises(ValueError, match="got 'nccl', but CuPy finds no NCCL on rank 0"):
            na.mpi.Sharded(na.SGD, cupy.ones(3), ranks, transport="nccl")

    on_ranks(2, work)


@pytest.mark.parametrize("clip", ["clip_norm", "clip_array_norm"])
def test_norms_are_those_of_the_sums(cupy, clip):
    options = {"lr": 0.1, clip: 0.5, "accumulate": 2}
    start = draw(0, "float64")
    grads = [[draw(10 * step + rank, "float64") for rank in range(3)] for step in (1, 2)]

    def work(ranks):
        params = on_gpu(cupy, start)
        opt = na.mpi.Sharded(na.AdamW, params, ranks, **options)
        for of_ranks in grads:
            opt.step(on_gpu(cupy, of_ranks[ranks.rank]))
        assert opt.t == 1
        return opt.grad_norm, {name: np.array(one) for name, one in params.items()}

    ranks, _ = on_ranks(3, work)
    params = {name: np.array(one) for name, one in start.items()}
    opt = na.AdamW(params, **options)
    for of_ranks in grads:
        opt.step({name: sum(one[name] for one in of_ranks) for name in SHAPES})
    for norm, found in ranks:
        assert norm == ranks[0][0]  # the same bits
        np.testing.assert_allclose(norm, opt.grad_norm, rtol=8 * 2.0**-52)
        for name, one in found.items():
            np.testing.assert_array_equal(one, ranks[0][1][name])
            np.testing.assert_allclose(one, params[name], rtol=1e-12)


def test_a_gradient_that_is_not_finite_stops_all_ranks(cupy):
    start = draw(0, "float32")

    def work(ranks):
        params = on_gpu(cupy, start)
        opt = na.mpi.Sharded(na.SGD, params, ranks, lr=0.5, nonfinite="raise")
        grads = on_gpu(cupy, draw(1, "float32"))
        grads["last"][0, 0] = np.nan if ranks.rank == 1 else 1.0
        with pytest.raises(FloatingPointError):
            opt.step(grads)
        for name, one in params.items():
            np.testing.assert_array_equal(one, start[name])
        grads["last"][0, 0] = 1.0
        opt.step(grads)
        assert opt.t == 1

    on_ranks(2, work)


def test_a_folder_is_read_by_other_ranks_on_the_gpu_and_on_the_host(cupy, monkeypatch, tmp_path):
    options = {"lr": 0.1, "groups": {"still": {"frozen": True}}}
    start, grads = draw(0, "float32"), draw(1, "float32")

    def save(ranks):
        params = on_gpu(cupy, start)
        opt = na.mpi.Sharded(na.AdamW, params, ranks, **options)
        opt.step(on_gpu(cupy, grads))
        opt.save(tmp_path / "run")
        opt.step(on_gpu(cupy, grads))
        return {name: np.array(one) for name, one in params.items()}

    def strict(self, key, value):
        """CuPy takes no NumPy array into its own."""
        assert type(value) is not np.ndarray or value.ndim == 0
        set_item(self, key, value)

    def load(ranks):
        params = on_gpu(cupy, {name: np.zeros_like(one) for name, one in start.items()})
        opt = na.mpi.Sharded(na.AdamW, params, ranks, **options)
        opt.load(tmp_path / "run")
        assert opt.t == 1
        opt.step({name: cupy.asarray(2 / np.float32(ranks.size) * g) for name, g in grads.items()})
        return {name: np.array(one) for name, one in params.items()}

    set_item = cupy.ndarray.__setitem__
    (wanted, _), _ = on_ranks(2, save)
    # once and not in each thread: they would undo each other's
    monkeypatch.setattr(cupy.ndarray, "__setitem__", strict)
    for size in (1, 2, 4):
        for found in on_ranks(size, load)[0]:
            for name, one in found.items():
                np.testing.assert_array_equal(one, wanted[name], err_msg=name)
    opt = na.load(tmp_path / "run")
    assert type(opt.params["w"]) is np.ndarray
    assert opt.t == 1
