"""A rank that fails ends the program on all ranks, and the next run goes on.

The programs run in ranks of their own: ``mpiexec -n 2 python -m mpi4py program.py``. The same of
tests on several ranks: they have one outcome, the worst, told once by rank 0.
"""

import numpy as np
import pytest

import numadam as na

HEAD = """
import os, signal, sys, time
import numpy as np
from mpi4py import MPI
import numadam as na
from numadam import _mpi as ranks

ranks.LEFT_ALONE = 1.0  # before it is read

comm = MPI.COMM_WORLD
"""

# --- steps --------------------------------------------------------------------------------------

STEPS, SAVES, FAILS = 30, 5, 12
WHOLE = np.linspace(-1.0, 2.0, 101)

STEPPING = """
how, path = sys.argv[1:]
whole = np.linspace(-1.0, 2.0, 101)
first, last = (len(whole) * rank // comm.size for rank in (comm.rank, comm.rank + 1))
x = np.zeros(last - first)
opt = na.Adam(x, lr=0.1, clip_norm=1.0, comm=comm)
if os.path.exists(f"{path}.0-of-{comm.size}"):
    opt.load(path)
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
        opt.save(path)
print(f"rank {comm.rank} ends at {opt.t}")  # in one write: ranks share the output
"""

#: What a rank does, and what is told of it: once, in the words of the rank that failed.
FAILURES = {
    "raise": "ValueError: diverged\n",
    "kill": "Killed (signal 9)",
    "exit": "given up",
    "refuse": "\nValueError: grads: expected shape",
    "alone": "numadam: rank 1 of 2: step: the other ranks did not come. ValueError: grads",
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
    """``run(code, *words, ranks=2)``: a program on ranks of its own."""

    def start(code, *words, ranks=2):
        path = tmp_path / "program.py"
        path.write_text(HEAD + code, encoding="utf-8")
        return mpiexec(ranks, path, *words)

    return start


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run"


def whole(path, ranks=2):
    """t and the whole array of a checkpoint."""
    blocks = [na.load(f"{path}.{rank}-of-{ranks}") for rank in range(ranks)]
    (t,) = {one.t for one in blocks}
    return t, np.concatenate([one.params for one in blocks])


@pytest.mark.parametrize("how", FAILURES)
def test_a_failure_ends_all_ranks_and_the_run_goes_on_from_its_checkpoint(run, path, alone, how):
    """As one process does, but for the last places of its norms."""
    done = run(STEPPING, how, path)
    assert done.returncode
    assert "ends at" not in done.stdout
    told = done.stdout + done.stderr  # mpiexec tells of kills in its own output
    assert told.count(FAILURES[how]) == 1, told
    t, x = whole(path)
    assert t == FAILS // SAVES * SAVES
    np.testing.assert_allclose(x, alone[t], rtol=1e-13)
    done = run(STEPPING, "well", path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"ends at {STEPS}") == 2
    t, x = whole(path)
    assert t == STEPS
    np.testing.assert_allclose(x, alone[STEPS], rtol=1e-13)
