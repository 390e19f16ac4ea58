"""A minimisation in which one rank fails: its own error there, RankError on the others."""

import os
import signal

import numpy as np
import pytest

import numadam as na
from tests.mpi.blocks import assert_alike

TARGET = np.array([1.0, 2.0, 3.0])
AT = 6  # the iterate at which a rank fails


class Failing:
    """``fun(x)`` of each rank's own three elements, and calls that fail on the last rank."""

    def __init__(self, comm, error):
        self.here, self.error, self.calls = comm.rank == comm.size - 1, error, {}

    def count(self, name, at=AT):
        """Count a call of this name; on the last rank the one of number `at` fails."""
        seen = self.calls[name] = self.calls.get(name, -1) + 1
        if self.here and seen == at:
            if isinstance(self.error, KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
            raise self.error

    def fun(self, x):
        self.count("fun")
        return float(np.sum((x - TARGET) ** 2)), 2 * (x - TARGET)

    def good(self, x):
        return float(np.sum((x - TARGET) ** 2)), 2 * (x - TARGET)


def run(comm, fun, **options):
    options = {"jac": True, "f": "local", "gtol_rel": 0.0, "lr": 0.1, "maxiter": 40, **options}
    return na.minimize(fun, np.zeros(3), comm=comm, **options)


def fails(comm, failing, fun, **options):
    """The result so far, of a run that fails on the last rank."""
    kind = type(failing.error) if failing.here else na.mpi.RankError
    with pytest.raises(kind) as caught:
        run(comm, fun, **options)
    if not failing.here:
        assert f"rank {comm.size - 1} of {comm.size} failed. " in str(caught.value)
        assert type(failing.error).__name__ in str(caught.value)
    return caught.value.numadam_result


ERRORS = [ZeroDivisionError("no"), KeyboardInterrupt()]


@pytest.mark.parametrize("error", ERRORS, ids=["error", "ctrl-c"])
@pytest.mark.parametrize(
    "options", [{}, {"clip_norm": 1.0}, {"callback": lambda x: None}], ids=["", "norm", "callback"]
)
def test_fun(comm, error, options, ctrl_c):
    failing = Failing(comm, error)
    found = fails(comm, failing, failing.fun, **options)
    assert (found.nit, found.status) == (AT, -1)
    assert_alike(comm, found)


def test_jac(comm):
    failing = Failing(comm, ValueError("jac"))

    def jac(x):
        failing.count("jac")
        return failing.good(x)[1]

    found = fails(comm, failing, lambda x: failing.good(x)[0], jac=jac)
    assert found.nit == AT
    assert_alike(comm, found)


@pytest.mark.parametrize("error", ERRORS, ids=["error", "ctrl-c"])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}], ids=["", "norm"])
def test_callback(comm, error, options, ctrl_c):
    failing = Failing(comm, error)

    def callback(intermediate_result):
        failing.count("callback", AT - 1)

    found = fails(comm, failing, failing.good, callback=callback, **options)
    assert found.nit == AT
    assert_alike(comm, found)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}], ids=["", "norm"])
@pytest.mark.parametrize("name", ["lr", "beta1", "both"])
def test_schedule(comm, name, options):
    failing = Failing(comm, ArithmeticError("schedule"))

    def schedule(t):
        if t == AT:
            failing.count("schedule", 0)
        return 0.1

    own = {"lr": schedule, "beta1": schedule} if name == "both" else {name: schedule}
    found = fails(comm, failing, failing.good, **own, **options)
    assert found.nit == AT
    assert_alike(comm, found)


def test_a_schedule_of_lr_that_is_refused(comm):
    failing = Failing(comm, ValueError("lr"))
    last = comm.rank == comm.size - 1
    found = fails(comm, failing, failing.good, lr=lambda t: -1.0 if last and t == 3 else 0.1)
    assert found.nit == 3
    first = fails(comm, failing, failing.good, lr=lambda t: -1.0 if last else 0.1)
    assert first.nit == 0


