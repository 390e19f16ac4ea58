"""Copies of small host arrays to the GPU, without a wait of the host."""

from __future__ import annotations

import collections
import threading
from typing import Any

import numpy as np

from numadam._cuda.launch import is_capturing

#: Pinned buffers of deleted uploads, with the events behind the copies from them.
_orphans: collections.deque[tuple[Any, Any]] = collections.deque()
_orphans_lock = threading.Lock()


class Upload:
    """Keeps an array on the GPU equal to one of the host, which never waits for the copy.

    The copy takes place later, in the order of the stream. Until then its source stays in pinned
    memory, in one of `SLOTS` buffers: only if the host is so many uploads ahead does it wait. CuPy
    reuses pinned memory as soon as it is released, so the buffers outlive an upload until the
    copies from them are done.
    """

    SLOTS = 4

    def __init__(self, target: Any) -> None:
        self._target = target
        self._slots: list[tuple[Any, Any]] = []
        self._sent, self._next = b"", 0

    def __call__(self, numbers: np.ndarray) -> None:
        """Bring the target up to date, if anything has changed since the last time."""
        import cupy

        content = numbers.tobytes()
        if content == self._sent:
            return
        stream = cupy.cuda.get_current_stream()
        if is_capturing():
            raise RuntimeError(
                "step: a graph is being captured, and arrays or options are others than in the "
                "last step. Take one step with these arrays and options before the capture."
            )
        pinned, event = self._slot()
        pinned[...] = numbers.reshape(pinned.shape)
        self._sent = b""  # after an interrupt the next call uploads again
        self._target.set(pinned, stream=stream)
        event.record(stream)
        self._sent = content

    def has(self, numbers: np.ndarray) -> bool:
        """Whether the target is up to date."""
        return numbers.tobytes() == self._sent

    def __del__(self) -> None:
        _orphans.extend(self._slots)

    @staticmethod
    def _release_orphans() -> None:
        """Release the buffers of deleted uploads, if the copies from them are done."""
        with _orphans_lock:
            for _ in range(len(_orphans)):
                slot = _orphans.popleft()
                if not slot[1].done:
                    _orphans.append(slot)

    def _slot(self) -> tuple[Any, Any]:
        import cupy
        import cupyx

        if len(self._slots) < self.SLOTS:
            self._release_orphans()
            pinned = cupyx.empty_pinned(self._target.shape, self._target.dtype)
            self._slots.append((pinned, cupy.cuda.Event(disable_timing=True)))
            return self._slots[-1]
        self._next = (self._next + 1) % self.SLOTS
        pinned, event = self._slots[self._next]
        event.synchronize()
        return pinned, event
