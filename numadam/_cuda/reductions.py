"""Norms of the gradients, reduced on the GPU; the host waits for a guard, and for other ranks.

Each rank owns a block of the arrays, and `norms.make_combine` leaves the total of its block on its
GPU. The host brings the totals of all ranks together and puts their sums in the place of the own
ones, so that the last kernel finds the same on every rank. The sums are those of `math.fsum`,
rounded once: they depend on no order, and the bound of a norm stays as it is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from numadam._core import options as op
from numadam._core.plan import Plan
from numadam._cuda import launch as policy
from numadam._cuda.arrays import address_of
from numadam._cuda.compiler import compiled
from numadam._cuda.launch import Launch
from numadam._cuda.norms import make_combine, make_finalize_norms, make_sums, norm_slots, sums_of
from numadam._cuda.scalars import Scalars
from numadam._cuda.state import KernelArguments
from numadam._settings.settings import same_numbers

if TYPE_CHECKING:
    from numadam._mpi import StepExchange

# --- totals over all ranks -----------------------------------------------------------------------


def add_ranks(rows: np.ndarray) -> np.ndarray:
    """The totals of all ranks, from those of each, int64 of the shape (ranks, 2, totals).

    They are a row with the bits of the totals, and a row with their exponents.
    """
    numbers, exponents = np.ascontiguousarray(rows[:, 0]).view(np.float64), rows[:, 1]
    sums = np.empty(rows.shape[1:], np.int64)
    for k, pair in enumerate(zip(numbers.T.tolist(), exponents.T.tolist(), strict=True)):
        total, sums[1, k] = _add(*pair)
        sums[0, k] = np.float64(total).view(np.int64)
    return sums


def _add(totals: list[float], exponents: list[int]) -> tuple[float, int]:
    """The sum of ``total * 2**(2 * exponent)``, as such a pair.

    It has the largest exponent of those that count. With it no total leaves the range (`norms`),
    and one with another exponent loses digits only where they are far below the last of the sum.
    """
    counting = [e for total, e in zip(totals, exponents, strict=True) if total != 0.0]
    common = max(counting or exponents)
    scaled = [math.ldexp(x, 2 * (e - common)) for x, e in zip(totals, exponents, strict=True)]
    return math.fsum(scaled), common


# --- norms of one optimiser ----------------------------------------------------------------------


class GradientNorms:
    """Computes the norms of a step's gradients and their clip factors.

    With `exchange` they are those of the arrays of all ranks. `control` is the control block;
    `saved` is what a snapshot copies. The GPU is the current one in all methods.
    """

    def __init__(
        self,
        plan: Plan,
        arguments: KernelArguments,
        control: np.ndarray,
        scalars: Scalars,
        device: int,
        exchange: StepExchange | None = None,
    ) -> None:
        import cupy

        self._arguments, self._control, self._scalars = arguments, control, scalars
        by_array = plan.norm == "array"
        limit = op.COLUMN.clip_array_norm if by_array else op.COLUMN.clip_norm
        self._columns = [limit, op.COLUMN.margin, op.COLUMN.largest_norm]
        count = len(arguments.groups) if by_array else 1
        firsts = arguments.first_parts if by_array else [0, arguments.parts]
        self._factor_bytes = 2 * plan.real.itemsize if by_array else 0
        self._slots = norm_slots(plan)
        self._values = cupy.full(count, np.nan, np.float64)
        self._finite = cupy.ones(1, np.int64)
        self.saved = [self._values]
        self._factors = cupy.ones((count, 2), plan.real)
        self._totals = cupy.zeros((2, count), np.int64)  # the bits of the totals; their exponents
        self._partials = cupy.zeros((max(1, arguments.parts), sums_of(plan)), np.float64)
        self._firsts = cupy.asarray(np.array(firsts, np.int64))
        self._partials_at, firsts_at, totals_at, self._factors_at = map(
            address_of, (self._partials, self._firsts, self._totals, self._factors)
        )
        self._results = *map(address_of, (self._finite, self._factors, self._values)), count
        self._of_totals = self._partials_at, firsts_at, totals_at, totals_at + 8 * count
        self._exchange = exchange
        if exchange is not None:
            exchange.words = self._totals.size
        sums = compiled(make_sums, device, plan, scalars.values is not None, arguments.many)
        self._sums = Launch(*sums, scalars.values)
        # one total is combined in the block of the last kernel, if no other ranks have a part in it
        combines = count == 1 and exchange is None
        self._combine = None if combines else Launch(*compiled(make_combine, device, plan))
        self._finalize = Launch(*compiled(make_finalize_norms, device, plan, combines))

    def read(self) -> np.ndarray:
        """The last norms, one or one an array: the host waits for the GPU."""
        import cupy

        return np.array(cupy.asnumpy(self._values))

    def clear(self) -> None:
        """Forget the last norms."""
        self._values[...] = np.nan

    def factors(self, leaf: int) -> int:
        """Address of a leaf's two clip factors."""
        return self._factors_at + leaf * self._factor_bytes

    def compute(self, t: int) -> None:
        """Compute norms and clip factors.

        Collective where there are several ranks; `t` are the steps taken.
        """
        import cupy

        self._add_up()
        if self._combine is not None:
            self._combine(len(self._values), policy.THREADS, self._of_totals)
        if self._exchange is not None:
            same = same_numbers(t, self._control)
            own = np.array(cupy.asnumpy(self._totals))
            rows = self._exchange.gather(own.reshape(-1), same)
            self._totals.set(add_ranks(rows.reshape(-1, *own.shape)))
        limits = self._control[0, self._columns].tolist()
        self._finalize(1, policy.THREADS, (*self._of_totals, *limits, *self._results))

    def are_finite(self) -> bool:
        """Whether the last gradients were finite: the host waits for the GPU."""
        import cupy

        return bool(cupy.asnumpy(self._finite)[0])

    def _add_up(self) -> None:
        """Launch the kernel of the partial sums."""
        arguments = self._arguments
        if not arguments.parts:
            return
        begin: tuple[int, ...] = arguments.table_address, arguments.part_leaves_address
        group, addresses = 0, list[int]()  # a block finds its leaf's own
        if not arguments.many:
            begin, group = arguments.norm_arguments(), arguments.groups[0]
            addresses = arguments.addresses(self._slots, 0)
        numbers = (*begin, self._partials_at, *self._scalars.launch_arguments(group))
        self._sums(arguments.parts, policy.THREADS, numbers, addresses)
