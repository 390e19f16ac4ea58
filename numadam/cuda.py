"""CUDA launch policy: the one place that says how many threads, on which GPU, on which stream.

* A step is launched on CuPy's current stream and does not wait for the GPU.
* Kernels take numbers alone, and addresses are numbers: CuPy launches one in 3 us, where
  numba-cuda's own launch looks at every array (88 us with three of them).
* Kernels are compiled when an optimiser is made, never inside a step.
"""

from __future__ import annotations

import collections
import functools
import importlib.util
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

#: Threads of a block: enough for any GPU to hide its memory's latency at 40 registers a thread.
BLOCK = 256
#: Blocks over one array: above it each thread takes several tiles.
BLOCKS_MOST = 65_536
#: Tiles for each thread of a block that works on one of many arrays, where they fill the GPU.
TILES = 4
#: Elements of a gradient that each thread of a block adds up for one partial sum of a norm.
SUMMED = 16
#: Blocks of a kernel that numba-cuda launches: with fewer it warns; they end at once.
BLOCKS_LEAST = 128

#: What installs all that numadam needs on a GPU.
INSTALL = 'pip install "numadam[cuda13]", or "numadam[cuda12]" for CUDA 12'


def blocks_for(turns: int) -> int:
    """Blocks of threads for a loop over one array."""
    return min(-(-turns // BLOCK), BLOCKS_MOST)


def _is_missing(module: str) -> bool:
    if module in sys.modules:
        return False
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:  # the package around it
        return True


def require_packages() -> None:
    """Say which package is missing, and what installs it."""
    # `numba.cuda` would import without numba-cuda: Numba's own deprecated target
    modules = {"cupy": "CuPy", "numba_cuda": "numba-cuda", "cuda.bindings": "cuda-bindings"}
    for module, package in modules.items():
        if _is_missing(module):
            raise ImportError(
                f"Arrays on a GPU need the {package} package, which is not installed: {INSTALL}."
            )


def require_gpu() -> None:
    """Say in one sentence what is missing: a package, a driver, a GPU."""
    require_packages()
    from numba import config

    if config.ENABLE_CUDASIM:
        return
    import cupy

    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(
            f"CuPy finds no usable GPU ({error}). Check the driver with `nvidia-smi`, and "
            f"that the packages are those for its version of CUDA: {INSTALL}."
        ) from error
    if count == 0:
        raise RuntimeError("CuPy finds no GPU: check the driver with `nvidia-smi`.")


def require_bfloat16(name: str) -> None:
    """Say that CuPy is too old for an array of bfloat16: 13 shows one, and cannot copy it."""
    import cupy

    if int(cupy.__version__.split(".")[0]) < 14:
        raise ImportError(
            f"{name}: bfloat16 on a GPU needs CuPy 14, and this is {cupy.__version__}: {INSTALL}."
        )


@contextmanager
def on_gpu(device: int) -> Iterator[None]:
    """Make a GPU the current one for CuPy, which launches there."""
    import cupy

    if cupy.cuda.runtime.getDevice() == device:
        yield
        return
    with cupy.cuda.Device(device):
        yield


@contextmanager
def compiling_for(device: int) -> Iterator[None]:
    """Make a GPU the current one for numba-cuda too: it remembers its own."""
    import cupy
    from numba import cuda

    with cupy.cuda.Device(device), cuda.gpus[device]:
        yield


def is_capturing() -> bool:
    """Whether launches on CuPy's current stream are recorded for a graph, and do not run."""
    import cupy

    return bool(cupy.cuda.get_current_stream().is_capturing())


def refuse_capture(what: str, instead: str) -> None:
    """Refuse to be recorded for a graph where the host counts t."""
    if is_capturing():
        raise RuntimeError(
            f"{what}: a graph is being captured, but at each replay t and lr would be those of "
            f"this step. {instead} with capturable=True."
        )


class Kernel:
    """A compiled kernel, loaded for one GPU and launched on CuPy's current stream.

    Parameters
    ----------
    image : bytes
        A cubin.
    name : str
        The kernel's name in it.
    """

    def __init__(self, image: bytes, name: str) -> None:
        import cupy

        module = cupy.cuda.Module()
        module.load(image)
        self._function = module.get_function(name)

    def __call__(
        self, blocks: int, threads: int, numbers: Sequence[Any], addresses: Sequence[int] = ()
    ) -> None:
        """Launch it: an int becomes an int64, a float a float64.

        `addresses` are a tuple for the kernel, its first argument, and one by one at the launch.
        """
        self._function((blocks,), (threads,), (*addresses, *numbers))


class Simulated:
    """A kernel that Numba's simulator runs, launched in the same way."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def __call__(
        self, blocks: int, threads: int, numbers: Sequence[Any], addresses: Sequence[int] = ()
    ) -> None:
        first = (tuple(addresses),) if addresses else ()
        self._kernel[blocks, threads](*first, *numbers)


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


def launch(kernel: Any, turns: int, arguments: Sequence[Any]) -> None:
    """Run a loop of so many turns on CuPy's current stream."""
    import cupy

    if turns:
        blocks = max(blocks_for(turns), BLOCKS_LEAST)
        stream = _numba_stream(cupy.cuda.get_current_stream().ptr)
        kernel[blocks, BLOCK, stream](*arguments)


# --- small blocks of numbers, from the host to the GPU --------------------------------------------


#: Pinned buffers, and the events behind their copies, of uploads that are no more.
_left: collections.deque[tuple[Any, Any]] = collections.deque()
_left_lock = threading.Lock()


class Upload:
    """Copies small host arrays to the GPU without waiting for it.

    The copy takes place later, in the order of the stream. So the numbers lie in pinned memory
    meanwhile, in one of `SLOTS` buffers: only if the host is so many uploads ahead does it wait.
    CuPy hands pinned memory on as soon as it is let go; so the buffers outlive an upload until
    their copies are done.
    """

    SLOTS = 4

    def __init__(self, target: Any) -> None:
        self._target = target
        self._slots: list[tuple[Any, Any]] = []
        self._sent, self._next = b"", 0

    def __call__(self, numbers: np.ndarray) -> None:
        """Bring the target up to date, if anything changed since the last time."""
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
        self._sent = b""  # whatever happens, half an upload is never taken for a whole one
        self._target.set(pinned, stream=stream)
        event.record(stream)
        self._sent = content

    def has(self, numbers: np.ndarray) -> bool:
        """Whether the target is up to date."""
        return numbers.tobytes() == self._sent

    def __del__(self) -> None:
        _left.extend(self._slots)

    @staticmethod
    def _let_go() -> None:
        """Let go the buffers that are left, where the copies from them are done."""
        with _left_lock:
            for _ in range(len(_left)):
                slot = _left.popleft()
                if not slot[1].done:
                    _left.append(slot)

    def _slot(self) -> tuple[Any, Any]:
        import cupy
        import cupyx

        if len(self._slots) < self.SLOTS:
            self._let_go()
            pinned = cupyx.empty_pinned(self._target.shape, self._target.dtype)
            self._slots.append((pinned, cupy.cuda.Event(disable_timing=True)))
            return self._slots[-1]
        self._next = (self._next + 1) % self.SLOTS
        pinned, event = self._slots[self._next]
        event.synchronize()
        return pinned, event
