"""Checkpoints of N ranks, of optimisers and of minimisations: what fails leaves the old one.

Any number of ranks goes on from that of an optimiser. A minimisation that is cut anywhere and
called again ends with the bits of one that was not.
"""

from __future__ import annotations

import contextlib
import time

import numpy as np
import pytest

import numadam as na
from numadam._checkpoint import container
from numadam._checkpoint import folder as files
from numadam._minimize import checkpoint
from numadam._minimize.ranks import RankCheckpoint
from numadam._mpi import ranks as ranks_module
from tests.campaigns import killed_folders
from tests.checkpoint.blocks import GRADS, SHAPES, START, Block, whole_run
from tests.mpi.problems import Chain, assert_alike, fails_on


@pytest.fixture
def folder(shared_path):
    return shared_path / "run"


def content(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


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


class Blocks(Block):
    """A rank's rows of the arrays, with a ghost row at each side."""

    def __init__(self, comm, **options):
        super().__init__(comm, ghosts=1)
        domain = na.mpi.Decomposition(comm, self.comm.owned, self.comm.offset)
        self.opt = na.Adam(self.of(START), lr=0.1, comm=domain, **options)

    def step(self, k):
        self.run(k, k + 1)

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
    [("blocks", NORM), ("shards", {}), ("shards", NORM), ("shared", {})],
    ids=["blocks-norm", "shards", "shards-norm", "shared"],
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
        assert len(content(shared_path / str(n))) == n + 1
        found = whole_run(6, 3, na.load(shared_path / str(n)))
        for key, array in end.params.items():
            assert found.params[key].tobytes() == array.tobytes()
    comm.Barrier()


@pytest.mark.parametrize("kinds", [(Blocks, Shards), (Shards, Blocks)])
def test_blocks_and_shards_load_each_other(comm, folder, kinds):
    first, second = (kind(comm) for kind in kinds)
    for k in range(3):
        first.step(k)
    first.opt.save(folder)
    second.opt.load(folder)
    second.check(whole_run(3))
    second.step(3)
    second.check(whole_run(4))


def test_a_communicator_alone_and_a_file_of_one_process(comm, shared_path):
    """Where blocks lie is not known: the same ranks load, others are told what to do."""
    block = np.full(3 + comm.rank, 1.0 + comm.rank)
    opt = na.Adam(block, comm=comm)
    opt.save(shared_path / "run")
    before = block.copy()
    opt.step(block.copy())
    opt.load(shared_path / "run")
    assert np.array_equal(block, before)
    assert opt.t == 0
    if comm.size > 1:
        part = comm.Split(comm.rank < 1)
        other = na.Adam(block, comm=part)
        for load in (na.load, other.load):
            with pytest.raises(na.CheckpointError, match=r"Decomposition\(comm, offset"):
                load(shared_path / "run")
        del part
    if comm.rank == 0:
        na.Adam(np.zeros(3)).save(shared_path / "file")
    comm.Barrier()
    with pytest.raises(NotADirectoryError, match=r"is a file of one process.*numadam\.load"):
        opt.load(shared_path / "file")
    assert np.array_equal(block, before)


@pytest.mark.ranks(2)
@pytest.mark.parametrize("kind", ["blocks", "shards"])
def test_a_rank_that_fails_while_others_write(comm, folder, kind, monkeypatch):
    """For longer than a rank that has failed waits anywhere else: all raise, the old one stays."""
    run = KINDS[kind](comm)
    run.opt.save(folder)
    comm.Barrier()
    old, last = content(folder), comm.rank == comm.size - 1
    monkeypatch.setattr(ranks_module, "LEFT_ALONE", 1.0)

    def write(self, *args):
        if last:
            raise OSError(28, "No space left on device")
        time.sleep(1.3)
        return true_write(self, *args)

    true_write = files.NewShard.write
    monkeypatch.setattr(files.NewShard, "write", write)
    run.step(0)
    with fails_on(comm, -1, OSError, "No space left"):
        run.opt.save(folder)
    comm.Barrier()
    assert content(folder) == old
    monkeypatch.undo()
    run.opt.load(folder)
    run.check(whole_run(0))


@pytest.mark.ranks(2)
@pytest.mark.parametrize("call", ["save", "load"])
def test_a_path_that_one_rank_cannot_have_is_refused_on_all(comm, folder, call):
    opt, sinner = Blocks(comm).opt, comm.rank == comm.size - 1
    opt.save(folder)
    for wrong, error, says in ((3, TypeError, "expected str"), ("", ValueError, "path: is empty")):
        with fails_on(comm, -1, error, says):
            getattr(opt, call)(wrong if sinner else folder)


def test_one_rank_is_killed_in_the_middle_of_saves(comm, tmp_path):
    """A short run of `tests/campaigns/killed_folders.py`."""
    if comm.size > 1:
        pytest.skip("starts ranks of its own: runs where there is one rank")
    result = killed_folders.campaign(tmp_path, 2, seed=1)
    assert result.kills == 2


# --- minimisations ------------------------------------------------------------------------------

OPTIONS = {
    "decay": {"lr": na.schedules.Cosine(0.2, steps=40), "amsgrad": True, "xtol": 1e-9},
    "norm": {"clip_norm": 2.0, "bounds": (-0.5, 1.5), "ema": 0.9},
    "seldom": {"check_every": 7, "gtol": 0.0},
}


class Stop(Exception):
    """A cut of a run."""


STOPPED = (Stop, na.mpi.RankError)


@pytest.fixture
def chain(comm, quick_files):
    return Chain(comm, empty=True)


def run(chain, path, stop=None, error=Stop, **options):
    """A run of 30 iterations; on one rank, the evaluation of number `stop` fails."""
    calls = []

    def fun(x):
        calls.append(None)
        found = chain.fun(x)
        if len(calls) == stop and chain.comm.rank == chain.comm.size // 2:
            raise error
        return found

    return chain.run(fun, checkpoint=path, **{"maxiter": 30, **options})


@pytest.mark.parametrize("name", OPTIONS)
def test_cut_anywhere_the_run_is_that_of_one_piece(comm, shared_path, chain, name):
    options = {"checkpoint_every": 4, **OPTIONS[name]}
    whole = chain.alone(maxiter=30, **OPTIONS[name])
    for stop in (1, 8, 15):  # at iterates that are tested: at others the ranks wait in fun
        path = shared_path / str(stop)
        for call in (stop, *range(8, 40, 7)):
            with contextlib.suppress(*STOPPED):
                found = run(chain, path, call, checkpoint_check=False, **options)
                break
        chain.check(found, whole)
        chain.check(run(chain, path, 2, **options), whole)  # evaluates f for the comparison alone
        assert len(content(path)) == comm.size + 1


def local_run(chain, path, share=None, **options):
    """A run whose ranks have shares of f; `share` is what this rank adds instead."""
    options = {"f": "local", "maxiter": 20, "checkpoint": path, **options}
    return chain.run(share or chain.share, **options)


def test_a_changed_share_of_one_rank_is_refused_on_all(comm, folder, chain):
    chain.coupling = 0.0
    first, last = local_run(chain, folder, maxiter=10), comm.rank == comm.size - 1

    def changed(x):
        f, g = chain.share(x)
        return f + 0.1 * last, g

    before = content(folder)
    with pytest.raises(na.CheckpointError, match=r"^fun: the run of .* at iteration 10, got"):
        local_run(chain, folder, changed)
    with pytest.raises(ValueError, match=r"^state: its run has f=.* at its best iterate, got"):
        local_run(chain, None, changed, state=first.state)
    assert content(folder) == before
    comm.Barrier()
    assert local_run(chain, folder, changed, checkpoint_check=False, maxiter=12).nit == 12
    assert local_run(chain, None, state=first.state, maxiter=3).nit == 13


def test_one_rank_that_fails_in_the_comparison_ends_all(comm, folder, chain):
    local_run(chain, folder, maxiter=10)
    before = content(folder)

    def raises(x):
        if comm.rank == comm.size - 1:
            raise Stop
        return chain.share(x)

    with fails_on(comm, -1, Stop) as caught:
        local_run(chain, folder, raises)
    assert caught.value.numadam_result.nit == 10
    comm.Barrier()
    assert content(folder) == before


@pytest.mark.ranks(2)
def test_ranks_that_do_not_agree_on_the_comparison(comm, folder, chain):
    local_run(chain, folder, maxiter=10)
    with pytest.raises(ValueError, match=r"checkpoint_check: is True on rank 0 and False on rank"):
        local_run(chain, folder, checkpoint_check=comm.rank == 0)


def test_it_goes_on_from_where_it_failed(chain, folder, ctrl_c):
    """A failure that all ranks know at one evaluation is written, whatever `checkpoint_every`."""
    with pytest.raises(STOPPED):
        run(chain, folder, 12, checkpoint_every=1000)
    with pytest.raises((KeyboardInterrupt, na.mpi.RankError)):
        run(chain, folder, 5, KeyboardInterrupt, checkpoint_every=1000)
    found = run(chain, folder, checkpoint_every=1000)
    assert (found.nit, found.nfev) == (30, 31)
    np.testing.assert_array_equal(found.history["fun"], chain.alone(maxiter=30).history["fun"])


def test_a_larger_maxiter_goes_on_and_the_clock_is_that_of_rank_0(comm, folder, chain, monkeypatch):
    written, put = [], RankCheckpoint._put

    def count(self, content):
        written.append(None)
        put(self, content)

    monkeypatch.setattr(checkpoint, "_SECONDS", 0.0 if comm.rank == 0 else 1e9)
    monkeypatch.setattr(checkpoint, "_SHARE", 1e9)
    monkeypatch.setattr(RankCheckpoint, "_put", count)
    run(chain, folder, maxiter=5)
    assert comm.allgather(len(written)) == [6] * comm.size  # of each iterate, and the end
    chain.check(run(chain, folder), chain.alone(maxiter=30))


def test_a_callback_of_one_rank_is_asked_again(comm, folder, chain):
    asked = []

    def until(last):
        def callback(intermediate_result):
            asked.append(intermediate_result.nit)
            if intermediate_result.nit == last:
                raise StopIteration

        return callback if comm.rank == comm.size - 1 else None

    for last, nit in ((4, 4), (4, 4), (9, 9), (99, 30)):
        found = run(chain, folder, callback=until(last))
        assert (found.nit, found.status) == (nit, 99 if last < 99 else 1)
        assert_alike(comm, found)
    if asked:
        assert asked == [1, 2, 3, 4, 4, *range(4, 10), *range(9, 31)]


def test_a_write_that_fails_on_one_rank(comm, folder, chain, monkeypatch):
    run(chain, folder, maxiter=10)
    before, sync, last = content(folder), container.sync, comm.rank == comm.size - 1
    comm.Barrier()

    def full(*args):
        if last:
            raise OSError(28, "No space left on device")
        sync(*args)

    with monkeypatch.context() as patch:
        patch.setattr(container, "sync", full)
        with fails_on(comm, -1, OSError) as caught:
            run(chain, folder, maxiter=20, checkpoint_every=5)
        assert caught.value.numadam_result.nit == 15
        comm.Barrier()
    assert content(folder) == before
    comm.Barrier()
    assert run(chain, folder, maxiter=20).nit == 20


def test_what_does_not_go_together(comm, shared_path, folder, chain):
    state = run(chain, folder, maxiter=3).state
    (shared_path / "file").touch()
    for path, options, error, text in (
        (folder, {"lr": 0.5}, (na.CheckpointError, na.mpi.RankError), "lr: the run has"),
        (folder, {"state": state}, ValueError, "state: the run goes on from the file"),
        (None, {"checkpoint_every": 3}, ValueError, "checkpoint_every: goes with checkpoint"),
        ("", {}, ValueError, "checkpoint: is empty"),
        (shared_path / "file", {}, OSError, "several ranks write into a folder"),
        (shared_path / "none" / "run", {}, FileNotFoundError, "there is no folder"),
    ):
        with pytest.raises(error, match=text):
            run(chain, path, **options)
    with pytest.raises(OSError, match="is a folder"):
        chain.alone(checkpoint=folder)
    chain.x0 = chain.x0 + (comm.rank == 0)
    with pytest.raises((na.CheckpointError, na.mpi.RankError), match="x0: the run has other"):
        run(chain, folder)


@pytest.mark.ranks(2)
def test_other_numbers_of_ranks_and_one_rank_without(comm, folder, chain):
    run(chain, folder, maxiter=3)
    part = comm.Split(comm.rank == 0)
    text = f"is the run of {comm.size} ranks, and here (is|are) {part.size}"
    with pytest.raises(na.CheckpointError, match=text):
        run(Chain(part, empty=True), folder, maxiter=3)
    part.Free()
    with pytest.raises(ValueError, match="checkpoint: is given on some ranks only"):
        run(chain, folder if comm.rank == 0 else None)
