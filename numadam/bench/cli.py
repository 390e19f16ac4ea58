"""``python -m numadam bench``: run the cases and print the table."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numadam.bench.case import Case
    from numadam.bench.report import Row

LAYERS = ("tbb", "omp", "workqueue")
#: Tables besides that of the sizes: module, name in it, and the help of their option.
TABLES = {
    "targets": (
        "cases",
        "TARGETS",
        "everything on the CPU that has a target: steps, start-up, minimisations",
    ),
    "options": (
        "option_cases",
        "OPTION_CASES",
        "cost of each option and rule, against the plain step",
    ),
    "minimize": ("minimize_cases", "MINIMIZE_CASES", "minimize and minimize_many"),
    "gpu": (
        "gpu_cases",
        "GPU_CASES",
        "every rule and option on the GPU, against the CPU and other libraries",
    ),
    "mpi": (
        "mpi_cases",
        "MPI_CASES",
        "two processes of MPI: memory, traffic, and time against torch",
    ),
}
_PAIRS, _QUICK_PAIRS = 15, 5
_PROBE = "from numadam._jit import threads; print(threads.layer())"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the benchmarks to a parser."""
    title = "another table, or a part of one"
    which = parser.add_argument_group(title).add_mutually_exclusive_group()
    for name, (_, _, text) in TABLES.items():
        which.add_argument(f"--{name}", action="store_true", help=text)
    which.add_argument(
        "--case",
        action="append",
        metavar="NAME",
        help="only this row of the tables; may be repeated",
    )
    which.add_argument(
        "--size",
        action="append",
        type=_elements,
        metavar="N",
        help="only arrays of N elements, such as 1000 or 1e6; may be repeated",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="PNG", help="draw time over size, with the roofline"
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, nothing large")
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="before each row, wait up to this long until other programs are idle",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE, too")
    parser.add_argument(
        "--layer",
        choices=(*LAYERS, "all"),
        help="run under this threading layer of Numba, in a process of its own",
    )


def _elements(text: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 1 <= number < 2**40 or number != int(number):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(number)


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return number


def run(args: argparse.Namespace) -> int:
    """Run the benchmarks; 0 unless a case's name, a file or a layer is wrong."""
    try:
        cases = _cases(args)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if problem := _check_plot(args, cases) or _check_json(args.json):
        print(problem, file=sys.stderr)
        return 2
    if problem := _missing(args):
        print(problem, file=sys.stderr)
        return 1
    tables = _run_layers(args) if args.layer else [_run_here(args, cases)]
    if args.plot and tables:
        from numadam.bench import sizes_plot

        sizes_plot.draw(tables, args.plot)
        print(f"\npicture: {args.plot.absolute()}", flush=True)
    if args.json:
        try:
            args.json.write_text(json.dumps(tables, indent=1) + "\n")
        except OSError as error:
            print(f"--json: cannot write {args.json}: {error.strerror}.", file=sys.stderr)
            return 1
    return 0 if tables else 1


def _cases(args: argparse.Namespace) -> list[Case] | None:
    """The cases of the table that is asked for; None for that of the sizes."""
    if args.case:
        from numadam.bench.cases import named

        return [named(name) for name in args.case]
    for name, (module, table, _) in TABLES.items():
        if getattr(args, name):
            return list(getattr(import_module(f"numadam.bench.{module}"), table))
    return None


def _missing(args: argparse.Namespace) -> str:
    """Why no case of a table can run here, or ""."""
    for name, module in (("mpi", "mpi_cases"), ("gpu", "gpu_peers")):
        if getattr(args, name):
            reason = import_module(f"numadam.bench.{module}").missing()
            return f"--{name}: {reason}" if reason else ""
    return ""


def _check_json(path: Path | None) -> str:
    """Why the figures cannot be written there, or "": asked before minutes of measuring."""
    if path is None:
        return ""
    is_new = not path.exists()
    try:
        with path.open("a"):
            pass
    except OSError as error:
        return f"--json: cannot write {path}: {error.strerror}."
    if is_new:
        path.unlink()
    return ""


def _check_plot(args: argparse.Namespace, cases: list[Case] | None) -> str:
    if args.plot is None:
        return ""
    if cases is not None:
        return (
            "--plot: draws the table of sizes; leave out --targets, --options, --minimize, --gpu, "
            "--mpi, --case."
        )
    from numadam.bench import sizes_plot

    return sizes_plot.check(args.plot)


def _run_here(args: argparse.Namespace, cases: list[Case] | None) -> dict[str, Any]:
    from numadam.bench import machine, noise

    about = machine.machine()
    print(machine.introduction(about), flush=True)
    if cases is not None and not args.gpu:
        print(machine.compared(about), flush=True)
    # with --wait each case waits; its share of others is said at the end
    warning = "" if args.wait else noise.busy_now()
    if warning:
        print(warning, file=sys.stderr, flush=True)
    kind, rows = ("sizes", _run_sizes(args)) if cases is None else ("rows", _run_cases(args, cases))
    if not warning and (warning := noise.busy_meanwhile(row["busy"] for row in rows)):
        print(warning, file=sys.stderr, flush=True)
    return {"machine": about, kind: rows}


def _run_cases(args: argparse.Namespace, cases: list[Case]) -> list[dict[str, Any]]:
    """Measure the cases and print the table line by line."""
    from numadam.bench import report

    print("", report.head(), sep="\n", flush=True)
    rows = []
    for case in cases:
        rows.append(run_case(case, args.quick, args.wait))
        print(report.line(report.cells(rows[-1])), flush=True)
    return [row.as_dict() for row in rows]


def _run_sizes(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure a step at each size and print the table line by line."""
    from numadam.bench import noise, sizes

    names, reasons = sizes.available()
    elements, lost = sizes.sizes_for(args.quick, args.size)
    for reason in (*reasons, *lost):
        print(f"left out: {reason}", flush=True)
    print(sizes.LEGEND, sizes.head(names), sep="\n\n", flush=True)
    rows = []
    for n in elements:
        noise.wait_until_quiet(time.monotonic() + args.wait)
        rows.append(sizes.measure_size(n, names, args.quick))
        print(sizes.line(rows[-1]), flush=True)
    return [row.as_dict() for row in rows]


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
        load = noise.Load()
        row = Row(case, measuring(_QUICK_PAIRS if quick else _PAIRS), busy=load.busy())
        if best is None or (row.busy or 0.0) < (best.busy or 0.0):
            best = row
        if case.unit == "B" or (best.busy or 0.0) <= noise.LIMIT or time.monotonic() >= end:
            return best


def _run_layers(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run this program again under each layer; the tables of those that exist here."""
    from numadam.bench.processes import layer_environment

    tables = []
    for layer in LAYERS if args.layer == "all" else (args.layer,):
        environment = layer_environment(layer)
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
        for name in TABLES:
            command += [f"--{name}"] if getattr(args, name) else []
        for name in ("case", "size"):
            command += [
                word for one in getattr(args, name) or () for word in (f"--{name}", str(one))
            ]
        subprocess.run(command, env=environment, check=True)
        table: dict[str, Any] = json.loads(file.read_text())[0]
    return table
