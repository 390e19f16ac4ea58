"""The first table of ``python -m numadam bench``: a step at sizes from 1 to 50M elements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from numadam.bench import measure, noise, peers
from numadam.bench.case import machine_memory
from numadam.bench.measure import Side
from numadam.bench.peers import Unavailable
from numadam.bench.report import seconds

SIZES = (
    *(1, 10, 100, 1000, 10_000, 50_000, 100_000, 500_000),
    *(1_000_000, 5_000_000, 10_000_000, 50_000_000),
)
_QUICK = 1_000_000
#: Bytes of an element that all sides together hold and make on their way.
_BYTES = 140
_ROUNDS, _FEW = 15, 5

OURS, ROOFLINE = "numadam", "roofline"
#: What is timed: float32 arrays of n elements each.
SIDES: dict[str, Callable[[int], Side]] = {
    OURS: peers.step,
    ROOFLINE: peers.roofline,
    "NumPy": peers.numpy_adam,
    "torch": peers.torch_fused,
    "optax": peers.optax_adam,
    "DeepSpeed": peers.deepspeed_adam,
}
LEGEND = (
    "float32, one array. Each cell: median time of a step; in brackets numadam's time / this time\n"
    "(below 1: numadam is faster).\n"
    "roofline: the memory traffic of a step and one addition a stream, in its parts and threads."
)


@dataclass(frozen=True)
class SizeRow:
    """One size: seconds a step of each side, and ours / theirs, round by round."""

    elements: int
    seconds: Mapping[str, float]
    ratio: Mapping[str, float]
    busy: float | None

    def as_dict(self) -> dict[str, Any]:
        """The row as it is saved."""
        return asdict(self)


def available(sides: Mapping[str, Callable[[int], Side]] = SIDES) -> tuple[list[str], list[str]]:
    """The sides that run here, and why the others do not."""
    found, reasons = [], []
    for name, make in sides.items():
        try:
            make(1)()
        except Unavailable as reason:
            reasons.append(str(reason))
        else:
            found.append(name)
    return found, list(dict.fromkeys(reasons))  # two sides may lack the same package


def sizes_for(quick: bool, asked: Sequence[int] | None) -> tuple[list[int], list[str]]:
    """The sizes that fit into this machine, and what is said of the others."""
    sizes = list(asked or (n for n in SIZES if not quick or n <= _QUICK))
    free = machine_memory() * 2**30
    fitting = [n for n in sizes if n * _BYTES <= free]
    lost = [f"{n:,} elements need {n * _BYTES / 2**30:.3g} GiB" for n in sizes if n not in fitting]
    return fitting, lost


def measure_size(n: int, names: Sequence[str], quick: bool) -> SizeRow:
    """Time all sides in turns."""
    sides = [SIDES[name](n) for name in names]
    load = noise.Load()
    times = dict(zip(names, measure.rounds(sides, _FEW if quick else _ROUNDS), strict=True))
    ratio = {
        name: median(a / b for a, b in zip(times[OURS], times[name], strict=True))
        for name in names
        if name != OURS
    }
    busy = load.busy()
    return SizeRow(n, {name: median(one) for name, one in times.items()}, ratio, busy)


def _line(entries: Sequence[str]) -> str:
    first, *others = entries
    return "| " + " | ".join([first.rjust(10), *(entry.ljust(15) for entry in others)]) + " |"


def head(names: Sequence[str]) -> str:
    """Return the first two lines of the table."""
    columns = ("elements", *names, "busy")
    return _line(columns) + "\n|" + "---:|" + "---|" * (len(columns) - 1)


def line(row: SizeRow) -> str:
    """One size as a line of the table."""
    entries = [f"{row.elements:,}"]
    for name, time in row.seconds.items():
        by = f" ({row.ratio[name]:.2f})" if name in row.ratio else ""
        entries.append(seconds(time) + by)
    return _line([*entries, "-" if row.busy is None else f"{row.busy:.0%}"])
