"""``python -m numadam bench``: run the cases and print the table."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numadam.bench.case import Case
    from numadam.bench.report import Row

LAYERS = ("tbb", "omp", "workqueue")
_PAIRS, _QUICK_PAIRS = 15, 5
_VARIABLE = "NUMBA_THREADING_LAYER"
_PROBE = "from numadam import threads; print(threads.layer())"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the benchmarks to a parser."""
    parser.add_argument("--quick", action="store_true", help="fewer pairs, no case above 1 GB")
    parser.add_argument(
        "--options",
        action="store_true",
        help="another table: every option and rule against the plain step",
    )
    parser.add_argument(
        "--minimize", action="store_true", help="another table: minimize and minimize_many"
    )
    parser.add_argument(
        "--case", action="append", metavar="NAME", help="only this case; may be repeated"
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="wait this long for others to leave the machine alone, at each case",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE, too")
    parser.add_argument(
        "--layer",
        choices=(*LAYERS, "all"),
        help="run under this threading layer of Numba, in a process of its own",
    )


def run(args: argparse.Namespace) -> int:
    """Run the benchmarks; 0 unless a case's name or a layer is wrong."""
    from numadam.bench.cases import CASES, named
    from numadam.bench.option_cases import OPTION_CASES

    table = list(OPTION_CASES if args.options else CASES)
    if args.minimize:
        from numadam.bench.minimize_cases import MINIMIZE_CASES

        table = list(MINIMIZE_CASES)
    try:
        cases = [named(name) for name in args.case] if args.case else table
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if args.layer:
        tables = _run_layers(args)
        found = bool(tables)
    else:
        tables, found = [_run_here(cases, args.quick, args.wait)], True
    if args.json:
        try:
            args.json.write_text(json.dumps(tables, indent=1) + "\n")
        except OSError as error:
            print(f"--json: cannot write {args.json}: {error.strerror}.", file=sys.stderr)
            return 1
    return 0 if found else 1


def _run_here(cases: list[Case], quick: bool, wait: float) -> dict[str, Any]:
    from numadam.bench import report

    about = report.machine()
    print(report.introduction(about), report.head(), sep="\n\n", flush=True)
    rows = []
    for case in cases:
        rows.append(run_case(case, quick, wait))
        print(report.line(report.cells(rows[-1])), flush=True)
    return {"machine": about, "rows": [row.as_dict() for row in rows]}


def run_case(case: Case, quick: bool, wait: float = 0.0) -> Row:
    """Measure one case, or say why not.

    Where others use the machine it is measured again, for `wait` seconds; the quietest counts.
    """
    from numadam.bench import noise
    from numadam.bench.peers import Unavailable
    from numadam.bench.report import Row

    reason = case.missing()
    if not reason and quick and not case.quick:
        reason = "too large for --quick"
    if reason:
        return Row(case, None, reason)
    try:
        measuring = case.prepare()
    except Unavailable as unavailable:
        return Row(case, None, str(unavailable))
    end, best = time.monotonic() + wait, None
    while True:
        noise.wait_until_quiet(end)
        watch = noise.Watch()
        row = Row(case, measuring(_QUICK_PAIRS if quick else _PAIRS), busy=watch.busy())
        if best is None or (row.busy or 0.0) < (best.busy or 0.0):
            best = row
        if case.unit == "B" or (best.busy or 0.0) <= noise.LIMIT or time.monotonic() >= end:
            return best


def _environment(layer: str) -> dict[str, str]:
    """The environment in which Numba takes this layer."""
    environment = {key: value for key, value in os.environ.items() if key != _VARIABLE}
    if layer != "tbb":  # numadam itself finds the tbb wheel, but only where nobody has chosen
        environment[_VARIABLE] = layer
    return environment


def _run_layers(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run this program again under each layer; the tables of those that exist here."""
    tables = []
    for layer in LAYERS if args.layer == "all" else (args.layer,):
        environment = _environment(layer)
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        print(f"\n## {layer}\n", flush=True)
        if probe.stdout.strip() != layer:
            print(f"skipped: Numba has no threading layer {layer} here", flush=True)
            continue
        tables.append(_run_child(args, environment))
    return tables


def _run_child(args: argparse.Namespace, environment: dict[str, str]) -> dict[str, Any]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "numadam.bench", "--json", str(file)]
        command += ["--wait", str(args.wait), *(["--quick"] if args.quick else [])]
        command += ["--options"] if args.options else []
        command += ["--minimize"] if args.minimize else []
        command += [word for name in args.case or () for word in ("--case", name)]
        subprocess.run(command, env=environment, check=True)
        table: dict[str, Any] = json.loads(file.read_text())[0]
    return table
