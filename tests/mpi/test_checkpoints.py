"""Checkpoints of N ranks: any number of ranks goes on from them, and what fails leaves the old."""

from __future__ import annotations

import time

import numpy as np
import pytest

import numadam as na
from numadam._checkpoint import folder as files
from numadam._mpi import ranks as ranks_module
from tests.campaigns import killed_folders

SHAPES = {"w": (9, 5), "b": (270,)}
RNG = np.random.default_rng(3)
START = {key: RNG.normal(size=shape) for key, shape in SHAPES.items()}
GRADS = [{key: RNG.normal(size=shape) for key, shape in SHAPES.items()} for _ in range(6)]


def whole_run(steps, first=0, opt=None, **options):
    """The optimiser of one process, after so many steps."""
    opt = opt or na.Adam({key: a.copy() for key, a in START.items()}, lr=0.1, **options)
    for grads in GRADS[first:steps]:
        opt.step(grads)
    return opt


def sizes(comm):
    """Numbers of ranks that a run tries: all pairs of them with four ranks, else only its own."""
    return range(1, 5) if comm.size == 4 else [comm.size]


def by_size(comm, work):
    """``work(part)`` on the first of all ranks, one number of them after the other."""
    for size in sizes(comm):
        part = comm.Split(comm.rank < size, comm.rank)
        if comm.rank < size:
            work(part)
        comm.Barrier()
        del part


class Blocks:
    """A rank's rows of the arrays, with a ghost row at each side."""

    def __init__(self, comm, **options):
        spans, owned = {}, {}
        for key, (n, *_) in SHAPES.items():
            low, high = n * comm.rank // comm.size, n * (comm.rank + 1) // comm.size
            spans[key] = slice(max(low - 1, 0), min(high + 1, n))
            mask = np.zeros(SHAPES[key], bool)
            mask[low:high] = True
            owned[key] = mask[spans[key]]
        offset = {"w": (spans["w"].start, 0), "b": (spans["b"].start,)}
        self.spans, self.decomposition = spans, na.mpi.Decomposition(comm, owned, offset)
        self.opt = na.Adam(self.of(START), lr=0.1, comm=self.decomposition, **options)

    def of(self, whole):
        return {key: whole[key][rows].copy() for key, rows in self.spans.items()}

    def step(self, k):
        self.opt.step(self.of(GRADS[k]))

    def check(self, whole):
        assert self.opt.t == whole.t
        for key, rows in self.of(whole.params).items():
            assert self.opt.params[key].tobytes() == rows.tobytes()


class Shards:
    """All of the arrays on each rank, and a share of the gradient."""

    def __init__(self, comm, shared=False, **options):
        make = np.copy
        if shared:

            def make(whole):
                array = na.mpi.shared_array(comm, whole.shape)
                array[...] = whole
                comm.Barrier()
                return array

        self.rank, self.params = comm.rank, {key: make(a) for key, a in START.items()}
        self.opt = na.mpi.Sharded(na.Adam, self.params, comm, lr=0.1, **options)

    def step(self, k):
        zeros = {key: np.zeros(shape) for key, shape in SHAPES.items()}
        self.opt.step(GRADS[k] if self.rank == 0 else zeros)

    def check(self, whole):
        assert self.opt.t == whole.t
        for key, array in whole.params.items():
            assert self.params[key].tobytes() == array.tobytes()


NORM = {"clip_norm": 3.0}
KINDS = {
    "blocks": Blocks,
    "shards": Shards,
    "shared": lambda comm, **options: Shards(comm, True, **options),
}


@pytest.mark.parametrize(
    ("kind", "options"),
    [("blocks", {}), ("blocks", NORM), ("shards", {}), ("shards", NORM), ("shared", {})],
    ids=["blocks", "blocks-norm", "shards", "shards-norm", "shared"],
)
def test_any_number_of_ranks_goes_on_from_any_other(comm, shared_path, kind, options):
    """With the bits of the run that was not interrupted."""
    make = KINDS[kind]
    middle, end = whole_run(3, **options), whole_run(6, **options)

    def save(part):
        run = make(part, **options)
        for k in range(3):
            run.step(k)
        run.opt.save(shared_path / str(part.size))

    def resume(part):
        for n in sizes(comm):
            run = make(part, **options)
            run.opt.load(shared_path / str(n))
            run.check(middle)
            for k in range(3, 6):
                run.step(k)
            run.check(end)

    by_size(comm, save)
    by_size(comm, resume)
    for n in sizes(comm):
        assert len(list((shared_path / str(n)).iterdir())) == n + 1
        found = whole_run(6, 3, na.load(shared_path / str(n)))
        into = whole_run(0, **options)
        into.load(shared_path / str(n))
        for opt in (found, whole_run(6, 3, into)):
            for key, array in end.params.items():
                assert opt.params[key].tobytes() == array.tobytes()
    comm.Barrier()


