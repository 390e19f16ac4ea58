"""minimize on CuPy blocks of several ranks, in the simulator: ranks are threads."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from numadam._mpi import decomposition
from tests.cuda.ranks import on_ranks

TARGET = np.array([1.0, -2.0, 3.0, 0.5, -1.5])
CUTS = (0, 2, 2, 5)  # the second of three blocks is empty


@pytest.fixture(autouse=True)
def _any_comm(monkeypatch):
    """A communicator is the ranks that are threads."""
    monkeypatch.setattr(decomposition, "ranks_of", lambda comm: comm)


def square(x, target):
    d = x - target
    return np.sum(d**2), 2 * d


@pytest.mark.parametrize(
    "options",
    [
        {"gtol": 1e-3, "maxiter": 200},
        {"gtol": 0, "xtol": 1e-4, "norm": 2, "maxiter": 200, "bounds": (-1, 2)},
        {"gtol": 0, "ftol": 1e-4, "clip_norm": 1.0, "maxiter": 400},
    ],
    ids=["gtol", "xtol", "ftol"],
)
def test_blocks_on_gpus_stop_as_the_whole_does(cupy, options):
    options = {"lr": 0.1, "check_every": 10, "jac": True, **options}

    def work(ranks):
        begin, end = CUTS[ranks.rank], CUTS[ranks.rank + 1]

        def fun(x):
            assert type(x) is cupy.ndarray
            f, g = square(np.asarray(x), TARGET[begin:end])
            return cupy.asarray(f), cupy.asarray(g)

        x0 = cupy.asarray(np.zeros(end - begin))
        return na.minimize(fun, x0, comm=ranks, f="local", **options)

    ranks, _ = on_ranks(3, work)
    whole = na.minimize(lambda x: square(x, TARGET), np.zeros(5), **options)
    assert whole.success
    for one in ranks:
        assert type(one.x) is cupy.ndarray
        assert (one.nit, one.status, one.fun) == (ranks[0].nit, ranks[0].status, ranks[0].fun)
        assert (one.nit, one.status) == (whole.nit, whole.status)
    x = np.concatenate([np.asarray(one.x) for one in ranks])
    np.testing.assert_allclose(x, whole.x, rtol=1e-9, atol=1e-12)


def test_an_error_on_one_rank_ends_the_run_on_all(cupy):
    def work(ranks):
        calls = 0

        def fun(x):
            nonlocal calls
            calls += 1
            if calls == 3 and ranks.rank == 1:
                raise ZeroDivisionError("on this rank")
            return cupy.asarray(np.sum(np.asarray(x) ** 2)), 2 * x

        kind = ZeroDivisionError if ranks.rank else na.mpi.RankError
        with pytest.raises(kind, match="on this rank"):
            na.minimize(fun, cupy.asarray(np.ones(3)), jac=True, comm=ranks, f="local", gtol=0)

    on_ranks(2, work)
