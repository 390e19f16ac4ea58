"""Load by other programs: a figure from a busy machine decides nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

#: Share of the machine from which a figure is in doubt. Peers that spin (OpenMP) then lose most,
#: so a busy machine flatters.
LIMIT = 0.05


def _machine_seconds() -> float | None:
    """CPU seconds that all processes have used, and what the hypervisor took; None if unknown."""
    try:
        first = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        user, nice, system, _, _, irq, softirq, steal = map(int, first[1:9])
    except (OSError, ValueError):
        return None
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    return sum(os.times()[:4])  # this process and the children that have ended


class Load:
    """The load by other processes since the object was made."""

    def __init__(self) -> None:
        self._wall, self._own, self._machine = time.monotonic(), _own_seconds(), _machine_seconds()

    def busy(self) -> float | None:
        """Share of all cores that others used since then; None where it cannot be known."""
        machine = _machine_seconds()
        if machine is None or self._machine is None:
            return None
        others = (machine - self._machine) - (_own_seconds() - self._own)
        whole = (time.monotonic() - self._wall) * (os.cpu_count() or 1)
        return min(1.0, max(0.0, others / whole)) if whole > 0 else None


def busy_now() -> str:
    """A sentence where other programs want the cores, or ""."""
    cores = os.cpu_count() or 1
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows
        return ""
    if load <= cores / 2:
        return ""
    return (
        f"The machine is busy: a load of {load:.1f} on {cores} cores in the last minute. Figures "
        "will be in doubt; --wait SECONDS waits for quiet."
    )


def busy_meanwhile(shares: Iterable[float | None]) -> str:
    """A sentence where others used the machine during a measurement, or ""."""
    most = max((share or 0.0 for share in shares), default=0.0)
    if most <= LIMIT:
        return ""
    return (
        f"The machine was busy: other programs used up to {most:.0%} of it. Figures in such rows "
        "are in doubt; --wait SECONDS waits for quiet."
    )


def wait_until_quiet(end: float, nap: float = 0.5) -> None:
    """Sleep until others leave the machine alone, or the monotonic clock reaches `end`."""
    while time.monotonic() < end:
        load = Load()
        time.sleep(nap)
        if (load.busy() or 0.0) <= LIMIT:
            return
