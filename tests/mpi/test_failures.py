"""A rank that fails ends the program on all ranks, and another number of ranks goes on.

The programs run in ranks of their own: ``mpiexec -n 3 python -m mpi4py program.py``.
"""

import numpy as np
import pytest

import numadam as na

STEPS, SAVES, FAILS = 30, 5, 12
WHOLE = np.linspace(-1.0, 2.0, 101)

PROGRAM = """
import os, signal, sys, time
import numpy as np
from mpi4py import MPI
import numadam as na
from numadam._mpi import ranks

ranks.LEFT_ALONE = 1.0  # before it is read

how, folder = sys.argv[1:]
comm = MPI.COMM_WORLD
whole = np.linspace(-1.0, 2.0, 101)
first, last = (len(whole) * rank // comm.size for rank in (comm.rank, comm.rank + 1))
x = np.zeros(last - first)
blocks = na.mpi.Decomposition(comm, offset=(first,))
opt = na.Adam(x, lr=0.1, clip_norm=1.0, comm=blocks)
if os.path.exists(folder):
    opt.load(folder)
while opt.t < 30:
    g = 2 * (x - whole[first:last])
    if opt.t == 12 and comm.rank == comm.size - 1:
        if how == "raise":
            raise ValueError("diverged")
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "exit":
            sys.exit("given up")
        if how in ("refuse", "alone"):
            g = g[:-1]
    if opt.t == 12 and how == "alone" and comm.rank == 0:
        time.sleep(600)
    opt.step(g)
    if opt.t % 5 == 0:
        opt.save(folder)
print("rank", comm.rank, "ends at", opt.t)
"""

#: What a rank does, and what is told of it: once, in the words of the rank that failed.
FAILURES = {
    "raise": "ValueError: diverged\n",
    "kill": "Killed (signal 9)",
    "exit": "given up",
    "refuse": "\nValueError: grads: expected shape",
    "alone": "numadam: rank 2 of 3: step: the other ranks did not come. ValueError: grads",
}


@pytest.fixture(scope="module")
def alone():
    """The parameters of one process after each step."""
    x = np.zeros(WHOLE.size)
    opt = na.Adam(x, lr=0.1, clip_norm=1.0)
    every = [x.copy()]
    for _ in range(STEPS):
        opt.step(2 * (x - WHOLE))
        every.append(x.copy())
    return every


@pytest.fixture
def run(mpiexec, tmp_path):
    """A function that runs the program on some ranks, and one that loads its checkpoint."""
    path, folder = tmp_path / "program.py", tmp_path / "run"
    path.write_text(PROGRAM, encoding="utf-8")
    return lambda ranks, how: (mpiexec(ranks, path, how, folder, timeout=60), na.load(folder))


@pytest.mark.parametrize("how", FAILURES)
def test_a_failure_ends_all_ranks_and_the_checkpoint_is_whole(run, alone, how):
    done, saved = run(3, how)
    assert done.returncode
    assert "ends at" not in done.stdout
    told = done.stdout + done.stderr  # mpiexec tells of kills in its own output
    assert told.count(FAILURES[how]) == 1, told
    assert saved.t == FAILS // SAVES * SAVES
    np.testing.assert_array_equal(saved.params, alone[saved.t])


def test_another_number_of_ranks_goes_on_with_the_bits_of_one_process(run, alone):
    for ranks, how in ((2, "kill"), (3, "well")):
        done, saved = run(ranks, how)
        assert (done.returncode == 0) == (how == "well"), done.stderr
    assert done.stdout.count(f"ends at {STEPS}") == 3
    assert saved.t == STEPS
    np.testing.assert_array_equal(saved.params, alone[STEPS])
