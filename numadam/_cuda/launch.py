"""CUDA launch policy: the one place that says how many threads, on which GPU, on which stream.

* A step is launched on CuPy's current stream and does not wait for the GPU.
* Kernels take numbers alone, and addresses are numbers: CuPy launches one in 3 us, where
  numba-cuda's own launch inspects every array (88 us with three of them).
* Kernels are compiled when an optimiser is constructed, never inside a step.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from numadam._cuda import private
from numadam._cuda.kernel import THREADS


def blocks_for(items: int) -> int:
    """Blocks of threads, one for each of so many items."""
    return -(-items // THREADS)


class on_gpu:
    """Make a GPU the current one for CuPy, which launches there.

    CuPy's own takes 25 us of the host where it is the current one already.
    """

    def __init__(self, device: int) -> None:
        self._device = device
        self._other: Any = None

    def __enter__(self) -> None:
        import cupy

        if cupy.cuda.runtime.getDevice() != self._device:
            self._other = cupy.cuda.Device(self._device)
            self._other.__enter__()

    def __exit__(self, *error: object) -> None:
        if self._other is not None:
            self._other.__exit__(*error)


@contextmanager
def compiling_for(device: int) -> Iterator[None]:
    """Make a GPU the current one for numba-cuda, too, which has a current one of its own."""
    from numba import cuda

    with on_gpu(device), cuda.gpus[device]:
        yield


def is_capturing() -> bool:
    """Whether launches on CuPy's current stream are recorded for a graph, and do not run."""
    import cupy

    return bool(cupy.cuda.get_current_stream().is_capturing())


def refuse_capture(what: str) -> None:
    """Refuse to be recorded for a graph: the host counts t."""
    if is_capturing():
        raise RuntimeError(
            f"{what}: a graph is being captured, but at each replay t and lr would be those of "
            "this step. End the capture before it."
        )


def load(image: bytes, name: str) -> Any:
    """A kernel of a cubin, loaded for CuPy's current GPU."""
    import cupy

    module = cupy.cuda.Module()
    module.load(image)
    return module.get_function(name)


class Launch:
    """Launches one kernel, on CuPy's current stream; not for two threads at a time.

    CuPy makes an object of each argument, 0.1 us apiece. Here these are made once, and refer to
    memory that is written before a launch.

    `letters` has the type of each argument as `struct` has it: q an int64, d a float64, f a
    float32. `scalars` are the last of them, as they will be at each launch.
    """

    def __init__(self, function: Any, letters: str, scalars: np.ndarray | None = None) -> None:
        given = np.zeros(0) if scalars is None else scalars
        own = len(letters) - len(given)
        self._memory = bytearray(8 * own)
        #: the own arguments, as int64
        self.words = np.frombuffer(self._memory, np.int64)
        self._function, self._letters = function, f"={letters[:own]}"
        places = [part[k : k + 1] for part in (self.words, given) for k in range(len(part))]
        self._arguments = tuple(map(private.argument, places))

    def bind(self, blocks: int, numbers: Sequence[Any]) -> Callable[[], None]:
        """A function that launches it with these arguments, until others are given."""
        struct.pack_into(self._letters, self._memory, 0, *numbers)
        return functools.partial(self._function, (blocks,), (THREADS,), self._arguments)
