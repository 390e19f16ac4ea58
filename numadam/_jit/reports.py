"""Reports of what is compiled: on the logger `numadam`, and on a terminal where it takes long.

A terminal gets one line: it begins after `PATIENCE` seconds and ends with the time that it took.
``logging.getLogger("numadam").setLevel("WARNING")`` silences both.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: INFO: what was compiled; DEBUG: what was loaded from the disk, too.
logger = logging.getLogger("numadam")
logger.addHandler(logging.NullHandler())

#: Seconds of compiling after which a terminal is told.
PATIENCE = 2.0


class _TerminalLine:
    """One line on the terminal, from `PATIENCE` seconds on."""

    def __init__(self, what: str) -> None:
        self._what, self._begun = what, False
        self._timer = threading.Timer(PATIENCE, self._begin)
        self._timer.daemon = True
        self._timer.start()

    def _begin(self) -> None:
        self._begun = True
        print(f"numadam: compiling {self._what} ... ", end="", file=sys.stderr, flush=True)

    def end(self, words: str) -> None:
        """Say no more, or end the line."""
        self._timer.cancel()
        self._timer.join()
        if self._begun:
            print(words, file=sys.stderr, flush=True)


def _on_terminal() -> bool:
    """Whether somebody watches who has not silenced the logger."""
    stream = sys.stderr  # None without a console
    return logger.level <= logging.INFO and stream is not None and stream.isatty()


@contextmanager
def reported(what: str, folder: Path | None) -> Iterator[None]:
    """Report the compiling that runs inside, which is kept in a folder or for this process."""
    line = _TerminalLine(what) if _on_terminal() else None
    start, took = time.perf_counter(), "stopped"
    where = "for this process only" if folder is None else f"kept in {folder}"
    try:
        yield
        took = f"{time.perf_counter() - start:.1f} s, {where}"
        logger.info("compiled %s in %s", what, took)
    finally:
        if line is not None:
            line.end(took)
