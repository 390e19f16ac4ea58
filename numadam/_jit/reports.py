"""Reports of what is compiled: on the logger `numadam`, and on a terminal where it takes long.

A terminal gets one line: it begins after `PATIENCE` seconds and ends with the time that it took.
``logging.getLogger("numadam").setLevel("WARNING")`` silences both.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from _thread import start_new_thread
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: INFO: what was compiled; DEBUG: what was loaded from the disk, too.
logger = logging.getLogger("numadam")
logger.addHandler(logging.NullHandler())

#: Seconds of compiling after which a terminal is told.
PATIENCE = 2.0


class _TerminalLine:
    """One line on the terminal, from `PATIENCE` seconds on."""

    def __init__(self, what: str) -> None:
        self._what, self._begun, self._ended = what, False, False
        self._printing, self._over = threading.Lock(), threading.Lock()
        self._over.acquire()
        # no `threading.Timer`: its start may wait for ever, see `pool`
        with suppress(RuntimeError):  # too many threads: no line
            start_new_thread(self._wait, ())

    def _wait(self) -> None:
        if self._over.acquire(timeout=PATIENCE):
            return
        with self._printing:
            if not self._ended:
                self._begun = True
                print(f"numadam: compiling {self._what} ... ", end="", file=sys.stderr, flush=True)

    def end(self, words: str) -> None:
        """Say no more, or end the line."""
        with self._printing:
            self._ended = True
        self._over.release()
        if self._begun:
            print(words, file=sys.stderr, flush=True)


def _on_terminal() -> bool:
    """Whether somebody watches who has not silenced the logger."""
    stream = sys.stderr  # None without a console
    return logger.level <= logging.INFO and stream is not None and stream.isatty()


@contextmanager
def reported(what: str, folder: Path | None) -> Iterator[None]:
    """Report the compiling that runs inside, which is kept in a folder or for this process."""
    line, start, took = None, time.perf_counter(), "stopped"
    where = "for this process only" if folder is None else f"kept in {folder}"
    try:
        if _on_terminal():
            line = _TerminalLine(what)
        yield
        took = f"{time.perf_counter() - start:.1f} s, {where}"
        logger.info("compiled %s in %s", what, took)
    finally:
        if line is not None:
            line.end(took)
