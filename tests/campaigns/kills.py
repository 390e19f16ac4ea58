"""Saves that are killed at random moments: the file has a complete state, never an older one.

    python -m tests.campaigns.kills                        # 2,000 kills
    python -m tests.campaigns.kills --kills 10000 --writers 2 --folder /dev/shm

A child saves states without a pause and tells each that is complete; kill -9 ends it, mostly in
the middle of one. Then the file is read: it must be one complete state, and none before the last
that was told.

Kills `minimize` and `minimize_many` with SIGKILL at random moments, and calls them again.

``python -m tests.campaigns.kills runs --kills 1000`` kills so many processes of each loop; all
results have to be those of a run that was left alone, to the bit. POSIX only: it forks.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import numadam as na
from numadam._checkpoint.container import Container, read, write
from tests.minimize.objectives import (
    START,
    assert_same_problems,
    assert_same_run,
    python_rosen,
    rosen,
)

#: Elements of the arrays of a state; sizes change from state to state.
_SIZES = (3, 1000, 150_000)
#: Longest time until a kill: some states.
_SECONDS = 0.01


def state(writer: int, k: int) -> Container:
    """State k of a writer: every number in it follows from both."""
    rng = np.random.default_rng([writer, k])
    arrays = {f"p/{i}": np.full(n, rng.random()) for i, n in enumerate(rng.permutation(_SIZES))}
    return Container("minimize", {"writer": writer, "k": k}, arrays)


def check(path: Path) -> tuple[int, int]:
    """Writer and number of the state in a file; an error where it is not complete."""
    found = read(path, "minimize")
    expected = state(found.meta["writer"], found.meta["k"])
    for name, array in expected.arrays.items():
        if not np.array_equal(found.arrays[name], array):
            raise AssertionError(f"{name} of {found.meta} is of another state")
    return found.meta["writer"], found.meta["k"]


class Child(NamedTuple):
    """A process that saves, and the pipe on which it tells complete states."""

    pid: int
    told: int

    @classmethod
    def start(cls, path: Path, writer: int, k: int) -> Child:
        """Save state k and all that follow until somebody kills it."""
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                while True:
                    write(path, state(writer, k))
                    os.write(tell, k.to_bytes(4, "little"))
                    k += 1
            except BaseException as error:  # also of an interrupt: a child never returns
                print(repr(error), file=sys.stderr, flush=True)
            finally:
                os._exit(1)
        os.close(tell)
        return cls(pid, told)

    def kill(self) -> int:
        """Kill it; the last state that it told, or -1."""
        os.kill(self.pid, signal.SIGKILL)
        status = os.waitpid(self.pid, 0)[1]
        with os.fdopen(self.told, "rb") as pipe:
            content = pipe.read()
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            raise AssertionError("a save failed")
        return int.from_bytes(content[-4:], "little") if content else -1


class Result(NamedTuple):
    """Kills, and how many of them left a temporary file: they were in the middle of a save."""

    kills: int
    in_the_middle: int
    states: int

    def __str__(self) -> str:
        return (
            f"{self.kills:,} kills, {self.in_the_middle:,} of them with a file half written, over "
            f"{self.states:,} states: every file complete, none older than the last save told."
        )


def campaign(folder: Path, kills: int, writers: int = 1, seed: int = 0) -> Result:
    """Kill so many times; AssertionError or CheckpointError at the first file that is wrong."""
    chance, path = random.Random(seed), folder / "run"
    last = [0] * writers
    write(path, state(0, 0))
    middle = 0
    for _ in range(-(-kills // writers)):
        children = [Child.start(path, w, last[w] + 1) for w in range(writers)]
        time.sleep(chance.random() * _SECONDS)
        told = [child.kill() for child in children]
        writer, k = check(path)
        if k < max(told[writer], last[writer] if writers == 1 else 0):
            raise AssertionError(f"state {k} in the file, {told[writer]} was complete before")
        for left in path.parent.glob(".run.*"):  # as the next save would, after ten minutes
            left.unlink()
            middle += 1
        write(path, state(writer, k + 1))
        last = [max(old, new) for old, new in zip(last, told, strict=True)]
        last[writer] = k + 1
    return Result(writers * -(-kills // writers), middle, sum(last))


def main(text: str | None, campaign: Callable[..., object], **numbers: int) -> None:
    """Print what ``campaign(folder, **numbers)`` returns, and its time; options change numbers."""
    parser = argparse.ArgumentParser(description=(text or "").partition("\n")[0])
    for name, number in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--folder", type=Path, help="where to write; default: temporary files")
    given = vars(parser.parse_args())
    with tempfile.TemporaryDirectory(dir=given.pop("folder")) as folder:
        begin = time.perf_counter()
        print(campaign(Path(folder), **given))
        print(f"{time.perf_counter() - begin:.0f} s")


# --- killed runs ---------------------------------------------------------------------------------


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


def main_of_runs() -> None:
    """Kill runs, and print the counts."""
    parser = argparse.ArgumentParser(description="Kill runs of minimize and minimize_many.")
    parser.add_argument("--kills", type=int, default=500, help="of each loop")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    for name in LOOPS:
        killed, runs = kill(name, given.kills, rng)
        print(f"{name}: {killed} kills survived of {killed}, {runs} runs to the bit", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["runs"]:
        del sys.argv[1]
        main_of_runs()
    else:
        main(__doc__, campaign, kills=2000, writers=1, seed=0)
