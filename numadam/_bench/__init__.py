"""``python -m numadam bench``: a step at sizes from 1 to 50M elements, beside its peers.

Every figure is a ratio of two sides that took turns in one run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from numadam._bench import measure
from numadam._bench.measure import Side

__all__ = ["add_arguments", "run"]

SIZES = [1, 10, 100, 1000, 10_000, 50_000, 100_000, 500_000, 10**6, 5 * 10**6, 10**7, 5 * 10**7]
_QUICK = 1_000_000
#: Bytes of an element that all sides together hold and make on their way.
_BYTES = 140
#: Share of the machine used by others above which nothing is measured.
_TOO_BUSY = 0.5
OURS = "numadam"
#: Functions of `peers` that are timed: float32 arrays of n elements each.
SIDES = {
    OURS: "step",
    "Numba, by hand": "numba_adam",
    "NumPy": "numpy_adam",
    "torch": "torch_fused",
    "optax": "optax_adam",
}
_LEGEND = """
float32, one array. Each cell: median time of a step; in brackets numadam's time / this time
(below 1: numadam is faster). Numba, by hand: six lines of Adam, without options and checks,
serial or with prange, whichever is faster.
"""

#: Makes a side of n elements.
Make = Callable[[int], Side]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the benchmarks to a parser."""
    add = parser.add_argument
    text = "only arrays of N elements, such as 1000 or 1e6; may be repeated"
    add("--size", action="append", type=_elements, metavar="N", help=text)
    add("--quick", action="store_true", help="fewer repetitions, nothing large")
    add("--force", action="store_true", help="measure although others use the machine")


def _elements(text: str) -> int:
    with contextlib.suppress(ValueError):
        number = float(text)
        if 1 <= number < 2**40 and number == int(number):
            return int(number)
    raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")


def run(args: argparse.Namespace) -> int:
    """Measure steps of all sizes, and print the table line by line."""
    from numadam._bench import peers
    from numadam._info import cpu
    from numadam._jit import process

    sizes, lost = sizes_for(args.quick, args.size)
    if not sizes:
        raise RuntimeError(f"--size: {'; '.join(lost)}")
    if not args.force and (share := measure.busy_now()) > _TOO_BUSY:
        raise RuntimeError(f"other programs use {share:.0%} of the machine: wait, or add --force")
    try:
        machine = f"{cpu()}, {process.thread_count()} threads, {process.layer()}"
    except ValueError as error:  # there is no such layer, or not here
        raise RuntimeError(f"NUMBA_THREADING_LAYER: {error}") from error
    sides, missing = available({name: getattr(peers, side) for name, side in SIDES.items()})
    print(machine, *(f"left out: {reason}" for reason in (*missing, *lost)), sep="\n")
    print(_LEGEND, head(sides), sep="\n", flush=True)
    busy = 0.0
    for n in sizes:
        row = compare({name: make(n) for name, make in sides.items()}, 5 if args.quick else 15)
        busy = max(busy, row["busy"] or 0.0)
        print(line(n, row), flush=True)
    if busy > measure.LIMIT:
        text = f"The machine was busy: other programs used up to {busy:.0%} of it. Measure again."
        print(text, file=sys.stderr, flush=True)
    return 0


def sizes_for(quick: bool, asked: Sequence[int] | None) -> tuple[list[int], list[str]]:
    """The sizes that fit into this machine, and a reason for each other one."""
    sizes = list(asked or (n for n in SIZES if not quick or n <= _QUICK))
    fitting = [n for n in sizes if n * _BYTES <= machine_memory()]
    lost = [f"{n:,} elements need {n * _BYTES / 2**30:.3g} GiB" for n in sizes if n not in fitting]
    return fitting, lost


def machine_memory() -> float:
    """Bytes of memory of this machine; huge where it cannot be asked."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return float(sys.maxsize)


def available(sides: Mapping[str, Make]) -> tuple[dict[str, Make], list[str]]:
    """The sides that run here, and why the others do not."""
    from numadam._bench.peers import Unavailable

    found, reasons = {}, []
    for name, make in sides.items():
        try:
            make(1)()
            found[name] = make
        except Unavailable as reason:
            reasons.append(str(reason))
    return found, list(dict.fromkeys(reasons))  # two sides may lack the same package


def compare(sides: Mapping[str, Side], count: int) -> dict[str, Any]:
    """Time all sides in turns: seconds of each, ours / theirs round by round, load by others."""
    load = measure.Load()
    times = dict(zip(sides, measure.rounds(list(sides.values()), count), strict=True))
    ratio = {
        name: median(a / b for a, b in zip(times[OURS], times[name], strict=True))
        for name in sides
        if name != OURS
    }
    seconds = {name: median(each) for name, each in times.items()}
    return {"seconds": seconds, "ratio": ratio, "busy": load.busy()}


def seconds_text(value: float) -> str:
    """Seconds with a unit, three digits."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def _line(entries: Sequence[str]) -> str:
    first, *others = entries
    return "| " + " | ".join([first.rjust(10), *(entry.ljust(15) for entry in others)]) + " |"


def head(names: Iterable[str]) -> str:
    """Return the first two lines of a table."""
    columns = ("elements", *names, "busy")
    return _line(columns) + "\n|" + "---:|" + "---|" * (len(columns) - 1)


def line(n: int, row: Mapping[str, Any]) -> str:
    """One comparison as a line of a table."""
    entries = [f"{n:,}"]
    for name, time in row["seconds"].items():
        by = f" ({row['ratio'][name]:.3f})" if name in row["ratio"] else ""
        entries.append(seconds_text(time) + by)
    return _line([*entries, "-" if row["busy"] is None else f"{row['busy']:.0%}"])
