"""Norms of the gradients, reduced on the GPU; the host waits for a guard, and for other ranks.

Each rank owns a block of the arrays, and the kernels leave the total of its block on its GPU. The
host brings the totals of all ranks together, and puts norms and clip factors of their sums in the
place of the own ones. The sums are those of `math.fsum`, rounded once: they depend on no order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from numadam._core import options as op
from numadam._core.norms import clip_factor, norm
from numadam._core.plan import Plan
from numadam._core.scalars import tiny
from numadam._core.text import Text
from numadam._cuda.arrays import address_of
from numadam._cuda.compiler import compiled
from numadam._cuda.launch import Launch
from numadam._cuda.norms import make_norms, make_sums, sums_of
from numadam._cuda.scalars import Scalars
from numadam._cuda.state import KernelArguments
from numadam._settings.settings import same_numbers

if TYPE_CHECKING:
    from numadam._mpi import StepExchange


def _add(totals: list[float], exponents: list[float]) -> tuple[float, int]:
    """The sum of ``total * 2**(2 * exponent)``, as such a pair.

    It has the largest exponent of those that count. With it no total leaves the range (`norms`),
    and one with another exponent loses digits only where they are far below the last of the sum.
    """
    counting = [e for total, e in zip(totals, exponents, strict=True) if total != 0.0]
    common = int(max(counting or exponents))
    pairs = zip(totals, exponents, strict=True)
    return math.fsum(math.ldexp(x, 2 * (int(e) - common)) for x, e in pairs), common


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

        self._arguments, self._control, self._exchange = arguments, control, exchange
        by_array = plan.norm == "array"
        limit = op.COLUMN.clip_array_norm if by_array else op.COLUMN.clip_norm
        self._columns = [limit, op.COLUMN.margin, op.COLUMN.largest_norm]
        count = len(arguments.groups) if by_array else 1
        firsts = arguments.first_parts if by_array else [0, arguments.parts]
        self._tiny, self._factor_bytes = tiny(plan.real), 2 * plan.real.itemsize if by_array else 0
        text = Text(plan)
        self.slots = [text.slots[text.arrays.index(name)] for name in text.norm_arrays]
        self._values = cupy.full(count, np.nan, np.float64)
        self._finite = cupy.ones(count, np.int64)
        self.saved = [self._values]
        self._factors = cupy.ones((count, 2), plan.real)
        self._totals = cupy.zeros((count, 2), np.float64)  # and the exponents of their scales
        self._partials = cupy.zeros((max(1, arguments.parts), sums_of(plan)), np.float64)
        self._firsts = cupy.asarray(np.array(firsts, np.int64))
        if exchange is not None:
            exchange.words = self._totals.size
        values = scalars.values if plan.bounds else None
        self._scalars = scalars.launch_arguments if plan.bounds else lambda group: ()
        by_value = scalars.values is not None
        self.sums = Launch(*compiled(make_sums, device, plan, by_value, arguments.many), values)
        norms = Launch(*compiled(make_norms, device, plan))
        arrays = self._partials, self._firsts, self._totals, self._values, self._factors
        self._limits = norms.words[6:].view(np.float64)
        self._norms = norms.bind(count, (*map(address_of, (*arrays, self._finite)), 0.0, 0.0, 0.0))
        self._add_up: Callable[[], object] | None = None

    def bind(self) -> None:
        """Prepare the sums over the arrays that have been noted."""
        arguments, partials = self._arguments, address_of(self._partials)
        begin, group = arguments.begin("norm", self.slots)
        numbers = *begin, partials, *self._scalars(group)
        self._add_up = self.sums.bind(arguments.parts, numbers) if arguments.parts else None

    def read(self) -> np.ndarray:
        """The last norms, one or one an array: the host waits for the GPU."""
        return np.array(self._values.get())

    def clear(self) -> None:
        """Forget the last norms."""
        self._values[...] = np.nan

    def factors(self, leaf: int) -> int:
        """Address of a leaf's two clip factors."""
        return address_of(self._factors) + leaf * self._factor_bytes

    def compute(self, t: int) -> None:
        """Compute norms and clip factors.

        Collective where there are several ranks; `t` are the steps taken.
        """
        if self._add_up is not None:
            self._add_up()
        self._limits[:] = self._control[0, self._columns]
        self._norms()
        if self._exchange is not None:
            self._add_ranks(self._exchange, t)

    def _add_ranks(self, exchange: StepExchange, t: int) -> None:
        """Put norms and clip factors of all ranks in the place of the own ones."""
        own = self._totals.get()
        rows = exchange.gather(own.view(np.int64).reshape(-1), same_numbers(t, self._control))
        limit, margin, largest = self._limits.tolist()
        ranks = np.ascontiguousarray(rows).view(np.float64).reshape(-1, *own.shape)
        sums = [_add(*each.T.tolist()) for each in ranks.transpose(1, 0, 2)]
        values = np.array([norm(*each) for each in sums])
        finite = np.isfinite([total for total, _ in sums]) & (np.minimum(values, limit) <= largest)
        factors = [clip_factor(*each, limit, margin, self._tiny) for each in sums]
        self._values.set(values)
        self._finite.set(finite.astype(np.int64))
        self._factors.set(np.array(factors, self._factors.dtype))

    def are_finite(self) -> bool:
        """Whether the last gradients were finite: the host waits for the GPU."""
        return bool(self._finite.get().all())
