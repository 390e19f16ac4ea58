"""Runs of `minimize_many` with a file: each problem ends as in one piece, whatever the cuts."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from scipy.optimize import Bounds

import numadam as na
from numadam._checkpoint.container import read
from numadam._minimize.lanes import batch
from tests.minimize.compared import assert_same_problems
from tests.minimize.interrupted import Cut, cut_at
from tests.minimize.objectives import rosen

pytestmark = pytest.mark.usefixtures("quick_files")

RNG = np.random.default_rng(0)
STARTS = RNG.uniform(-2, 2, (150, 2))
LOW = np.minimum(STARTS - 0.1, RNG.uniform(-2, 0, STARTS.shape))


def all_at_once(X):
    """Rosenbrock for all rows, in Python."""
    f, g = np.zeros(len(X)), np.zeros_like(X)
    for k in range(len(X)):
        f[k] = rosen(X[k], g[k])
    return f, g


#: In lanes and one by one, with step sizes, bounds and averages that each problem has of its own.
OPTIONS = {
    "lanes": {"lr": 0.02, "gtol": 1e-2},
    "decay": {
        "lr": na.schedules.Cosine(0.1, steps=500),
        "xtol": 1e-6,
        "bounds": Bounds([-1, -1], [1, 0.5]),
    },
    "average": {"rule": "sgd", "lr": 1e-4, "momentum": 0.9, "gtol": 0.5, "ema": 0.5},
    "own bounds": {"lr": 0.02, "gtol": 1e-2, "bounds": (LOW, LOW + 1.5)},
    "own lr": {"lr": RNG.uniform(0.01, 0.03, (150, 1)), "gtol": 1e-2},
}


def assert_same(a, b):
    assert_same_problems(a, b)
    assert (a.nfev, a.message) == (b.nfev, b.message)
    if "averaged" in a:
        np.testing.assert_array_equal(a.averaged, b.averaged)


RUNS = [*((rosen, name) for name in OPTIONS), (all_at_once, "lanes"), (all_at_once, "decay")]


@pytest.mark.parametrize(("fun", "name"), RUNS, ids=lambda one: getattr(one, "__name__", one))
def test_any_pieces_are_the_run_in_one(fun, name, tmp_path):
    options, starts, jac = OPTIONS[name], STARTS, None
    if fun is all_at_once:
        starts, jac = STARTS[:20], True
    run = {"jac": jac, "checkpoint": tmp_path / "a.run", "checkpoint_every": 37, **options}
    whole = na.minimize_many(fun, starts, jac=jac, maxiter=600, **options)
    assert len(set(whole.nit)) > 2
    for maxiter in (0, 1, 77, 300, 301, 600):
        res = na.minimize_many(fun, starts, maxiter=maxiter, **run)
        assert res.nit.max() <= maxiter
    assert_same(res, whole)
    file = run["checkpoint"].stat().st_ino
    again = na.minimize_many(fun, starts, maxiter=600, **run)
    assert_same(again, whole)
    assert run["checkpoint"].stat().st_ino == file  # read, and not written again


def test_another_number_of_threads_goes_on(tmp_path, monkeypatch):
    """Blocks, and so the places of the problems, are then others."""
    options, path = OPTIONS["lanes"], tmp_path / "a.run"
    whole = na.minimize_many(rosen, STARTS, **options)
    for maxiter, block in ((100, 64), (200, 128), (300, 64), (10_000, 192)):
        monkeypatch.setattr(batch, "_block_packets", lambda *args, block=block: block // 64)
        res = na.minimize_many(rosen, STARTS, maxiter=maxiter, checkpoint=path, **options)
    assert_same(res, whole)


def test_what_raises_leaves_the_file_before(tmp_path):
    path, options = tmp_path / "a.run", {"jac": True, "lr": 0.02, "maxiter": 50}
    whole = na.minimize_many(all_at_once, STARTS[:5], **options)
    for call in (0, 3, 20, 31):
        with pytest.raises(Cut):
            na.minimize_many(
                cut_at(all_at_once, call), STARTS[:5], checkpoint=path, checkpoint_every=8,
                **options,
            )  # fmt: skip
    rest = cut_at(all_at_once, 20)  # too few calls for a run from its start
    assert_same(na.minimize_many(rest, STARTS[:5], checkpoint=path, **options), whole)


def test_a_compiled_objective_that_raises_leaves_the_file_before(tmp_path):
    @numba.njit
    def fun(x, g, i, left):
        if i == 3:
            left[0] -= 1
            if left[0] < 0:
                raise Cut
        return rosen(x, g)

    run = {"lr": 0.02, "maxiter": 90, "gtol": 0}
    whole = na.minimize_many(fun, STARTS[:5], (np.array([1000]),), **run)
    run |= {"checkpoint": tmp_path / "a.run", "checkpoint_every": 20}
    for left in (0, 30, 41):
        with pytest.raises(Cut):
            na.minimize_many(fun, STARTS[:5], (np.array([left]),), **run)
    assert_same(na.minimize_many(fun, STARTS[:5], (np.array([1000]),), **run), whole)


def test_another_run_is_refused(tmp_path):
    path = tmp_path / "a.run"
    run = {"lr": OPTIONS["own lr"]["lr"], "maxiter": 3, "checkpoint": path}
    na.minimize_many(rosen, STARTS, **run)
    for change, name in (
        ({"lr": run["lr"] * 2}, "lr"),
        ({"x0": STARTS[:149], "lr": run["lr"][:149]}, "x0"),
        ({"x0": STARTS + 1}, "x0"),
        ({"bounds": (-3, 3)}, "bounds"),
        ({"xtol": 1e-3}, "xtol"),
    ):
        with pytest.raises(na.CheckpointError, match=rf"^{name}: the run .*Pass the same"):
            na.minimize_many(rosen, **{"x0": STARTS, **run, **change})
    with pytest.raises(na.CheckpointError, match=r"was saved by numadam.minimize_many, not by"):
        na.minimize(rosen, STARTS[0], checkpoint=path)


def test_an_interrupt_between_the_calls_writes_the_file(tmp_path):
    import _thread
    import signal
    import threading

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    path, run = tmp_path / "a.run", {"gtol": 0, "lr": 1e-9}
    na.minimize_many(rosen, STARTS, maxiter=1, **run)  # compiled before the interrupt comes
    try:
        timer = threading.Timer(0.3, _thread.interrupt_main)
        timer.start()
        with pytest.raises(KeyboardInterrupt) as caught:
            na.minimize_many(rosen, STARTS, maxiter=10**9, checkpoint=path, **run)
    finally:
        signal.signal(signal.SIGINT, before)
    nit = int(caught.value.numadam_result.nit[0])
    assert read(path, "minimize_many").meta["at"]["done"] == nit
    res = na.minimize_many(rosen, STARTS, maxiter=nit + 10, checkpoint=path, **run)
    assert_same(res, na.minimize_many(rosen, STARTS, maxiter=nit + 10, **run))
