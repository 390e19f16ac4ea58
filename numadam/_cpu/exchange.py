"""The call of a compiled step into Python, for the sums of squares of other processes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from numadam._arrays.layout import address_of
from numadam._backend import Exchange
from numadam._cpu.arguments import KernelArguments
from numadam._cpu.compiled import sum_up_address
from numadam._cpu.norm_kernel import NORMS_AGAIN, NORMS_FINITE, NORMS_REFUSED
from numadam._cpu.records import NORM_SUM
from numadam._jit.interrupts import defer_interrupts
from numadam._settings.settings import same_numbers

# takes the GIL, which a large step has let go
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)
_SUM_UP = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 3)


class KernelExchange:
    """Callback that brings the sums of other processes into the step of these arguments.

    `wrap` makes a kernel raise what happened in that call, and lets Ctrl-C wait for the end of the
    step: ranks stay in step.
    """

    def __init__(self, exchange: Exchange, arguments: KernelArguments) -> None:
        self._exchange, self._caught = exchange, list[BaseException]()
        meta, norm = arguments.meta, arguments.plan.norm
        if not norm:  # no step meets others
            return
        own = np.zeros(1 if norm == "all" else len(arguments.layout.shapes), NORM_SUM)
        sums = np.zeros((len(own), exchange.size, 2), np.int64)
        exchange.words = own.view(np.int64).size
        # held here, as the kernel has only its address; it does not refer to this object
        self._callback = _CALLBACK(_make_fetch(exchange, arguments, own, sums, self._caught))
        meta["exchange"] = ctypes.cast(self._callback, ctypes.c_void_p).value
        meta["ranks"], meta["sums"] = exchange.size, address_of(sums)

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
    exchange: Exchange,
    arguments: KernelArguments,
    own: np.ndarray,
    sums: np.ndarray,
    caught: list[BaseException],
) -> Callable[[int], int]:
    """``fetch(meta_at) -> status``: fill in the sums of all processes; where it fails, `caught`.

    `own` are the sums of this process. Sums of unlike units cannot be added: all processes take
    the largest and form their sums anew.
    """
    meta, control, leaves = arguments.meta, arguments.control, arguments.leaves
    sum_up, own_at = _SUM_UP(sum_up_address()), address_of(own)

    def fetch(meta_at: int) -> int:
        try:
            sum_up(meta_at, own_at, len(own))
            counted = meta["steps"][0], meta["calls"][0], meta["flushing"][0]
            same = same_numbers(counted, control)
            rows = exchange.gather(own.view(np.int64), same)
            rows = rows.reshape(exchange.size, len(own), 3)
            units = rows[:, :, 2]
            if (units != units[0]).any():
                leaves["exponent"][:-1] = units.max(axis=0)
                return NORMS_AGAIN
            sums[...] = rows[:, :, :2].swapaxes(0, 1)
        except BaseException as error:  # an exception cannot pass through compiled code
            caught.append(error)
            return NORMS_REFUSED
        return NORMS_FINITE

    return fetch
