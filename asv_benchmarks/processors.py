"""Figures of the targets on different processors, side by side: processors.json.

    NUMADAM_BENCH_LARGE=1 python asv_benchmarks/run.py --wait 60 --json targets.json
    python asv_benchmarks/processors.py targets.json

writes the figures into the column of their processor in processors.json; the others stay, and may
be changed by hand. The build of the documentation makes the tables of processors.md from that file
(docs/_ext/benchmark_tables.py).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import machine
import run

from numadam._bench import seconds_text

DOCS = Path(__file__).resolve().parents[1] / "docs" / "development" / "benchmarks"
DATA = DOCS / "processors.json"
#: Cases whose own seconds are of interest, too.
_WITH_SECONDS = ("first-step", "overhead")


def cell(row):
    """The figure of a case: bold where its target is missed, with ? where others were busy."""
    if "value" not in row:
        return "not taken"
    text = run.quantity(row["value"], row["unit"])
    if row["case"].startswith(_WITH_SECONDS) and row["ours"]:
        text += f" ({seconds_text(row['ours'])})"
    if run.in_doubt(row):
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
        column = {"title": title, "cases": {}}
        columns.insert(0, column)
    column["about"] = machine.introduction(about).replace("\n", ", ")
    column["cases"] |= {row["case"]: cell(row) for row in table.get("rows", ())}


def tables(columns):
    """The table as Markdown, and what the columns are."""
    titles = [one["title"] for one in columns]
    cases = [
        [name, case.what, run.target_text(case.target, unit)]
        + [one["cases"].get(name, "-") for one in columns]
        for name, (case, unit) in run.cases_of(run.TARGETS).items()
    ]
    parts = [f"- **{one['title']}**: {one['about']}" for one in columns]
    parts += ["", "**Targets**", "", machine.table(["case", "what", "target", *titles], cases)]
    return "\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("figures", nargs="+", type=Path, help="files of `--json`")
    files = parser.parse_args().figures
    columns = json.loads(DATA.read_text())
    for file in files:
        add(columns, json.loads(file.read_text()))
    DATA.write_text(json.dumps(columns, indent=1) + "\n")


if __name__ == "__main__":
    main()
