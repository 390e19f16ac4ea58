"""Timing of sides that several ranks run at once, in turns, as `measure` does for one process."""

from __future__ import annotations

import functools
import gc
import itertools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Protocol

from numadam.bench.measure import Side

if TYPE_CHECKING:
    from mpi4py import MPI

#: Seconds that one sample lasts at least, and between two looks of a rank that sleeps.
_SAMPLE, _NAP = 0.05, 5e-4
#: A process of its own that makes a side by the name of a function, and runs it as often as told.
_CHILD = """
import importlib, itertools, json, sys, time
module, name, arguments = json.loads(sys.argv[1])
side = getattr(importlib.import_module(module), name)(*arguments)
for line in sys.stdin:
    start = time.perf_counter()
    for _ in itertools.repeat(None, int(line)):
        side()
    print(time.perf_counter() - start, flush=True)
"""


class Timed(Protocol):
    """A side: seconds of so many calls, the same number on all ranks. Collective."""

    def seconds(self, count: int) -> float: ...


class Together:
    """A side that all ranks run at once; its time is that of the slowest rank.

    With `asleep`, ranks that are done sleep: where there are more ranks than cores, one that waits
    in MPI would take the core of one that works.
    """

    def __init__(self, comm: MPI.Intracomm, call: Side, asleep: bool = False) -> None:
        self._comm = comm
        self.call: Side = call
        self._meet = functools.partial(sleep_until_all, comm) if asleep else comm.Barrier

    def seconds(self, count: int) -> float:
        self._meet()
        start = time.perf_counter()
        for _ in itertools.repeat(None, count):
            self.call()
        own = time.perf_counter() - start
        self._meet()
        return float(max(self._comm.allgather(own)))


class Elsewhere:
    """A side in a process of its own with its own number of threads, while all ranks sleep.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
    threads : int
        Numba's threads in that process.
    function : callable
        A module's function that makes the side.
    *arguments
        Its arguments, as JSON has them.
    """

    def __init__(
        self, comm: MPI.Intracomm, threads: int, function: Callable[..., Side], *arguments: object
    ) -> None:
        self._comm, self._child = comm, None
        if comm.rank == 0:
            what = json.dumps([function.__module__, function.__name__, arguments])
            environment = {**_without_mpi(), "NUMBA_NUM_THREADS": str(threads)}
            self._child = subprocess.Popen(
                [sys.executable, "-c", _CHILD, what],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )

    def seconds(self, count: int) -> float:
        sleep_until_all(self._comm)  # nobody spins in MPI while the other process runs
        seconds = self._asked(count) if self._child else 0.0
        sleep_until_all(self._comm)
        return float(self._comm.bcast(seconds))

    def _asked(self, count: int) -> float:
        assert self._child is not None
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        print(count, file=self._child.stdin, flush=True)
        said = self._child.stdout.readline()
        if not said:
            raise RuntimeError("the process of the other side has ended")
        return float(said)

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.communicate()


def _without_mpi() -> dict[str, str]:
    """The environment without what tells a process that it is a rank."""
    ours = ("PMI_", "PMIX_", "OMPI_", "PRTE_", "HYDI_", "MPI_")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)}


def sleep_until_all(comm: MPI.Intracomm) -> None:
    """Wait for all ranks without using a core, unlike a barrier. Collective."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(_NAP)


def rounds(
    comm: MPI.Intracomm, sides: Sequence[Timed], pairs: int, sample: float = _SAMPLE
) -> list[list[float]]:
    """Seconds per call of each side in each round, one right after the other. Collective.

    The order is reversed from round to round. Before each sample all ranks sleep for a moment and
    the side runs once untimed. Every rank returns the same times.
    """
    counts = []
    for side in sides:
        side.seconds(2)  # compiles
        first = max(side.seconds(1), 1e-9)
        counts.append(comm.bcast(min(10_000, math.ceil(sample / first))))
    times: list[list[float]] = [[] for _ in sides]
    order = list(range(len(sides)))
    gc.collect()
    gc.disable()
    try:
        for _ in range(pairs):
            for which in order:
                sleep_until_all(comm)
                sides[which].seconds(1)
                times[which].append(sides[which].seconds(counts[which]) / counts[which])
            order.reverse()
    finally:
        gc.enable()
    return times


def middle(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of one round."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))
