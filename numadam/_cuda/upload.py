"""Copies of small host arrays to the GPU, without a wait of the host."""

from __future__ import annotations

import math
import threading
import weakref
from typing import Any

import numpy as np

from numadam._cuda.launch import is_capturing

#: The pinned buffers of all uploads, each with the event behind the copy from it. They are held
#: here, since the collector may finalize an event before the upload that refers to it.
_buffers: list[tuple[weakref.ref[Upload], Any, Any]] = []
_lock = threading.Lock()


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

    def _slot(self) -> tuple[Any, Any]:
        import cupy

        if len(self._slots) < self.SLOTS:
            pinned = empty_pinned(self._target.shape, self._target.dtype)
            event = cupy.cuda.Event(disable_timing=True)
            with _lock:
                _release_unused()
                _buffers.append((weakref.ref(self), pinned, event))
            self._slots.append((pinned, event))
            return pinned, event
        self._next = (self._next + 1) % self.SLOTS
        pinned, event = self._slots[self._next]
        event.synchronize()
        return pinned, event


def empty_pinned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Uninitialized array in pinned memory.

    As `cupyx.empty_pinned`, which one of two threads does not find where both load cupyx at once
    (python/cpython#114763).
    """
    import cupy

    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    return np.ndarray(shape, dtype, cupy.cuda.alloc_pinned_memory(nbytes))


def _release_unused() -> None:
    """Release the buffers of deleted uploads, if the copies from them are done."""
    _buffers[:] = [buffer for buffer in _buffers if buffer[0]() is not None or not buffer[2].done]
