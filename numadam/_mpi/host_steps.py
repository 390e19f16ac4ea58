"""Steps of NumPy parameters that all ranks hold: sums of gradients, the step, all of p again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from numadam._arrays.layout import address_of
from numadam._core.parts import parts_of
from numadam._cpu.adding import Adding
from numadam._mpi.buckets import Buckets
from numadam._mpi.cut import GRAIN
from numadam._mpi.flat import Flat
from numadam._mpi.gradients import Gradients
from numadam._mpi.placement import Placement

#: Elements of one part of the step, of which a bucket holds a whole number.
_PART = 16_384


class HostSteps:
    """Work of all ranks in a step, after they have agreed on it. Collective to make.

    Parameters
    ----------
    place : Placement
    shard : Optimizer
        Of this rank's part.
    bucket_bytes : int
        Bytes of gradients that a rank receives in a round, about.
    divisor : int
        By which sums are divided.
    """

    transport = "mpi"

    def __init__(self, place: Placement, shard: Any, bucket_bytes: int, divisor: int) -> None:
        self._place, self._shard, self._parts = place, shard, parts_of(shard)
        cut, dtype, plan = place.cut, place.dtype, self._parts.settings.plan
        self._gradients = Gradients(place.nodes, cut, place.active, place.leaves)
        self._part = min(_PART, max(-(-cut.longest() // GRAIN) * GRAIN, GRAIN))
        self._adding, self._numbers = Adding(divisor), plan.numbers
        bucket = bucket_bytes // dtype.itemsize
        self._buckets = Buckets(place.nodes, cut, dtype, bucket, self._part, divisor)
        self._sum: np.ndarray | None = None
        # a norm is formed before the first element; sums of 16 bits are formed in float32
        late = plan.norm == "" and not plan.accumulate and dtype.itemsize > 2
        self._at_once = place.ranks.size == 1 or not late
        if not self._at_once:
            backend: Any = self._parts.backend
            backend.cut_parts(self._part)
            backend.compile_sums(place.ranks.size == 2 and divisor == 1)

    @property
    def buffers(self) -> Any:
        """As `Gradients.buffers`."""
        return self._gradients.buffers

    def sources(self, grads: Any) -> list[Flat]:
        """As `Gradients.sources`."""
        return self._gradients.sources(grads)

    def sync(self) -> None:
        """See what the neighbours have written, and let them see what this rank has."""
        self._gradients.sync()

    def step(self, sources: Sequence[Flat], rate: float, lr: float | None) -> None:
        """Take the step with the sum of the gradients of all ranks.

        Parameters
        ----------
        sources : sequence of Flat
            The gradients of this node's ranks.
        rate : float
            The learning rate of this step.
        lr : float or None
            As the user passed it.
        """
        if self._at_once:
            self._step_at_once(sources, lr)
        else:
            self._step_in_rounds(sources, rate)

    def _step_in_rounds(self, sources: Sequence[Flat], rate: float) -> None:
        """Step each bucket while the next one is on its way; sums are formed as they are needed."""
        place, buckets, parts = self._place, self._buckets, self._place.parts
        backend: Any = self._parts.backend
        shared, begin = place.nodes.each > 1, place.begin
        own = [] if shared else sources[0].leaves(parts)
        grads = np.array([*map(address_of, own)] if own else [0] * len(parts), np.int64)
        count = -(-(place.end - begin) // self._part)
        buckets.begin(sources)
        for k in range(buckets.rounds):
            low, high, arrived = buckets.arrived(k)
            if high > low:
                done = (low - begin) // self._part
                left = max(count + (begin - high) // self._part, 0)
                here = [one.read(low, high, None) for one in sources] if shared else []
                first = (low - begin) * self._numbers
                node = place.nodes.node
                before = [arrived[other] for other in sorted(arrived) if other < node]
                after = [arrived[other] for other in sorted(arrived) if other > node]
                self._adding.set(first, before, here, after)
                backend.step_parts(done, left, grads, self._adding, rate)
            buckets.done(k)
            buckets.spread(k, place.flat)
        if count == 0:  # t advances where there is nothing to step, too
            backend.step(place.flat.leaves(parts), rate)
        buckets.settle(place.flat)

    def _step_at_once(self, sources: Sequence[Flat], lr: float | None) -> None:
        """Form all sums, then step as in one process."""
        place, t = self._place, self._shard.t
        if place.ranks.size == 1:
            grads = place.active.unflatten(sources[0].leaves(place.parts))
        else:
            grads = place.views(self._total(sources))
        try:
            self._shard.step(grads, lr=lr)
        finally:
            if self._shard.t != t:
                self.spread()

    def _total(self, sources: Sequence[Flat]) -> np.ndarray:
        """The sums over all ranks of this rank's part."""
        place, buckets = self._place, self._buckets
        if self._sum is None:
            self._sum = np.empty(place.end - place.begin, place.dtype)
        buckets.begin(sources)
        for k in range(buckets.rounds):
            buckets.add_up(k, self._sum)
            buckets.done(k)
        return self._sum

    def spread(self) -> None:
        """Give this rank's part of the parameters to the other nodes, and take theirs. Collective.

        Between nodes alone; `barrier` has to follow.
        """
        if self._place.nodes.count == 1:
            return
        for k in range(self._buckets.rounds):
            self._buckets.spread(k, self._place.flat)
        self._buckets.settle(self._place.flat)

    def barrier(self) -> None:
        """Wait until the ranks of this node have written their parts, and see them."""
        local = self._place.nodes.local
        if local is not None:
            self.sync()
            local.comm.Barrier()
            self.sync()
