"""A case of the benchmarks: two sides, a target, and the machine that it needs."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass

from numadam.bench import measure, peers
from numadam.bench.measure import Figure, Side

#: Makes everything ready, compiled and warm, and returns what measures: pairs -> figure.
Prepare = Callable[[], Callable[[int], Figure]]


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes
    ----------
    name : str
        The argument of ``--case``.
    what : str
        Ours / theirs, in words.
    target : float
        The value to stay at or below.
    prepare : callable
        Makes ready and returns the measuring function.
    unit : {"ratio", "s", "B"}
        Unit of the value: a ratio (of times, unless `what` says otherwise), seconds or bytes.
    needs : tuple of str
        Modules of the peer.
    memory : float
        GiB that the machine must have.
    quick : bool
        Whether ``--quick`` runs it.
    by : str
        Quantity in which the two sides differ by design; the ratio of times is divided by it.
    """

    name: str
    what: str
    target: float
    prepare: Prepare
    unit: str = "ratio"
    needs: tuple[str, ...] = ()
    memory: float = 0.0
    quick: bool = True
    by: str = "bytes"

    def missing(self) -> str:
        """Why the case cannot run here, or ""."""
        try:
            peers.need(*self.needs)
        except peers.Unavailable as reason:
            return str(reason)
        if machine_memory() < self.memory:
            return f"needs {self.memory:g} GiB of memory"
        return ""


def machine_memory() -> float:
    """GiB of memory of this machine; infinite where it cannot be asked."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return float("inf")


def pair(ours: Callable[[], Side], theirs: Callable[[], Side]) -> Prepare:
    """Make a case of two sides."""

    def prepare() -> Callable[[int], Figure]:
        return functools.partial(measure.ratio, ours(), theirs())

    return prepare
