"""Saves of several ranks of which one is killed: the folder has a complete checkpoint of all.

    python -m tests.campaigns.killed_folders                    # 200 kills of one of 2 ranks
    python -m tests.campaigns.killed_folders --kills 1000 --ranks 3 --folder /dev/shm

The ranks of an MPI program save states without a pause, and rank 0 tells each that is complete.
kill -9 ends one rank, mostly in the middle of a save, and MPI ends the others. Then the folder is
read: all parts have to be of one state, and of none before the last that was told. The next save,
of another number of ranks, has to remove what the killed one left.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numadam._checkpoint import collective
from numadam._checkpoint.collective import Alone, assemble
from numadam._checkpoint.folder import Cut, current_generation, read_index, whole_cut
from tests.campaigns import kills as files
from tests.processes import mpiexec

#: Elements of the arrays of a state.
_SIZES = (3, 1000, 150_000)
#: Longest time until a kill: some states.
_SECONDS = 0.1
#: Where MPICH has the memory that its ranks share: of a killed program it stays.
_SEGMENTS = Path("/dev/shm")


def state(ranks: Any, k: int) -> collective.Part:
    """A rank's part of state k: all numbers are k, in cuts that move from state to state."""
    arrays, cuts = {}, {}
    for i, n in enumerate(_SIZES):
        share = [n * (r + k % 3) // (ranks.size + k % 3) for r in range(ranks.size)] + [n]
        low, high = (0 if ranks.rank == 0 else share[ranks.rank]), share[ranks.rank + 1]
        arrays[f"p/{i}"] = np.full(high - low, float(k))
        cuts[f"p/{i}"] = Cut((low,), (high - low,), True, (n,))
    return collective.Part("minimize", {"k": k}, arrays, {name: name for name in arrays}, cuts)


def check(path: Path) -> int:
    """The number of the state in a folder; an error where it is not complete, or a mixture."""
    index = read_index(path, "minimize")
    found = assemble(path, index, {f"p/{i}": whole_cut((n,)) for i, n in enumerate(_SIZES)})
    for name, array in found.items():
        if not (array == index.meta["k"]).all():
            raise AssertionError(f"{name} of state {index.meta['k']} has {np.unique(array)}")
    k: int = index.meta["k"]
    return k


def save_until_killed(path: Path, told: Path, k: int, victim: int, seconds: float) -> None:
    """Save state k and all that follow, on all ranks, until the victim is killed."""
    from mpi4py import MPI

    from numadam._mpi.ranks import ranks_of

    ranks = ranks_of(MPI.COMM_WORLD)
    ranks.gather(np.zeros(1, np.int64))
    if ranks.rank == victim:

        def kill() -> None:
            time.sleep(seconds)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()
    while True:
        number = k
        collective.save(path, ranks, lambda number=number: state(ranks, number))
        if ranks.rank == 0:
            with told.open("a") as file:  # one write: whole, or not there
                file.write(f"{k}\n")
        k += 1


def save_until_one_is_killed(ranks: int, *words: Any) -> None:
    """Run this file on so many ranks."""
    done = mpiexec(ranks, __file__, "save", *words, timeout=120)
    if done.returncode == 0 or "Traceback" in done.stderr:
        raise AssertionError(f"a save failed: {done.stderr}")


class Result(NamedTuple):
    """Kills, and how many of them left files: they were in the middle of a save."""

    kills: int
    in_the_middle: int
    new: int
    states: int

    def __str__(self) -> str:
        return (
            f"{self.kills:,} kills of one rank, {self.in_the_middle:,} of them in the middle of a "
            f"save, {self.new:,} after the index but before anybody knew, over {self.states:,} "
            f"states: {self.kills:,} of {self.kills:,} folders complete, all ranks of one state, "
            "none older than the last save told."
        )


def campaign(folder: Path, kills: int, ranks: int = 2, seed: int = 0) -> Result:
    """Kill so many times; AssertionError or CheckpointError at the first folder that is wrong."""
    chance, path, told = random.Random(seed), folder / "run", folder / "told"
    segments = {*_SEGMENTS.glob("mpich_shm_*")}
    alone = Alone()
    collective.save(path, alone, lambda: state(alone, 0))
    k = middle = new = states = 0
    for _ in range(kills):
        told.write_text(f"{k}\n")
        victim, seconds = chance.randrange(ranks), chance.random() * _SECONDS
        save_until_one_is_killed(ranks, path, told, k + 1, victim, seconds)
        found, last = check(path), int(told.read_text().split()[-1])
        if not last <= found <= last + 1:
            raise AssertionError(f"state {found} in the folder, {last} was complete before")
        middle += bool(leftovers(path))
        new += found > last
        states += found - k
        k = found + 1
        collective.save(path, alone, lambda number=k: state(alone, number))
        if check(path) != k or leftovers(path):
            raise AssertionError(f"left by a killed save and the next: {leftovers(path)}")
    remove_segments({*_SEGMENTS.glob("mpich_shm_*")} - segments)
    return Result(kills, middle, new, states)


def remove_segments(paths: Iterable[Path]) -> None:
    """Remove memory of killed programs, 2 MB each: what no process has mapped any more."""
    mapped = ""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            mapped += maps.read_text()
    for path in paths:
        with suppress(OSError):
            if str(path) not in mapped and time.time() - path.stat().st_mtime > 1:
                path.unlink()


def leftovers(path: Path) -> list[str]:
    """Files that the index does not name."""
    generation = current_generation(path)
    names = [one.name for one in path.iterdir() if one.name != "index.safetensors"]
    return [name for name in names if not name.startswith(f"{generation}-")]


if __name__ == "__main__":
    if sys.argv[1:2] == ["save"]:  # of a rank
        folder, log, first, rank, patience = sys.argv[2:]
        save_until_killed(Path(folder), Path(log), int(first), int(rank), float(patience))
    files.main(__doc__, campaign, kills=200, ranks=2, seed=0)
