"""Steps of CuPy parameters that all ranks hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numadam._mpi.on_device import OnDevice
from numadam._mpi.placement import Placement


class DeviceSteps:
    """As `HostSteps`, for CuPy arrays. Collective to make.

    Attributes
    ----------
    transport : str
    """

    def __init__(
        self, place: Placement, shard: Any, bucket_bytes: int, divisor: int, transport: str
    ) -> None:
        bucket = bucket_bytes // place.dtype.itemsize
        about = place.ranks, place.cut, place.active, place.leaves
        self._device = OnDevice(*about, transport, bucket, divisor)
        self._place, self._shard, self.transport = place, shard, self._device.transport

    @property
    def buffers(self) -> Any:
        """As `Gradients.buffers`."""
        return self._device.buffers

    def sources(self, grads: Any) -> list[Any]:
        """As `Gradients.sources`."""
        return self._device.sources(grads)

    def sync(self) -> None:
        """Do nothing: no memory is shared."""

    def step(self, sources: Sequence[Any], rate: float, lr: float | None) -> None:
        """Form all sums, then step, then pass on: a GPU has no cache in which sums could stay."""
        sums, t = self._device.total(sources), self._shard.t
        try:
            self._shard.step(self._place.active.unflatten(sums), lr=lr)
        finally:
            if self._shard.t != t:
                self.spread()

    def spread(self) -> None:
        """As `HostSteps.spread`."""
        self._device.spread()

    def barrier(self) -> None:
        """Do nothing: no memory is shared."""
