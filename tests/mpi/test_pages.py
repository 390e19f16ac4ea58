"""Programs of the page on ranks: what they say is right on any number of them."""

import os
from pathlib import Path

import numpy as np
from mpi4py import MPI

import numadam as na
from tests.pages import BLOCK

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "mpi.md"
PROGRAMS = [
    code for need, code in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if need == "mpi4py"
]


def run(number, folder):
    """Run a program of the page by itself in a folder; the names that it leaves behind."""
    names, here = {}, Path.cwd()
    os.chdir(folder)
    try:
        exec(compile(PROGRAMS[number], PAGE.name, "exec"), names)
    finally:
        os.chdir(here)
    return names


def test_blocks_have_the_bits_of_one_process_and_go_on(comm, shared_path, tmp_path, monkeypatch):
    found = run(0, shared_path)
    x = np.concatenate(comm.allgather(found["x"]))
    with monkeypatch.context() as patch:
        patch.setattr(MPI, "COMM_WORLD", MPI.COMM_SELF)
        (tmp_path / "alone").mkdir()
        np.testing.assert_array_equal(run(0, tmp_path / "alone")["x"], x)
    assert abs(x - np.sin(2e-4 * np.arange(x.size))).mean() < 0.1  # of noise of 0.2
    files = [shared_path / f"smooth.{rank}-of-{comm.size}.npz" for rank in range(comm.size)]
    np.testing.assert_array_equal(np.concatenate([na.load(file).params for file in files]), x)
    again = run(0, shared_path)  # goes on from its files: nothing is left to do
    assert "g" not in again
    assert again["opt"].t == 150
    np.testing.assert_array_equal(again["x"], found["x"])


def test_parameters_that_all_ranks_have_stay_the_same(comm, shared_path):
    found = run(1, shared_path)
    np.testing.assert_allclose(found["w"], [1, -2, 0.5], atol=1e-3)
    every = comm.allgather(found["w"].tobytes())
    assert every == [found["w"].tobytes()] * comm.size
    np.testing.assert_array_equal(na.load(shared_path / "fit.npz").params, found["w"])


def test_the_program_that_times_both(mpiexec, monkeypatch):
    monkeypatch.setenv("NUMADAM_BENCH_LIMIT", "1000")
    done = mpiexec(2, PAGE.parents[2] / "asv_benchmarks" / "ranks.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" us |") == 2 * 2 * 5  # sizes, times, sides
