"""Several calls that have to happen together: Ctrl-C comes before all of them, or after."""

from __future__ import annotations

import operator
import threading
import time

# what `signal.signal` and `signal.getsignal` call: their enums take 4 of the 15 us of a GPU step
from _signal import SIGINT, getsignal, signal  # type: ignore[import-not-found]
from _thread import interrupt_main, start_new_thread
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

#: Seconds after which Ctrl-C that came in the middle of llvmlite is tried again.
_RETRY = 0.01

#: Calls for `at_once`.
Writes = list[Callable[[], Any]]


def at_once(calls: Iterable[Callable[[], Any]]) -> None:
    """Call C functions with no bytecode between them: no exception from outside comes there.

    Signal handlers, and exceptions that another thread sets in this one, run between bytecodes
    alone. Whatever the calls need is bound before: `functools.partial` of C functions, with no
    method or descriptor that is written in Python.
    """
    deque(map(operator.call, list(calls)), maxlen=0)


class defer_interrupts:
    """Defer Ctrl-C: its handler runs when the block is done.

    Python runs signal handlers in the main thread only, so in any other there is nothing to do.
    Handlers of other signals that raise (a SIGALRM timeout, say) and exceptions that C code sets in
    a thread from outside are not deferred.
    """

    def __init__(self) -> None:
        self.caught: list[Any] = []
        self._handler: Any = None

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        handler = getsignal(SIGINT)
        if callable(handler):  # not ignored, nor the system's own, which run no Python code
            signal(SIGINT, lambda *args: self.caught.append(args))
            self._handler = handler

    def __exit__(self, *error: object) -> None:
        if self.end():
            self._handler(*self.caught[-1])

    def end(self) -> bool:
        """Put the handler back; whether it has to be called."""
        if self._handler is not None:
            signal(SIGINT, self._handler)
        return bool(self.caught)


class outside_llvmlite:
    """Let Ctrl-C wait, inside the block, while llvmlite itself runs; compiling goes on meanwhile.

    llvmlite hands objects over to LLVM in one call and notes it in the next. An exception between
    the two makes it free an object that LLVM frees, too: the process crashes.
    """

    def __init__(self) -> None:
        self._handler: Any = None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            handler = getsignal(SIGINT)
            if callable(handler):
                self._handler = handler
                signal(SIGINT, self._interrupt)

    def __exit__(self, *error: object) -> None:
        if self._handler is not None:
            signal(SIGINT, self._handler)

    def _interrupt(self, number: int, frame: Any) -> None:
        if _in_llvmlite(frame):
            start_new_thread(_interrupt_again, ())
        else:
            self._handler(number, frame)


def _in_llvmlite(frame: Any) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("llvmlite.binding"):
            return True
        frame = frame.f_back
    return False


def _interrupt_again() -> None:
    time.sleep(_RETRY)
    interrupt_main()
