"""Control block and counters of an optimiser in the memory of the GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from numadam._cuda.scalar_kernels import COUNTERS
from numadam._cuda.upload import Upload


class DeviceControl:
    """The control block on the GPU, brought up to date from the host's, and the counters.

    Its methods are called while the GPU is the current one.

    Parameters
    ----------
    control : numpy.ndarray
        The control block on the host.

    Attributes
    ----------
    groups : int
        Rows of the control block.
    address, counters_address : int
    host : numpy.ndarray
        The control block on the host.
    """

    def __init__(self, control: np.ndarray) -> None:
        import cupy

        self.host, self.groups = control, len(control)
        self._block = cupy.zeros(control.shape, np.float64)
        # CuPy has no records: they are int64 there
        self._counters = cupy.zeros(COUNTERS.itemsize // 8, np.int64)
        self._upload = Upload(self._block)
        self.address = int(self._block.data.ptr)
        self.counters_address = int(self._counters.data.ptr)

    def upload(self) -> None:
        """Bring the control block up to date, if an option has changed."""
        self._upload(self.host)

    def read_counters(self) -> Any:
        """The counters as they are now, a record: the host waits for the GPU."""
        import cupy

        return np.array(cupy.asnumpy(self._counters)).view(COUNTERS).view(np.recarray)[0]

    def write_counters(self, counters: Any) -> None:
        """Replace the counters."""
        self._counters.set(np.array(counters, COUNTERS).reshape(1).view(np.int64))

    def arrays(self) -> list[Any]:
        """Arrays that a snapshot copies: the counters."""
        return [self._counters]

    def are_finite(self) -> bool:
        """Whether the last gradients were finite: the host waits for the GPU."""
        return bool(self.read_counters().finite)
