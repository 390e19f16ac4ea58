"""A command as a process: Ctrl-C, outputs that are closed or full, letters that they lack."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIG_IGN, SIGINT, default_int_handler, getsignal, signal
from typing import Any, NoReturn

from numadam._jit.process import outside_llvmlite

FAILED = 1
#: As a shell counts processes that SIGINT and SIGPIPE have ended.
INTERRUPTED, PIPE_CLOSED = 130, 141


def run(command: Callable[[], int], name: str) -> int:
    """Run a command to its exit code; Ctrl-C ends the process, with a line of this name."""
    caught = _watch(name)
    code = FAILED
    try:
        _print_any_letter()
        with outside_llvmlite():
            code = command()
        code = _flush(name) or code
        if not caught:
            signal(SIGINT, SIG_IGN)  # Python's last moments have no handler
    except BrokenPipeError:
        code = PIPE_CLOSED
    except BaseException:
        if not caught:  # or it is what another library has made of Ctrl-C
            raise
    if caught:
        _stop(name)
    _discard_unwritten()
    return code


def _watch(name: str) -> list[int]:
    """Take Ctrl-C from here on; a list that it is added to."""
    caught: list[int] = []

    def interrupt(number: int, frame: Any) -> None:
        if caught:  # the first is still under way, or was caught by code that goes on
            os._exit(INTERRUPTED)
        caught.append(number)
        raise KeyboardInterrupt

    def lost(error: Any) -> None:
        # raised in a destructor or a callback of C, whose caller goes on
        if caught and isinstance(error.exc_value, KeyboardInterrupt):
            _stop(name)
        sys.__unraisablehook__(error)

    if getsignal(SIGINT) is default_int_handler:  # not ignored, as `nohup` may want it
        sys.unraisablehook = lost
        signal(SIGINT, interrupt)
    return caught


def _stop(name: str) -> NoReturn:
    """End at once: Python itself would end by the signal where text was executed meanwhile."""
    with contextlib.suppress(Exception):  # closed, or interrupted in the middle of a line
        sys.stdout.flush()
    with contextlib.suppress(Exception):
        start = "\n" if sys.stderr.isatty() else ""  # the terminal has written ^C
        print(f"{start}{name}: interrupted", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)


def _print_any_letter() -> None:
    """Print letters that the output's encoding lacks as escapes: a path may have some."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _flush(name: str) -> int:
    """Write what is left of the output; an exit code where that fails, else 0."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk
        with contextlib.suppress(OSError):
            print(f"{name}: error: cannot write the output: {error.strerror}", file=sys.stderr)
        return FAILED
    return 0


def _discard_unwritten() -> None:
    """Lose what cannot be written: Python would try again at its end, and print the error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def write_error(path: Path) -> str:
    """Why a file cannot be written, or "": asked before minutes of work. It stays as it is."""
    is_new = not path.exists()
    try:
        with path.open("a"):
            pass
    except OSError as error:
        return error.strerror or str(error)
    if is_new:
        path.unlink(missing_ok=True)  # another rank may have done it
    return ""
