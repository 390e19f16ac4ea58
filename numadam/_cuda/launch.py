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

#: Threads of a block: enough for any GPU to hide its memory's latency at 40 registers a thread.
THREADS = 256
#: Most blocks over one array: with more items of work each thread takes several.
MAX_BLOCKS = 65_536
#: Tiles for each thread of a block that works on one of many arrays, where they fill the GPU.
TILES_PER_THREAD = 4
#: Elements of a gradient that each thread of a block adds up for one partial sum of a norm.
SUMMED_PER_THREAD = 16
#: Least blocks of a kernel that numba-cuda launches: with fewer it warns. Idle ones end at once.
MIN_BLOCKS = 128
#: Threads that a GPU schedules together.
WARP = 32


def blocks_for(items: int) -> int:
    """Blocks of threads for a loop over so many items of one array."""
    return min(-(-items // THREADS), MAX_BLOCKS)


class on_gpu:
    """Make a GPU the current one for CuPy, which launches there.

    A class, not a generator: 0.3 us instead of 1.3 where it is the current one already.
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
    import cupy
    from numba import cuda

    with cupy.cuda.Device(device), cuda.gpus[device]:
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
    memory that is written before a launch. Their class is no part of CuPy's interface: where a
    later CuPy has none, it gets the NumPy arrays themselves, as its documentation has it.

    `kinds` has the type of each argument as `struct` has it: q an int64, d a float64, f a float32.
    `scalars` are the last of them, as they will be at each launch.
    """

    def __init__(self, function: Any, kinds: str, scalars: np.ndarray | None = None) -> None:
        from cupy.cuda import function as cupy_function

        as_argument = getattr(cupy_function, "CNumpyArray", lambda place: place)
        given = np.zeros(0) if scalars is None else scalars
        own = len(kinds) - len(given)
        self._function, self._memory = function, bytearray(8 * own)
        self._write = struct.Struct(f"={kinds[:own]}").pack_into
        parts = np.frombuffer(self._memory, np.int64), given
        places = [part[k : k + 1] for part in parts for k in range(len(part))]
        self._arguments = tuple(map(as_argument, places))

    def __call__(
        self, blocks: int, threads: int, numbers: Sequence[Any], addresses: Sequence[int] = ()
    ) -> None:
        """Launch it. `addresses` are a tuple for the kernel, its first argument."""
        self.bind(blocks, threads, numbers, addresses)()

    def bind(
        self, blocks: int, threads: int, numbers: Sequence[Any], addresses: Sequence[int] = ()
    ) -> Callable[[], None]:
        """A function that launches it with these arguments, until others are given."""
        self._write(self._memory, 0, *addresses, *numbers)
        return functools.partial(self._function, (blocks,), (threads,), self._arguments)


# --- kernels with a function of the user's inside: numba-cuda launches these ----------------------


@functools.lru_cache(maxsize=64)
def _numba_stream(pointer: int) -> Any:
    from numba import cuda

    return cuda.external_stream(pointer)


def numba_view(flat: Any) -> Any:
    """A CuPy array as numba-cuda takes it, without the default wait for CuPy's stream.

    The launch is on that stream, and so after all that CuPy has put there.
    """
    from numba import cuda

    return cuda.as_cuda_array(flat, sync=False)


def threads_for(items: int, multiprocessors: int) -> int:
    """Threads of a block for a loop over so many items: few where there are few items.

    A block runs on one multiprocessor. With 32 threads a block, 4,000 items keep all of an H100
    busy; with 256 they would keep an eighth.
    """
    return min(THREADS, WARP * max(1, -(-items // (WARP * multiprocessors))))


def launch(kernel: Any, items: int, arguments: Sequence[Any]) -> None:
    """Run a loop over so many items on CuPy's current stream."""
    import cupy

    if items:
        threads = threads_for(items, _multiprocessors(cupy.cuda.runtime.getDevice()))
        blocks = max(min(-(-items // threads), MAX_BLOCKS), MIN_BLOCKS)
        stream = _numba_stream(cupy.cuda.get_current_stream().ptr)
        kernel[blocks, threads, stream](*arguments)


@functools.cache
def _multiprocessors(device: int) -> int:
    import cupy

    return int(cupy.cuda.Device(device).attributes["MultiProcessorCount"])
