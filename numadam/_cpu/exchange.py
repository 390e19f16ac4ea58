"""The call of a compiled step into Python, for the sums of squares of other processes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from numadam._backend import Exchange
from numadam._cpu.arguments import KernelArguments
from numadam._jit.interrupts import defer_interrupts
from numadam._settings.same import same_numbers

# takes the GIL, which a large step has let go
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)


class KernelExchange:
    """What brings the sums of other processes into the step of these arguments.

    `wrap` makes a kernel raise what happened in that call, and lets Ctrl-C wait for the end of the
    step: ranks stay in step.
    """

    def __init__(self, exchange: Exchange, arguments: KernelArguments) -> None:
        self._exchange, self._caught = exchange, list[BaseException]()
        exchange.words = arguments.sums.shape[1]
        # held here, as the kernel has only its address; it does not refer to this object
        self._callback = _CALLBACK(_make_fetch(exchange, arguments, self._caught))
        arguments.meta["exchange"] = ctypes.cast(self._callback, ctypes.c_void_p).value
        arguments.meta["rank"] = exchange.rank

    def wrap(self, kernel: Callable[..., Any]) -> Callable[..., int]:
        """A kernel, whose last argument is lr, as a function like it."""
        exchange, caught = self._exchange, self._caught

        def run(*args: Any) -> int:
            exchange.begin(args[-1])
            try:
                with defer_interrupts():
                    status = int(kernel(*args))
                if caught:
                    raise caught.pop()
            except BaseException as error:
                caught.clear()
                exchange.end(error)
                raise
            return status

        return run


def _make_fetch(
    exchange: Exchange, arguments: KernelArguments, caught: list[BaseException]
) -> Callable[[int], int]:
    """``fetch(meta_at)``: fill in the sums of the others; 1 where that failed, see `caught`."""
    meta, control, sums = arguments.meta, arguments.control, arguments.sums

    def fetch(meta_at: int) -> int:
        try:
            counted = meta["steps"][0], meta["calls"][0], meta["flushing"][0]
            same = same_numbers(counted, control)
            sums[...] = exchange.gather(sums[exchange.rank], same)
        except BaseException as error:  # an exception cannot pass through compiled code
            caught.append(error)
            return 1
        return 0

    return fetch
