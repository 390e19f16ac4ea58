"""Cases of the suite in one process, as a table with targets:

    python asv_benchmarks/run.py                          # all that has a target on the CPU
    python asv_benchmarks/run.py options                  # files of the suite: gpu, ...
    python asv_benchmarks/run.py --case torch-1M          # one case; may be repeated
    python asv_benchmarks/run.py gpu --json gpu.json      # the figures to a file, too

asv takes the same figures over commits. With NUMADAM_BENCH_LARGE=1 the cases of 50M elements run.
"""

from __future__ import annotations

import argparse
import importlib
import json
from dataclasses import asdict
from pathlib import Path

import machine
from benchmarks.common import LARGE, Unavailable

from numadam._bench import measure, seconds_text

#: Files of the suite that have cases, the first ones with targets of the CPU.
TARGETS, OTHERS = ("step", "by_hand", "start", "minimize"), ("options", "gpu")
_HEADS = ("case", "ours", "theirs", "value", "target", "met", "busy", "what")
_WIDTHS = (20, 8, 8, 8, 7, 4, 4, 0)


def cases_of(files):
    """Cases by name and their unit, of these files of the suite."""
    modules = [importlib.import_module(f"benchmarks.{name}") for name in files]
    kept = {}
    for module in modules:
        for thing in vars(module).values():
            if getattr(thing, "cases", None) and thing.__module__ == module.__name__:
                kept |= {name: (case, thing.unit) for name, case in thing.cases.items()}
    return kept


def measured(name, case, unit, pairs, wait):
    """Measure one case, or say why not; the quietest of several tries counts."""
    row = {"case": name, "what": case.what, "unit": unit, "target": case.target}
    reason = case.missing() or ("" if LARGE or not case.memory else "NUMADAM_BENCH_LARGE=1 runs it")
    try:
        take = None if reason else case.make()
    except Unavailable as error:
        reason = str(error)
    if reason:
        return {**row, "skipped": reason, "met": None, "busy": None}
    figure, busy = machine.quietest(lambda: take(pairs), 0.0 if unit == "B" else wait)
    return {
        **row,
        **asdict(figure),
        "by": case.by,
        "met": figure.value <= case.target,
        "busy": busy,
    }


def quantity(value, unit):
    """A value with its unit; a ratio has none."""
    if unit == "ratio":
        return f"{value:.3f}"
    return seconds_text(value) if unit == "s" else f"{value:.0f} B"


def target_text(value, unit):
    return f"{value:g}" if unit == "ratio" else quantity(value, unit)


def in_doubt(row):
    """Whether others used the machine so much that times say little."""
    return (row["busy"] or 0.0) > measure.LIMIT and row["unit"] != "B"


def line(entries):
    """One line as Markdown, wide enough to be read as plain text."""
    padded = [entry.ljust(width) for entry, width in zip(entries, _WIDTHS, strict=True)]
    return "| " + " | ".join(padded) + " |"


def cells(row):
    """One row of the table."""
    target = target_text(row["target"], row["unit"])
    if "value" not in row:
        return row["case"], "-", "-", "-", target, "-", "-", f"skipped: {row['skipped']}"
    by = f" ({row['expected']:.3g} of its {row['by']})" if row["expected"] != 1.0 else ""
    note = f" ({row['note']})" if row["note"] else ""
    return (
        row["case"],
        *("-" if row[side] is None else seconds_text(row[side]) for side in ("ours", "theirs")),
        quantity(row["value"], row["unit"]),
        target,
        ("yes" if row["met"] else "NO") + ("?" if in_doubt(row) else ""),
        "-" if row["busy"] is None else f"{row['busy']:.0%}",
        row["what"] + by + note,
    )


def main(words=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    files = (*TARGETS, *OTHERS)
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"of {', '.join(files)}")
    parser.add_argument("--case", action="append", metavar="NAME", help="only this case")
    parser.add_argument("--pairs", type=int, default=15, help="samples a figure (default: 15)")
    parser.add_argument("--wait", type=float, default=0.0, help="for others to leave, seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures, too")
    args = parser.parse_args(words)
    if unknown := set(args.files) - set(files):
        parser.error(f"there is no file {unknown.pop()!r}. Choose from: {', '.join(files)}.")
    chosen = cases_of(args.files or (files if args.case else TARGETS))
    if unknown := set(args.case or ()) - set(chosen):
        parser.error(f"--case: there is no {unknown.pop()!r}. Choose from: {', '.join(chosen)}.")
    about, rows = machine.machine(), []
    print(machine.introduction(about), "", line(_HEADS), sep="\n")
    print("|" + "---|" * len(_HEADS), flush=True)
    for name in args.case or chosen:
        rows.append(measured(name, *chosen[name], args.pairs, args.wait))
        print(line(cells(rows[-1])), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