@pytest.mark.parametrize("first", ["blocks", "shards"])
def test_blocks_and_shards_load_each_other(comm, shared_path, first):
    one, other = Blocks(comm), Shards(comm)
    if first == "shards":
        one, other = other, one
    for k in range(3):
        one.step(k)
    one.opt.save(shared_path / "run")
    other.opt.load(shared_path / "run")
    other.check(whole_run(3))
    other.step(3)
    other.check(whole_run(4))


def test_communicator_alone(comm, shared_path):
    """Where blocks lie is not known: the same ranks load, others are told what to do."""
    block = np.full(3 + comm.rank, 1.0 + comm.rank)
    opt = na.Adam(block, comm=comm)
    opt.step(block.copy())
    opt.save(shared_path / "run")
    after = block.copy()
    opt.step(block.copy())
    opt.load(shared_path / "run")
    assert np.array_equal(block, after)
    assert opt.t == 1
    if comm.size > 1:
        with pytest.raises(na.CheckpointError, match=r"Decomposition\(comm, offset"):
            na.load(shared_path / "run")
        part = comm.Split(comm.rank < 1)
        other = na.Adam(block, comm=part)
        with pytest.raises(na.CheckpointError, match=r"Decomposition\(comm, offset"):
            other.load(shared_path / "run")
        assert np.array_equal(block, after)
        del part
    else:
        assert np.array_equal(na.load(shared_path / "run").params, after)


def content(path):
    return {one.name: one.read_bytes() for one in path.iterdir()}


@pytest.mark.ranks(2)
@pytest.mark.parametrize("kind", ["blocks", "shards"])
def test_a_rank_that_fails_while_others_write(comm, shared_path, kind, monkeypatch):
    """For longer than a rank that has failed waits anywhere else: all raise, the old one stays."""
    path = shared_path / "run"
    run = KINDS[kind](comm)
    run.opt.save(path)
    comm.Barrier()
    old = content(path)
    monkeypatch.setattr(ranks_module, "LEFT_ALONE", 1.0)

    def write(self, *args):
        if comm.rank == comm.size - 1:
            raise OSError(28, "No space left on device")
        time.sleep(1.3)
        return true_write(self, *args)

    true_write = files.NewShard.write
    monkeypatch.setattr(files.NewShard, "write", write)
    run.step(0)
    kind_of_error = OSError if comm.rank == comm.size - 1 else na.mpi.RankError
    with pytest.raises(kind_of_error, match="No space left"):
        run.opt.save(path)
    comm.Barrier()
    assert content(path) == old
    monkeypatch.undo()
    run.opt.load(path)
    run.check(whole_run(0))


@pytest.mark.ranks(2)
@pytest.mark.parametrize("kind", ["blocks", "shards"])
def test_a_damaged_shard_changes_no_rank(comm, shared_path, kind):
    path = shared_path / "run"
    run = KINDS[kind](comm)
    run.opt.save(path)
    run.step(0)
    if comm.rank == 0:
        shard = next(one for one in path.iterdir() if one.name.endswith("-1.safetensors"))
        damaged = bytearray(shard.read_bytes())
        damaged[-1] ^= 1
        shard.write_bytes(damaged)
    comm.Barrier()
    with pytest.raises(na.CheckpointError if comm.rank == 1 else na.mpi.RankError, match="damaged"):
        run.opt.load(path)
    run.check(whole_run(1))


@pytest.mark.ranks(2)
@pytest.mark.parametrize("call", ["save", "load"])
def test_a_path_that_one_rank_cannot_have_is_refused_on_all(comm, shared_path, call):
    opt, sinner = Blocks(comm).opt, comm.rank == comm.size - 1
    opt.save(shared_path / "run")
    for wrong, error, says in ((3, TypeError, "expected str"), ("", ValueError, "path: is empty")):
        with pytest.raises(error if sinner else na.mpi.RankError, match=says):
            getattr(opt, call)(wrong if sinner else shared_path / "run")


@pytest.mark.ranks(2)
def test_ranks_that_differ_save_nothing(comm, shared_path):
    run = Blocks(comm)
    if comm.rank == 1:
        run.opt.lr = 0.2
    with pytest.raises(ValueError, match="save: not the same on rank 0 and rank 1: lr"):
        run.opt.save(shared_path / "run")
    comm.Barrier()
    assert not (shared_path / "run").exists()


def test_one_rank_is_killed_in_the_middle_of_saves(comm, tmp_path):
    """A short run of `tests/campaigns/killed_folders.py`."""
    if comm.size > 1:
        pytest.skip("starts ranks of its own: runs where there is one rank")
    result = killed_folders.campaign(tmp_path, 4, seed=1)
    assert result.kills == 4


def test_a_file_of_one_process_is_no_folder(comm, shared_path):
    path = shared_path / "one.safetensors"
    if comm.rank == 0:
        na.SGD(np.zeros(3)).save(path)
    comm.Barrier()
    opt = na.SGD(np.zeros(3), comm=comm)
    with pytest.raises(NotADirectoryError, match=r"is a file of one process.*numadam\.load"):
        opt.load(path)
