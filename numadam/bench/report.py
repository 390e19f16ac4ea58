"""Output of the benchmarks: the table of cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from numadam.bench.case import Case
from numadam.bench.measure import Figure
from numadam.bench.noise import LIMIT

_HEADS = ("case", "ours", "theirs", "value", "target", "met", "busy", "what")


@dataclass(frozen=True)
class Row:
    """One case with its figure, or why there is none.

    `busy` is the share of the machine that others used meanwhile.
    """

    case: Case
    figure: Figure | None
    skipped: str = ""
    busy: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target was met; None where nothing was measured."""
        return None if self.figure is None else self.figure.value <= self.case.target

    def as_dict(self) -> dict[str, Any]:
        """The row as it is saved."""
        return {
            "case": self.case.name,
            "what": self.case.what,
            "unit": self.case.unit,
            "target": self.case.target,
            **(asdict(self.figure) if self.figure else {"skipped": self.skipped}),
            "met": self.met,
            "busy": self.busy,
        }


def seconds(value: float | None) -> str:
    """Seconds with a unit, three digits."""
    if value is None:
        return "-"
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def quantity(value: float, unit: str) -> str:
    """A value with its unit; a ratio has none."""
    if unit == "ratio":
        return f"{value:.3f}"
    return seconds(value) if unit == "s" else f"{value:.0f} B"


def target(case: Case) -> str:
    """The target of a case, with its unit."""
    return f"{case.target:g}" if case.unit == "ratio" else quantity(case.target, case.unit)


def cells(row: Row) -> tuple[str, ...]:
    """One line of the table."""
    case, figure = row.case, row.figure
    if figure is None:
        return (case.name, "-", "-", "-", target(case), "-", "-", f"skipped: {row.skipped}")
    value = quantity(figure.value, case.unit)
    doubt = row.busy is not None and row.busy > LIMIT and case.unit != "B"
    met = ("yes" if row.met else "NO") + ("?" if doubt else "")
    busy = "-" if row.busy is None else f"{row.busy:.0%}"
    by = "" if figure.expected == 1.0 else f" ({figure.expected:.3g} of its {case.by})"
    note = f" ({figure.note})" if figure.note else ""
    return (
        case.name,
        seconds(figure.ours),
        seconds(figure.theirs),
        value,
        target(case),
        met,
        busy,
        case.what + by + note,
    )


def line(entries: Sequence[str]) -> str:
    """One line as Markdown, wide enough to be read as plain text."""
    widths = (20, 8, 8, 8, 7, 4, 4, 0)
    padded = [entry.ljust(width) for entry, width in zip(entries, widths, strict=True)]
    return "| " + " | ".join(padded) + " |"


def head() -> str:
    """Return the first two lines of the table."""
    return line(_HEADS) + "\n|" + "---|" * len(_HEADS)
