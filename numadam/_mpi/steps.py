"""Steps of parameters that all ranks hold: sums of gradients, the step, all of p again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from numadam._backend import FunctionalStep
from numadam._core import plan as pl
from numadam._core.parts import parts_of
from numadam._mpi.choose import transport_of
from numadam._mpi.collectives import Collectives
from numadam._mpi.cut import LONG
from numadam._mpi.flat import Flat
from numadam._mpi.gradients import Gradients
from numadam._mpi.placement import Placement


class Steps:
    """Work of all ranks in a step, after they have agreed on it. Collective to make.

    Parameters
    ----------
    place : Placement
    shard : Optimizer
        Of this rank's part.
    bucket_bytes : int
        Bytes of gradients that a rank receives in a chunk, about.
    divisor : int
        By which sums are divided.
    transport : str
        As the user asked for.

    Attributes
    ----------
    gradients : Gradients
    transport : str
        The name of the transport.
    """

    def __init__(
        self, place: Placement, shard: Any, bucket_bytes: int, divisor: int, transport: str
    ) -> None:
        self._place, self._shard = place, shard
        self.gradients = Gradients(place.nodes, place.cut, place.active, place.leaves)
        kind = transport_of(place.ranks, transport, place.whole.home)
        self.transport = kind.name
        bucket = bucket_bytes // place.dtype.itemsize
        with self._on_gpu():
            about = place.nodes, place.cut, kind(place.nodes.across), place.dtype
            self._collectives = Collectives(*about, bucket, divisor)
        self._sum: Any = None
        self._chunked = self._by_chunks()

    def _by_chunks(self) -> bool:
        """Whether each chunk is stepped by itself, as the functional API steps arrays.

        A norm is formed before the first element, and other options have arrays or counters that
        only the optimiser has. A GPU has no cache in which a sum could stay, and a call for each
        part of a short array would take longer than the sum.
        """
        place, plan = self._place, parts_of(self._shard).settings.plan
        only_optimiser = plan.norm or plan.accumulate or plan.average or plan.master
        of_elements = plan.elementwise or plan.bounds == "array"
        return (
            place.whole.home == "NumPy"
            and place.ranks.size > 1
            and not (only_optimiser or of_elements or plan.products)
            and place.cut.end >= LONG * sum(leaf.size > 0 for leaf in place.leaves)
        )

    def _on_gpu(self) -> AbstractContextManager[None]:
        if self._place.whole.home == "NumPy":
            return nullcontext()
        from numadam._cuda.launch import on_gpu

        return on_gpu(int(self._place.leaves[0].device.id))

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
        if self._chunked:
            self._step_chunks(sources, rate)
            return
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

    def _step_chunks(self, sources: Sequence[Flat], rate: float) -> None:
        """Step each chunk when its gradients are there: their sum stays in the cache."""
        place, collectives = self._place, self._collectives
        if self._sum is None:
            self._sum = collectives.empty(collectives.size)
        _, settings, backend, _ = parts_of(self._shard)
        groups = []  # of one row each: a call steps one array
        for row in range(len(settings.control)):
            groups.append(settings.copy())
            groups[row].control = settings.control[row : row + 1]
        t = backend.t + 1
        for k, (low, sums) in enumerate(collectives.sums(sources, self._sum, whole=False)):
            at = 0
            for leaf, first, last in place.cut.runs(low, low + len(sums)):
                arrays = self._arrays(leaf, first, last)
                arrays[pl.G] = sums[at : at + last - first]
                alone = groups[settings.group_of_leaf[leaf]]
                backend.update(FunctionalStep(alone, (), tuple(arrays), "params", t, rate))
                at += last - first
            collectives.spread(k, place.flat)
        collectives.settle(place.flat)
        self._shard.t = t

    def _arrays(self, leaf: int, low: int, high: int) -> list[Any]:
        """By slot the arrays of a part of a parameter that lies in this rank's piece."""
        _, settings, backend, _ = parts_of(self._shard)
        first, _ = self._place.parts[leaf]
        arrays: list[Any] = [None] * pl.CHECKED
        arrays[pl.P] = backend.params[leaf][low - first : high - first]
        for name, slot in settings.plan.state_slots.items():
            arrays[slot] = backend.state[name][leaf][low - first : high - first]
        return arrays

    def _total(self, sources: Sequence[Flat]) -> Any:
        """The sums over all ranks of this rank's part."""
        with self._on_gpu():
            if self._sum is None:
                self._sum = self._collectives.empty(self._place.size)
            for _ in self._collectives.sums(sources, self._sum, whole=True):
                pass
        return self._sum

    def spread(self) -> None:
        """Give this rank's part of the parameters to the other nodes, and take theirs. Collective.

        Between nodes alone; `barrier` has to follow.
        """
        with self._on_gpu():
            for k in range(self._collectives.chunks):
                self._collectives.spread(k, self._place.flat)
            self._collectives.settle(self._place.flat)

    def barrier(self) -> None:
        """Wait until the ranks of this node have written their parts, and see them."""
        local = self._place.nodes.local
        if local is not None:
            self.gradients.sync()
            local.comm.Barrier()
            self.gradients.sync()
