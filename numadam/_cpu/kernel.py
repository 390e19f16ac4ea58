"""The compiled step of some memory: its form, and the exchange of norms with other processes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from numadam._arrays.interop import address_of
from numadam._core.plan import Plan
from numadam._cpu.loop import AT, FOLLOW, HELD, MEASURE, PARALLEL, SERIAL, compiled_step
from numadam._cpu.memory import StepMemory
from numadam._jit import process
from numadam._jit.process import Writes, at_once, defer_interrupts
from numadam._settings.settings import same_numbers

if TYPE_CHECKING:
    from numadam._mpi import StepExchange

#: Numbers up to which a step keeps the GIL: below, waiting for it again would cost more than other
#: threads could do meanwhile.
_HELD_BELOW = min(process.CUTOVER.values())


class Kernel:
    """The compiled step of some memory, in the form that its size takes.

    `take` calls it. With an exchange the norms of all processes meet in between.
    """

    def __init__(self, memory: StepMemory, out: bool, exchange: StepExchange | None) -> None:
        plan, total = memory.plan, sum(memory.layout.sizes) * memory.plan.unit
        self._memory, self._exchange = memory, exchange
        self.form = HELD if total < _HELD_BELOW else SERIAL
        if process.wants_parallel(total):
            self.form = PARALLEL
        #: ``step(at, p, g, lr) -> status``
        self.step = compiled_step(plan, out, self.form)
        if self.form == PARALLEL:
            in_threads = self.step
            self.step = lambda *given: _fork_safe(plan, out, in_threads)(*given)
        if exchange is not None:
            exchange.words = memory.totals.size

    def take(self, frame: np.ndarray, given: tuple[Any, ...], before: Writes, after: Writes) -> int:
        """Take a step of arrays in a table: `before` and `after` it these writes, as one.

        `given` are ``p, g, lr``.
        """
        if self._exchange is not None:
            return self._exchanged(frame, given, before, after)
        results = at_once([*before, partial(self.step, address_of(frame), *given), *after])
        return int(results[len(before)])

    def _exchanged(
        self, frame: np.ndarray, given: tuple[Any, ...], before: Writes, after: Writes
    ) -> int:
        """As `take`, with norms of all processes; Ctrl-C waits, so that they stay in step."""
        exchange, memory = self._exchange, self._memory
        assert exchange is not None
        exchange.begin(given[-1])
        measure, follow = frame.copy(), frame.copy()
        measure[AT.stage], follow[AT.stage] = MEASURE, FOLLOW
        with defer_interrupts():
            at_once([*before, partial(self.step, address_of(measure), *given)])
            same = same_numbers(int(memory.counters[0]), memory.control)
            rows = exchange.gather(memory.totals.reshape(-1).view(np.int64), same)
            totals = rows.copy().view(np.float64).reshape(exchange.size, *memory.totals.shape)
            memory.totals[...] = added(totals)
            results = at_once([*before, partial(self.step, address_of(follow), *given), *after])
        exchange.done()
        return int(results[len(before)])


def _fork_safe(plan: Plan, out: bool, in_threads: Callable[..., int]) -> Callable[..., int]:
    """The parallel step, or the serial one where a fork has lost Numba's threads."""
    return compiled_step(plan, out, SERIAL) if process.serial_only else in_threads


#: Power of two that keeps a sum of squares of several processes finite.
_ROOM = 32.0


def added(totals: np.ndarray) -> np.ndarray:
    """Sums of squares and exponents of several processes, added in their order."""
    sums, exponents = totals[:, :, 0], totals[:, :, 1]
    most = exponents.max(axis=0)
    most += np.where(np.isfinite(sums).all(axis=0) & (sums.max(axis=0) > 1e300), _ROOM, 0.0)
    with np.errstate(all="ignore"):
        scaled = sums * 2.0 ** (2.0 * (exponents - most))
    return np.stack([functools.reduce(np.add, scaled), most], axis=1)
