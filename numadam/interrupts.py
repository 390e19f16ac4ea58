"""Ctrl-C waits while several calls have to happen together."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def held_back() -> Iterator[None]:
    """Hold Ctrl-C back: its handler runs when the block is done.

    Python runs signal handlers in the main thread only, so in any other there is nothing to do.
    What this cannot hold: handlers of other signals that raise (a SIGALRM timeout, say), and
    exceptions that C code sets in a thread from outside.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):  # ignored, or the system's own: no Python code runs
        yield
        return
    caught: list[Any] = []
    try:
        signal.signal(signal.SIGINT, lambda *args: caught.append(args))
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if caught:
            handler(*caught[-1])
