"""Checkpoints of blocks on ranks of MPI; what they hold is tested on threads.

See `tests/checkpoint/test_rank_files.py`.
"""

import time

import numpy as np
import pytest

import numadam as na
from numadam._checkpoint import container
from numadam._mpi import ranks as ranks_module
from tests.mpi.problems import fails_on


@pytest.fixture
def path(shared_path):
    return shared_path / "run.npz"


def make(comm):
    return na.Adam(np.full(3 + comm.rank, 1.0), clip_norm=1.0, comm=comm)


def run(opt, steps):
    for _ in range(steps):
        opt.step(np.cos(opt.params))


def test_the_same_number_of_ranks_goes_on_with_the_same_bits(comm, path):
    opt, again = make(comm), make(comm)
    run(opt, 3)
    opt.save(path)
    again.load(path)
    run(opt, 3)
    run(again, 3)
    assert (again.t, again.params.tobytes()) == (6, opt.params.tobytes())
    opt.save(path)  # takes the place of the first
    again.load(path)
    assert again.t == 6
    comm.Barrier()
    assert len([*path.parent.iterdir()]) == comm.size


@pytest.mark.ranks(2)
def test_a_rank_that_fails_while_others_write(comm, path, monkeypatch):
    """For longer than a rank that has failed waits anywhere else: all raise, the old one stays."""
    opt, last = make(comm), comm.rank == comm.size - 1
    opt.save(path)
    monkeypatch.setattr(ranks_module, "LEFT_ALONE", 1.0)

    def write(*args, real=container.write):
        if last:
            raise OSError(28, "No space left on device")
        time.sleep(1.3)
        real(*args)

    run(opt, 1)
    with monkeypatch.context() as patch:
        patch.setattr(container, "write", write)
        with fails_on(comm, -1, OSError, "No space left"):
            opt.save(path)
    comm.Barrier()
    assert len([*path.parent.iterdir()]) == comm.size
    opt.load(path)
    assert opt.t == 0
