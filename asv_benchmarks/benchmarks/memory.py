"""Bytes that Python allocates during a step."""

from .common import Tracked


class Memory(Tracked):
    params = ["memory-net", "memory-peak", "memory-net-many", "memory-peak-many"]

    def track_bytes(self, name):
        return self.value()

    track_bytes.unit = "bytes"
