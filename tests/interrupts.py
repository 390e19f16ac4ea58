"""Exceptions from outside: after some work, or before every bytecode of numadam that runs."""

from __future__ import annotations

import _thread
import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numadam

_PACKAGE = str(Path(numadam.__file__).parent)


class Strike(Exception):
    """Stands for KeyboardInterrupt, or for what another thread sets in this one."""


@contextlib.contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Ctrl-C after so many seconds of processor time; the test uses the fixture `ctrl_c`.

    On a busy machine the block has then done as much as on a quiet one.
    """
    over, end = threading.Event(), time.process_time() + seconds

    def watch() -> None:
        while not over.wait(0.001):
            if time.process_time() > end:
                _thread.interrupt_main()
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _raise() -> None:
    raise Strike


def _struck_at(k: int, work: Callable[[], Any], inside: str, strike: Callable[[], None]) -> bool:
    """Call `work` with a strike before its k-th bytecode; False where it has fewer."""
    left = k

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(_PACKAGE + inside):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0:
                sys.settrace(None)
                strike()
        return trace

    before = sys.gettrace()
    # Python 3.12 traces bytecodes only where a frame has asked for it before settrace
    sys._getframe().f_trace_opcodes = True
    try:
        sys.settrace(trace)
        work()
    except (Strike, KeyboardInterrupt):
        return True
    finally:
        sys.settrace(before)
    return left < 0


def strike_everywhere(
    make: Callable[[], Any],
    work: Callable[[Any], Any],
    check: Callable[[Any], None],
    *,
    inside: str = "",
    strike: Callable[[], None] = _raise,
    every: int = 1,
) -> int:
    """Repeat ``work(make())`` with a strike at every bytecode in turn; `check` what it leaves.

    Parameters
    ----------
    inside : str
        Folder or file of numadam, such as ``"/_cpu"``, whose bytecodes count.
    strike : callable
        What happens there; a signal that is deferred does not end the work.
    every : int
        Bytecodes from one strike to the next.

    Returns
    -------
    int
        How many bytecodes there were.
    """
    for k in itertools.count(step=every):
        thing = make()
        struck = _struck_at(k, lambda thing=thing: work(thing), inside, strike)
        check(thing)
        if not struck:
            return k
    raise AssertionError
