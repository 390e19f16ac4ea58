"""Kills `minimize` and `minimize_many` with SIGKILL at random moments, and calls them again.

``python tests/campaigns/killed_runs.py --kills 1000`` kills so many processes of each loop; all
results have to be those of a run that was left alone, to the bit. POSIX only: it forks.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import numadam as na
from tests.minimize.objectives import (
    START,
    assert_same_problems,
    assert_same_run,
    python_rosen,
    rosen,
)

#: one packet of lanes: more would run in threads, and a forked child would compile a loop for one
STARTS = np.random.default_rng(0).uniform(-2, 2, (60, 2))


def rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rosenbrock's valley for all rows, in Python."""
    g = np.zeros_like(x)
    return np.array([rosen(one, of) for one, of in zip(x, g, strict=True)]), g


def in_python(**options: Any) -> Any:
    lr = na.schedules.ReduceOnPlateau(0.1, patience=20, factor=0.9)
    return na.minimize(
        python_rosen, START, jac=True, lr=lr, maxiter=3_000, gtol=0, xtol=1e-300, **options
    )


def compiled(**options: Any) -> Any:
    lr = na.schedules.Cosine(0.1, steps=600_000)
    return na.minimize(rosen, START, lr=lr, maxiter=600_000, gtol=0, **options)


def many_in_python(**options: Any) -> Any:
    return na.minimize_many(rows, STARTS[:5], jac=True, lr=0.01, maxiter=900, **options)


def in_lanes(**options: Any) -> Any:
    return na.minimize_many(rosen, STARTS, lr=1e-4, maxiter=30_000, gtol=1e-2, **options)


#: Each loop: a run, the iterations between two writes, the comparison of its results.
LOOPS: dict[str, tuple[Callable[..., Any], int, Callable[[Any, Any], None]]] = {
    "in Python": (in_python, 250, assert_same_run),
    "compiled": (compiled, 50_000, assert_same_run),
    "many in Python": (many_in_python, 75, assert_same_problems),
    "in lanes": (in_lanes, 2_500, assert_same_problems),
}


def _child(run: Callable[..., Any], options: dict[str, Any], patience: float) -> bool:
    """Run in a child that is killed after some seconds; whether it was, before its end."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            run(**options)
            status = 0
        finally:
            os._exit(status)
    time.sleep(patience)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, "the child raised"
    return os.WIFSIGNALED(status)


def kill(name: str, kills: int, rng: np.random.Generator) -> tuple[int, int]:
    """Kill so many children of a loop; returns the kills, and the runs that were compared."""
    run, every, assert_same = LOOPS[name]
    whole, killed, runs = run(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.run"
        options = {"checkpoint": path, "checkpoint_every": every}
        begin = time.perf_counter()
        assert_same(run(**options), whole)
        seconds = time.perf_counter() - begin
        while killed < kills:
            path.unlink()
            # some runs are killed early and often, others late
            most = seconds * rng.choice([0.1, 0.4, 1.0])
            while _child(run, options, rng.uniform(0.0, most)):
                killed += 1
                most *= 1.2  # so that it ends, however slow the machine has become
            assert_same(run(**options), whole)
            runs += 1
    return killed, runs


def main() -> None:
    """Kill, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500, help="of each loop")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    for name in LOOPS:
        killed, runs = kill(name, given.kills, rng)
        print(f"{name}: {killed} kills survived of {killed}, {runs} runs to the bit", flush=True)


if __name__ == "__main__":
    main()
