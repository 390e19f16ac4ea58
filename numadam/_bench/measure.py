"""Timing of sides in turns, and the load by other programs. Needs no numadam.

Machines drift, so only a ratio of times from one run counts; and a figure from a busy machine
decides nothing.
"""

from __future__ import annotations

import gc
import itertools
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

#: A side: what is timed, without arguments.
Side = Callable[[], object]

#: Seconds that one sample lasts at least.
SAMPLE = 3e-3
#: Seconds of rest before a sample, and then of running untimed. GNU OpenMP's workers spin for
#: milliseconds after a region and would slow down the other side; then the side's own workers,
#: which sleep by now, have to wake up.
SETTLE = 0.02
#: Share of the machine used by others from which a figure is in doubt. Peers that spin (OpenMP)
#: then lose most, so a busy machine flatters.
LIMIT = 0.05


def repeats(side: Side) -> int:
    """Calls of `side` that together last at least a sample. The first ones warm it up."""
    for _ in range(3):
        side()
    count = 1
    while True:
        seconds = timed(side, count)
        if seconds >= SAMPLE:
            return count
        # at most tenfold: a first short time may be a lie
        missing = SAMPLE / seconds if seconds > 0 else math.inf
        count = math.ceil(count * min(10.0, 1.2 * missing))


def timed(side: Side, count: int) -> float:
    """Seconds of `count` calls."""
    start = time.perf_counter()
    for _ in itertools.repeat(None, count):
        side()
    return time.perf_counter() - start


def rounds(sides: Sequence[Side], count: int) -> list[list[float]]:
    """Seconds per call of each side in each of `count` rounds, the sides one right after the other.

    The order is reversed from round to round. Before each sample the process rests and the side
    runs untimed for as long: its own threads are awake then, the others asleep.
    """
    counts = [repeats(side) for side in sides]
    times: list[list[float]] = [[] for _ in sides]
    order = list(range(len(sides)))
    gc.disable()
    try:
        for _ in range(count):
            for which in order:
                sample = sides[which], counts[which]
                time.sleep(SETTLE)
                end = time.perf_counter() + SETTLE
                timed(*sample)
                while time.perf_counter() < end:
                    timed(*sample)
                times[which].append(timed(*sample) / counts[which])
            order.reverse()
    finally:
        gc.enable()
    return times


def _machine_seconds() -> float | None:
    """CPU seconds that all processes have used, and what the hypervisor took; None if unknown."""
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text().split()[1:9]]
    except (OSError, ValueError):
        return None
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # two are idle


class Load:
    """The load by other processes since the object was made."""

    def __init__(self) -> None:
        self._wall, self._machine = time.monotonic(), _machine_seconds()
        self._own = sum(os.times()[:4])  # this process and the children that have ended

    def busy(self) -> float | None:
        """Share of all cores that others used since then; None where it cannot be known."""
        machine = _machine_seconds()
        if machine is None or self._machine is None:
            return None
        others = (machine - self._machine) - (sum(os.times()[:4]) - self._own)
        whole = (time.monotonic() - self._wall) * (os.cpu_count() or 1)
        return min(1.0, max(0.0, others / whole)) if whole > 0 else None


def busy_now(nap: float = 0.5) -> float:
    """Share of the machine that others use for a moment; 0 where it cannot be known."""
    load = Load()
    time.sleep(nap)
    return load.busy() or 0.0
