"""Saves that are killed at random moments: the file has a complete state, never an older one.

    python -m tests.campaigns.kills                        # 2,000 kills
    python -m tests.campaigns.kills --kills 10000 --writers 2 --folder /dev/shm

A child saves states without a pause and tells each that is complete; kill -9 ends it, mostly in
the middle of one. Then the file is read: it must be one complete state, and none before the last
that was told.
POSIX only: it forks.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from numadam._checkpoint.container import Container, read, write

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


def main() -> None:
    """Print the result of a campaign."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, number in {"kills": 2000, "writers": 1, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--folder", type=Path, help="where to write; default: temporary files")
    given = vars(parser.parse_args())
    with tempfile.TemporaryDirectory(dir=given.pop("folder")) as folder:
        print(campaign(Path(folder), **given))


if __name__ == "__main__":
    main()
