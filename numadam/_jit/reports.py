"""Reports of what is compiled: on the logger `numadam`, and on stderr.

stderr, a terminal or the log of a batch job, gets one line: it begins after `PATIENCE` seconds and
ends with the time that it took. ``logging.getLogger("numadam").setLevel("WARNING")`` silences both.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
import warnings
from _thread import start_new_thread
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: INFO: what was compiled; DEBUG: what was loaded from the disk, too.
logger = logging.getLogger("numadam")
logger.addHandler(logging.NullHandler())
#: The same of code with a user's function inside.
objective_logger = logger.getChild("objective")

#: Seconds of compiling after which the line begins.
PATIENCE = 1.0

#: "0": no line.
VARIABLE = "NUMADAM_COMPILE_LINE"

#: Held while a line is written: its end does not come before its begin, and a fork waits for it.
_printing = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_printing.acquire,
        after_in_parent=_printing.release,
        after_in_child=_printing.release,
    )
_DTYPE = re.compile(r"(.+?)-((?:complex|float)\d+)\b.*")


def _say(words: str, end: str = "") -> None:
    # closed, a terminal that is gone, or an object of the user's: nobody to tell
    with suppress(Exception):
        print(words, end=end, file=sys.stderr, flush=True)


class _Line:
    """One line on stderr, from `PATIENCE` seconds on."""

    def __init__(self, words: str) -> None:
        self._words, self._begun, self._ended = words, False, False
        self._over = threading.Lock()
        self._over.acquire()
        # no `threading.Timer`: its start waits until the thread runs Python code, for ever where
        # an exception that another thread sets ends that code
        with suppress(RuntimeError):  # too many threads: no line
            start_new_thread(self._wait, ())

    def _wait(self) -> None:
        if self._over.acquire(timeout=PATIENCE):
            return
        with _printing:
            if not self._ended:
                self._begun = True
                _say(self._words)

    def end(self, words: str) -> None:
        """Say no more, or end the line."""
        with _printing:
            self._ended = True
            if self._begun:
                _say(words, end="\n")
        self._over.release()


def _line_is_wanted() -> bool:
    """Whether there is a stderr, and nobody has silenced the line or the logger."""
    asked = os.environ.get(VARIABLE, "")
    if asked not in ("", "0", "1"):
        raise ValueError(f"{VARIABLE}: expected 0 or 1, got {asked!r}.")
    return asked != "0" and logger.level <= logging.INFO and sys.stderr is not None


class CacheWarning(RuntimeWarning):
    """Compiled loops cannot be cached on disk: each process compiles them again.

    The warning is given once in a process, when the first loop is compiled. The message names the
    folders that were tried.

    Examples
    --------
    >>> import warnings
    >>> import numadam as na
    >>> warnings.simplefilter("ignore", na.CacheWarning)
    """


_warned = False


def warn_once(reason: str) -> None:
    """Warn, once in a process, that loops are not kept, in the line of the user's that asked."""
    global _warned
    if _warned:
        return
    packages = (Path(__file__).parents[1], *sys.modules["numba"].__path__)
    ours = tuple(f"{package}{os.sep}" for package in packages)
    _warned, level, frame = True, 1, sys._getframe()  # noqa: SLF001  # as `warnings` itself
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ours):
        level, frame = level + 1, frame.f_back
    warnings.warn(
        f"numadam keeps no compiled loops: {reason}. Each process compiles them again, which takes "
        "seconds. Set NUMBA_CACHE_DIR to a folder that can be written.",
        CacheWarning,
        stacklevel=level,
    )


@contextmanager
def reported(what: str, folder: Path | None, log: logging.Logger = logger) -> Iterator[None]:
    """Report the compiling that runs inside; its folder keeps it, or this process only."""
    shown = _DTYPE.sub(r"\1 for \2", what)  # ``adam-float64-m+v-serial``: adam for float64
    once = ", once, kept on disk" if folder else ""
    line = _Line(f"numadam: compiling {shown}{once} ... ") if _line_is_wanted() else None
    where = f"kept in {folder}" if folder else "for this process only"
    start, took = time.perf_counter(), "stopped"
    try:
        yield
        took = f"{time.perf_counter() - start:.1f} s"
        log.info("compiled %s in %s, %s", what, took, where)
        took = took if folder else f"{took}, {where}"
    finally:
        if line is not None:
            line.end(took)
