"""Figures of the targets on different processors, side by side: docs/benchmarks/processors.md.

    python -m numadam bench --targets --wait 60 --json targets.json
    python -m numadam bench --size 1e4 --size 1e6 --json sizes.json
    python asv_benchmarks/processors.py targets.json sizes.json

writes the figures into the column of their processor, the others stay. Columns and cells lie in
processors.json, where they may also be changed by hand; without a file only the page is written.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from numadam.bench import machine, noise, report
from numadam.bench.cases import TARGETS

DOCS = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"
DATA, PAGE = DOCS / "processors.json", DOCS / "processors.md"
_BEGIN = "<!-- written by asv_benchmarks/processors.py from here on -->"
#: Cases whose own seconds are of interest, too.
_WITH_SECONDS = ("first-step", "overhead")


def cell(row):
    """The figure of a case: bold where its target is missed, with ? where others were busy."""
    if "value" not in row:
        return "not taken"
    text = report.quantity(row["value"], row["unit"])
    if row["case"].startswith(_WITH_SECONDS) and row["ours"]:
        text += f" ({report.seconds(row['ours'])})"
    if (row["busy"] or 0.0) > noise.LIMIT and row["unit"] != "B":
        text += " ?"
    return text if row["met"] else f"**{text}**"


def add(columns, table):
    """Write the figures of one run into the column of its processor."""
    about = table["machine"]
    title = about["processor"]  # with its family: the name says little
    if "family" in about:
        title += f", family {about['family']}"
    column = next((one for one in columns if one["title"] == title), None)
    if column is None:
        column = {"title": title, "cases": {}, "roofline": {}}
        columns.insert(0, column)
    column["about"] = machine.introduction(about).replace("\n", ", ")
    column["cases"] |= {row["case"]: cell(row) for row in table.get("rows", ())}
    column["roofline"] |= {
        str(row["elements"]): f"{row['ratio']['roofline']:.3f}"
        for row in table.get("sizes", ())
        if "roofline" in row["ratio"]
    }


def _lines(heads, rows):
    body = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in body)


def page(columns):
    """Both tables, and what the columns are."""
    titles = [one["title"] for one in columns]
    cases = [
        [case.name, case.what, report.target(case)]
        + [one["cases"].get(case.name, "-") for one in columns]
        for case in TARGETS
    ]
    sizes = sorted({int(size) for one in columns for size in one["roofline"]})
    rooflines = [
        [f"{size:,}", *(one["roofline"].get(str(size), "-") for one in columns)] for size in sizes
    ]
    parts = [f"- **{one['title']}**: {one['about']}" for one in columns]
    parts += ["", "## Targets", "", _lines(["case", "what", "target", *titles], cases)]
    if rooflines:
        parts += ["", "## A step / its memory traffic", ""]
        parts += [_lines(["elements", *titles], rooflines)]
    return "\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("figures", nargs="*", type=Path, help="files of `bench --json`")
    files = parser.parse_args().figures
    columns = json.loads(DATA.read_text())
    for file in files:
        for table in json.loads(file.read_text()):
            add(columns, table)
    DATA.write_text(json.dumps(columns, indent=1) + "\n")
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index(_BEGIN)] + f"{_BEGIN}\n\n{page(columns)}")


if __name__ == "__main__":
    main()