@pytest.mark.parametrize("observed", ["history", "plateau"])
def test_what_observes(comm, observed):
    failing = Failing(comm, OSError("disk"))
    if observed == "history":

        class Full(na.History):
            def see(self, nit, *args):
                failing.count("see")
                super().see(nit, *args)

        options = {"callback": Full()}
    else:

        class Plateau(na.schedules.ReduceOnPlateau):
            def observe(self, f):
                failing.count("observe")
                super().observe(f)

        options = {"lr": Plateau(0.1, patience=3)}
    found = fails(comm, failing, failing.good, **options)
    assert found.nit == AT
    assert_alike(comm, found)


def test_between_two_tests_the_others_go_on_to_the_next(comm):
    failing = Failing(comm, ZeroDivisionError("no"))
    found = fails(comm, failing, failing.fun, check_every=5)
    assert found.nit == (AT if failing.here else 10)
    failing = Failing(comm, ZeroDivisionError("no"))
    found = fails(comm, failing, failing.fun, check_every=5, clip_norm=1.0)
    assert found.nit == AT  # the steps meet


@pytest.mark.parametrize("rank", [0, -1])
def test_stop_iteration_of_one_rank_ends_all(comm, rank):
    def callback(intermediate_result):
        if intermediate_result.nit == AT and comm.rank == rank % comm.size:
            raise StopIteration

    found = run(comm, Failing(comm, None).good, callback=callback)
    assert (found.nit, found.status) == (AT, 99)
    assert found.message == "`callback` raised `StopIteration`."
    assert_alike(comm, found)


def test_all_ranks_fail_with_their_own_errors(comm):
    def fun(x):
        raise KeyError(comm.rank)

    with pytest.raises(KeyError, match=str(comm.rank)):
        run(comm, fun)


@pytest.mark.parametrize("name", ["x0", "state", "gtol", "callback", "bounds"])
def test_an_argument_of_one_rank(comm, name):
    """Nothing has been evaluated, and no rank waits."""
    last, evaluated = comm.rank == comm.size - 1, []
    wrong = {"x0": "text", "state": 3, "gtol": -1.0, "callback": 5, "bounds": (3, 1)}[name]
    options = {"jac": True, "f": "local", "comm": comm, "maxiter": 3}
    options |= {name: wrong} if last and name != "x0" else {}

    def fun(x):
        evaluated.append(None)
        return float(x @ x), 2 * x

    with pytest.raises((TypeError, ValueError) if last else na.mpi.RankError):
        na.minimize(fun, wrong if last and name == "x0" else np.ones(3), **options)
    assert not evaluated
    assert run(comm, Failing(comm, None).good, maxiter=2).nit == 2  # nothing is left over


LEFT = """
import time
import numpy as np
from mpi4py import MPI
import numadam as na
from numadam._mpi import ranks

ranks.LEFT_ALONE = 1.0  # before it is read

comm = MPI.COMM_WORLD
calls = []

def fun(x):
    calls.append(None)
    if len(calls) == 4 and comm.rank == 1:
        raise ZeroDivisionError("no such thing")
    f = comm.allreduce(float(x @ x))  # where the others wait for rank 1
    return f, 2 * x

na.minimize(fun, np.ones(3), jac=True, comm=comm)
"""


def test_ranks_that_wait_in_fun_are_ended(mpiexec, tmp_path):
    (tmp_path / "left.py").write_text(LEFT)
    ended = mpiexec(2, tmp_path / "left.py", timeout=60)
    assert ended.returncode != 0
    told = [line for line in ended.stderr.splitlines() if "the other ranks did not come" in line]
    assert len(told) == 1
    assert "rank 1 of 2" in told[0]
    assert "ZeroDivisionError: no such thing" in told[0]


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("f", ("global", "local"), "f: is 'global' on rank 0 and 'local' on rank 1"),
        ("track_best", (None, False), "track_best: is None on rank 0 and False on rank 1"),
        ("maxiter", (3, 4), "maxiter: is 3 on rank 0 and 4 on rank 1"),
    ],
)
def test_arguments_that_differ_are_shown_as_they_were_passed(comm, name, values, says):
    options = {"f": "local", "maxiter": 5, name: values[comm.rank > 0]}
    with pytest.raises(ValueError, match=says):
        na.minimize(lambda x: (x @ x, 2 * x), np.ones(3), jac=True, comm=comm, **options)
