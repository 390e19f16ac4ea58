"""Runs over blocks with a folder: cut anywhere and called again, they end with the same bits."""

import contextlib
import os
import signal

import numpy as np
import pytest

import numadam as na
from numadam._checkpoint import container
from numadam._minimize.ranks.meetings import RankCheckpoint
from tests.mpi.blocks import Chain, assert_alike, assert_same_run, cut

OPTIONS = {
    "decay": {"lr": na.schedules.Cosine(0.2, steps=40), "amsgrad": True, "xtol": 1e-9},
    "norm": {"lr": 0.1, "clip_norm": 2.0, "bounds": (-0.5, 1.5), "ema": 0.9},
    "seldom": {"lr": 0.1, "check_every": 7, "gtol": 0.0},
}


@pytest.fixture(autouse=True)
def quick_files(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Stop(Exception):
    """A cut of a run."""


def run(comm, path, stop=None, error=Stop, **options):
    """A run of 30 iterations; on one rank, the evaluation of number `stop` fails."""
    problem, calls = Chain(), []
    part = cut(comm, problem.n, empty=True)
    block = problem.block(comm, part)

    def fun(x):
        calls.append(None)
        found = block(x)
        if stop is not None and len(calls) == stop and comm.rank == comm.size // 2:
            raise error
        return found

    options = {"jac": True, "comm": comm, "maxiter": 30, **options}
    return na.minimize(fun, problem.start[part], checkpoint=path, **options)


@pytest.mark.parametrize("name", OPTIONS)
def test_cut_anywhere_the_run_is_that_of_one_piece(comm, shared_path, name):
    problem, options = Chain(), OPTIONS[name]
    part = cut(comm, problem.n, empty=True)
    whole = na.minimize(problem.whole, problem.start, jac=True, maxiter=30, **options)
    for stop in (1, 8, 15):  # at iterates that are tested: at others the ranks wait in fun
        folder = shared_path / str(stop)
        for call in (stop, *range(8, 40, 7)):
            with contextlib.suppress(Stop, na.mpi.RankError):
                found = run(comm, folder, call, checkpoint_every=4, **options)
                break
        assert_same_run(found, whole, part)
        assert_alike(comm, found)
        again = run(comm, folder, 1, checkpoint_every=4, **options)  # evaluates nothing
        assert_same_run(again, whole, part)
        assert len(list(folder.iterdir())) == comm.size + 1


def test_it_goes_on_from_where_it_failed(comm, shared_path):
    """A failure that all ranks know at one evaluation is written, whatever `checkpoint_every`."""
    with pytest.raises((Stop, na.mpi.RankError)):
        run(comm, shared_path / "run", 12, checkpoint_every=1000)
    found = run(comm, shared_path / "run", checkpoint_every=1000)
    assert (found.nit, found.nfev) == (30, 31)
    history = run(comm, shared_path / "whole").history
    np.testing.assert_array_equal(found.history["fun"], history["fun"])


def test_ctrl_c_on_one_rank(comm, shared_path, ctrl_c):
    with pytest.raises((KeyboardInterrupt, na.mpi.RankError)):
        run(comm, shared_path / "run", 5, KeyboardInterrupt)
    assert run(comm, shared_path / "run").nit == 30


def test_a_larger_maxiter_goes_on_and_the_clock_is_that_of_rank_0(comm, shared_path, monkeypatch):
    from numadam._minimize import checkpoint

    written = []
    monkeypatch.setattr(checkpoint, "_SECONDS", 0.0 if comm.rank == 0 else 1e9)
    monkeypatch.setattr(checkpoint, "_SHARE", 1e9)
    put = RankCheckpoint._put
    monkeypatch.setattr(
        RankCheckpoint,
        "_put",
        lambda self, content: (written.append(None), put(self, content)),
    )
    run(comm, shared_path / "run", maxiter=5)
    assert comm.allgather(len(written)) == [6] * comm.size  # of each iterate, and the end
    found = run(comm, shared_path / "run", maxiter=30)
    monkeypatch.undo()
    whole = run(comm, shared_path / "whole")
    np.testing.assert_array_equal(found.x, whole.x)


def test_a_callback_of_one_rank_is_asked_again(comm, shared_path):
    asked = []

    def until(last):
        def callback(intermediate_result):
            asked.append(intermediate_result.nit)
            if intermediate_result.nit == last:
                raise StopIteration

        return callback if comm.rank == comm.size - 1 else None

    for last, nit in ((4, 4), (4, 4), (9, 9), (99, 30)):
        found = run(comm, shared_path / "run", callback=until(last))
        assert (found.nit, found.status) == (nit, 99 if last < 99 else 1)
        assert_alike(comm, found)
    if asked:
        assert asked == [1, 2, 3, 4, 4, *range(4, 10), *range(9, 31)]


def test_a_write_that_fails_on_one_rank(comm, shared_path, monkeypatch):
    run(comm, shared_path / "run", maxiter=10)
    before = {one.name: one.read_bytes() for one in (shared_path / "run").iterdir()}
    comm.Barrier()
    sync, last = container.sync, comm.rank == comm.size - 1

    def full(*args):
        if last:
            raise OSError(28, "No space left on device")
        sync(*args)

    monkeypatch.setattr(container, "sync", full)
    with pytest.raises(OSError if last else na.mpi.RankError) as caught:
        run(comm, shared_path / "run", maxiter=20, checkpoint_every=5)
    assert caught.value.numadam_result.nit == 15
    comm.Barrier()
    assert {one.name: one.read_bytes() for one in (shared_path / "run").iterdir()} == before
    monkeypatch.undo()
    comm.Barrier()
    assert run(comm, shared_path / "run", maxiter=20).nit == 20


def test_what_does_not_go_together(comm, shared_path):
    folder = shared_path / "run"
    run(comm, folder, maxiter=3)
    with pytest.raises((na.CheckpointError, na.mpi.RankError), match="lr: the run has"):
        run(comm, folder, lr=0.5)
    with pytest.raises((na.CheckpointError, na.mpi.RankError), match="x0: the run has other"):
        na.minimize(
            lambda x: (0.0, x),
            np.ones_like(Chain().start[cut(comm, 23, empty=True)]) + (comm.rank == 0),
            jac=True,
            comm=comm,
            checkpoint=folder,
        )
    state = run(comm, None, maxiter=3).state
    with pytest.raises(ValueError, match="state: the run goes on from the file"):
        run(comm, folder, state=state)
    with pytest.raises(ValueError, match="checkpoint_every: goes with checkpoint"):
        run(comm, None, checkpoint_every=3)
    with pytest.raises(OSError, match="is a folder"):
        na.minimize(lambda x: (0.0, x), np.ones(3), jac=True, checkpoint=folder)
    (shared_path / "file").touch()
    with pytest.raises(OSError, match="several ranks write into a folder"):
        run(comm, shared_path / "file")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        run(comm, shared_path / "none" / "run")


@pytest.mark.ranks(2)
def test_other_numbers_of_ranks_and_one_rank_without(comm, shared_path):
    run(comm, shared_path / "run", maxiter=3)
    part = comm.Split(comm.rank == 0)
    text = f"is the run of {comm.size} ranks, and here (is|are) {part.size}"
    with pytest.raises(na.CheckpointError, match=text):
        run(part, shared_path / "run", maxiter=3)
    part.Free()
    with pytest.raises(ValueError, match="checkpoint: is given on some ranks only"):
        run(comm, shared_path / "run" if comm.rank == 0 else None)


KILLED = """
import os, signal, sys
import numpy as np
from mpi4py import MPI
import numadam as na

comm = MPI.COMM_WORLD
calls = []

def fun(x):
    calls.append(None)
    if len(sys.argv) > 2 and len(calls) == int(sys.argv[2]) and comm.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return float(x @ x), 2 * x

found = na.minimize(
    fun, np.arange(1.0, 5.0) + 4 * comm.rank, jac=True, comm=comm, f="local", maxiter=40,
    gtol_rel=0.0, checkpoint=sys.argv[1], checkpoint_every=1,
)
if comm.rank == 0:
    print(found.nit, found.nfev, found.fun.hex())
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_killed_rank(mpiexec, tmp_path):
    def fun(x):
        return float(x[:4] @ x[:4]) + float(x[4:] @ x[4:]), 2 * x

    whole = na.minimize(fun, np.arange(1.0, 9.0), jac=True, maxiter=40, gtol_rel=0.0)
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    assert mpiexec(2, script, tmp_path / "run", 15).returncode != 0
    nit, nfev, value = mpiexec(2, script, tmp_path / "run").stdout.split()
    assert (int(nit), value) == (whole.nit, whole.fun.hex())
    assert int(nfev) == whole.nfev == 41


def test_an_empty_name_is_not_the_current_folder(comm):
    with pytest.raises(ValueError, match="checkpoint: is empty"):
        na.minimize(lambda x: (x @ x, 2 * x), np.ones(3), jac=True, comm=comm, checkpoint="")
