"""Timing of two sides against each other: machines drift, so only a ratio in one run counts."""

from __future__ import annotations

import gc
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

#: A side: what is timed, without arguments.
Side = Callable[[], object]

#: Seconds that one sample lasts at least.
SAMPLE = 3e-3
#: Seconds of rest before a sample, and then of running untimed. GNU OpenMP's workers spin for
#: milliseconds after a region and would slow down the other side; then the side's own workers,
#: which sleep by now, have to wake up.
SETTLE = 0.02


@dataclass(frozen=True)
class Figure:
    """The figure of a case.

    Attributes
    ----------
    value : float
    ours, theirs : float or None
        Seconds per call, where two sides were timed.
    expected : float
        The value is the ratio of these times divided by this.
    note : str
        What the figure alone does not say.
    """

    value: float
    ours: float | None = None
    theirs: float | None = None
    expected: float = 1.0
    note: str = ""


def repeats(side: Side, sample: float = SAMPLE, clock: Callable[[], float] | None = None) -> int:
    """Calls of `side` that together last at least `sample` seconds. The first ones warm it up."""
    clock = clock or time.perf_counter
    for _ in range(3):
        side()
    count = 1
    while True:
        seconds = timed(side, count, clock)
        if seconds >= sample:
            return count
        # at most tenfold: a first short time may be a lie
        missing = sample / seconds if seconds > 0 else math.inf
        count = math.ceil(count * min(10.0, 1.2 * missing))


def timed(side: Side, count: int, clock: Callable[[], float]) -> float:
    """Seconds of `count` calls."""
    start = clock()
    for _ in itertools.repeat(None, count):
        side()
    return clock() - start


def wake(side: Side, count: int, seconds: float, clock: Callable[[], float]) -> None:
    """Run `side` untimed, `count` calls and for at least `seconds`."""
    end = clock() + seconds
    while True:
        timed(side, count, clock)
        if clock() >= end:
            return


def rounds(
    sides: Sequence[Side],
    count: int,
    *,
    sample: float = SAMPLE,
    settle: float = SETTLE,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> list[list[float]]:
    """Seconds per call of each side in each round, the sides one right after the other.

    The order is reversed from round to round. Before each sample the process rests and the side
    runs untimed for as long: its own threads are awake then, the others asleep. Further arguments
    are those of `ratio`. Returns one list for each of the `sides`, with `count` entries.
    """
    counts = [repeats(side, sample, clock) for side in sides]
    times: list[list[float]] = [[] for _ in sides]
    order = list(range(len(sides)))
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(count):
            for which in order:
                sleep(settle)
                wake(sides[which], counts[which], settle, clock)
                seconds = timed(sides[which], counts[which], clock)
                times[which].append(seconds / counts[which])
            order.reverse()
    finally:
        if collecting:
            gc.enable()
    return times


def ratio(
    ours: Side,
    theirs: Side,
    pairs: int = 15,
    *,
    expected: float = 1.0,
    sample: float = SAMPLE,
    settle: float = SETTLE,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> Figure:
    """Time ours / theirs: the median over `pairs` of samples taken one right after the other.

    Parameters
    ----------
    ours, theirs : callable
        The two sides.
    pairs : int
        Number of pairs.
    expected : float
        The ratio that memory traffic alone would give; the value is divided by it.
    sample : float
        Seconds that one sample lasts at least.
    settle : float
        Seconds of rest, and then of running untimed, before each sample.
    clock, sleep : callable
        The time, and a function that waits; tests replace both.

    Returns
    -------
    Figure
        The ratio and the median seconds per call of both sides.
    """
    if pairs < 1:
        raise ValueError(f"pairs: expected 1 or more, got {pairs}.")
    mine, other = rounds(
        (ours, theirs), pairs, sample=sample, settle=settle, clock=clock, sleep=sleep
    )
    value = median(a / b for a, b in zip(mine, other, strict=True))
    return Figure(value / expected, median(mine), median(other), expected)
