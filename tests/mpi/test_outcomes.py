"""Tests on several ranks have one outcome: the worst, told once by rank 0."""

import os

import pytest

FAILING = """
import pytest

@pytest.fixture
def broken(comm):
    if comm.rank == 1:
        raise ValueError("no such thing")

def test_right(comm):
    assert comm.allreduce(1) == comm.size

def test_wrong_on_one(comm):
    assert comm.rank != 1

def test_left_out_on_one(comm):
    if comm.rank == 0:
        pytest.skip("not here")

def test_never_begins(broken, comm):
    comm.Barrier()

def test_goes_on(shared_path, comm):
    assert comm.allgather(str(shared_path)) == [str(shared_path)] * comm.size
"""
ALONE = """
from tests.mpi import conftest

conftest.PATIENCE = 1.0

def test_leaves_the_others(comm):
    if comm.rank == 1:
        raise ValueError("gone")
    comm.Barrier()
"""


@pytest.fixture
def outcome(mpiexec, tmp_path):
    """A function that runs a file of tests on two ranks."""

    def run(code):
        path = tmp_path / "test_it.py"
        path.write_text(code, encoding="utf-8")
        options = ("-n0", "-q", "-c", os.devnull, "-p", "tests.mpi.conftest")
        return mpiexec(2, "-m", "pytest", *options, path)

    return run


def test_what_fails_on_one_rank_fails_and_is_told_once(outcome):
    done = outcome(FAILING)
    assert done.returncode
    assert "2 failed, 2 passed, 1 error" in done.stdout
    told = done.stdout.partition("short test summary info")[0]  # which repeats it where CI is set
    assert told.count("ValueError: no such thing") == 1
    assert "rank 1: failed\ncomm = " in done.stdout.partition("test_wrong_on_one __")[2]
    assert "rank 1: passed" in done.stdout.partition("test_left_out_on_one __")[2]


def test_a_rank_that_leaves_the_others_in_a_call_ends_them(outcome):
    done = outcome(ALONE)
    assert done.returncode
    assert "rank 1, alone, and so all ranks end:" in done.stderr
    assert done.stderr.count("ValueError: gone") == 1
