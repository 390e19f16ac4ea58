"""``python -m numadam demo|bench|info``. Loads numba only for the command that needs it."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from signal import SIGINT, default_int_handler, getsignal, signal
from typing import Any, NoReturn

from numadam import _bench, _info
from numadam._demos import mlp
from numadam._version import __version__

PROGRAM = "python -m numadam"
FAILURE, USAGE_ERROR = 1, 2
#: As a shell counts processes that SIGINT and SIGPIPE have ended.
INTERRUPTED, PIPE_CLOSED = 130, 141

_TOP = """\
examples:
  python -m numadam demo            learn handwritten digits, with a picture
  python -m numadam bench --help    the speed of a step on this machine
  python -m numadam info            what to put into a bug report
"""
_DEMO = """\
examples:
  python -m numadam demo                    20 epochs, a second or two
  python -m numadam demo --hidden 128       128 hidden neurons
  python -m numadam demo --l2 1e-4          weights are pulled towards 0
  python -m numadam demo --bounds -0.2 0.2  parameters held in a box
  python -m numadam demo --epochs 50 --stop-accuracy 0.96
      stop when good enough

It draws a picture and prints figures. Loops are compiled before training
is timed. The data come with numadam.
"""
_BENCH = """\
Arrays of 1 to 50 million elements. A step is timed beside six lines of
Numba, ten of NumPy, and torch and optax if they are installed. The sides
take turns, so compare the ratios: seconds change from minute to minute.

examples:
  python -m numadam bench --quick                up to 1M elements, fast
  python -m numadam bench --size 5e4 --size 2e6  your own sizes

The column "busy" shows how much of the machine other programs used
meanwhile. Above 5 %, measure again. Above 50 % nothing is measured unless
--force is given.
More: docs/explanation/speed.md
"""
_INFO = """\
Versions, threading layer, cache folder, CPU and GPU. Please paste the
lines into a bug report.
"""


class _Help(argparse.HelpFormatter):
    """Help that fills the terminal's width; examples stay line by line, as they are written."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = text.strip().replace("``", "`").split("\n\n")
        return "\n\n".join(
            part if part.startswith("examples:") else textwrap.fill(part, width) for part in parts
        )


def _meant(word: str, known: Iterable[str]) -> str:
    """A question for the known words that a misspelt one may stand for, or ""."""
    spellings = [name for name in known if "_" not in name]
    close = difflib.get_close_matches(word.partition("=")[0], spellings, n=2, cutoff=0.7)
    return f"; did you mean {' or '.join(close)}?" if close else ""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, of the command that they concern."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, formatter_class=_Help)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse; a command refuses by itself what it does not know."""
        known, rest = super().parse_known_args(args, namespace)
        if rest:
            meant = _meant(rest[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(rest)}{meant}")
        return known, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += _meant(str(value), map(str, action.choices or ()))
            raise

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    top = _Parser(
        prog=PROGRAM,
        description="Adam for plain arrays: try it, measure it, see what it runs on.",
        epilog=_TOP,
    )
    top.add_argument("--version", action="store_true", help="print the version and exit")
    commands = top.add_subparsers(dest="command", title="commands", metavar="demo|bench|info")
    demo = commands.add_parser(
        "demo",
        help="learn handwritten digits, with a picture",
        description=mlp.__doc__,
        epilog=_DEMO,
    )
    mlp.add_arguments(demo)
    measured = commands.add_parser(
        "bench",
        help="measure the speed of a step on this machine",
        description="Measure the speed of a step: ratios of two sides, timed in turns.",
        epilog=_BENCH,
    )
    _bench.add_arguments(measured)
    text = "versions, threads, cache folder, CPU, GPU"
    commands.add_parser("info", help=text, description=_INFO)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0, 1 where it failed, 2 where it was misused.

    Without `argv` it is this process's own: then Ctrl-C ends the process.
    """
    if argv is None:
        return run_process(lambda: main(sys.argv[1:]), PROGRAM)
    try:
        return _run(list(argv))
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    except KeyboardInterrupt:  # also in the seconds of the imports
        return INTERRUPTED


def _run(words: list[str]) -> int:
    top = parser()
    args = top.parse_args(words)
    if args.version:
        print(f"numadam {__version__}")
        return 0
    if args.command is None:
        top.print_help()
        return USAGE_ERROR
    try:
        return {"demo": _demo, "bench": _bench.run, "info": _info.run}[args.command](args)
    except BrokenPipeError:  # `| head`: no error of ours
        raise
    except (OSError, RuntimeError) as error:  # a folder that cannot be written, a setting of Numba
        return _fail(args.command, error, FAILURE)


def _fail(command: str, message: object, code: int) -> int:
    print(f"{PROGRAM} {command}: error: {message}", file=sys.stderr)
    return code


def _demo(args: argparse.Namespace) -> int:
    given = {k: v for k, v in vars(args).items() if k not in ("command", "version")}
    try:
        mlp.main(**given)
    except (mlp.MissingExtra, ValueError) as error:
        return _fail("demo", error, USAGE_ERROR)
    return 0


# --- a command as a process ----------------------------------------------------------------------


def run_process(command: Callable[[], int], name: str) -> int:
    """Run a command to its exit code; Ctrl-C ends the process, with a line of this name."""
    if getsignal(SIGINT) is default_int_handler:  # not ignored, as `nohup` may want it
        signal(SIGINT, partial(_stop, name))
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # letters of a path that it lacks
    try:
        code = command()
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        code = PIPE_CLOSED
    except OSError as error:  # a full disk
        print(f"{name}: error: cannot write the output: {error.strerror}", file=sys.stderr)
        code = FAILURE
    # Python would try again at its end to write what is left, and print the error
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _stop(name: str, number: int, frame: Any) -> NoReturn:
    """End the process at once: an exception could be lost, in a destructor or in a compiler."""
    with contextlib.suppress(Exception):  # closed, or interrupted in the middle of a line
        sys.stdout.flush()
    with contextlib.suppress(Exception):
        start = "\n" if sys.stderr.isatty() else ""  # the terminal has written ^C
        print(f"{start}{name}: interrupted", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)
