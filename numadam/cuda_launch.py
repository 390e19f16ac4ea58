"""CUDA launch policy: the one place that says how many threads, on which GPU, on which stream.

* A step is launched on CuPy's current stream and does not wait for the GPU.
* Kernels are compiled when an optimiser is made, never inside a step.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from numadam.norms import LANES

#: Threads of a block: enough for any GPU to hide its memory's latency at 40 registers a thread.
BLOCK = 256
#: Blocks of a grid: fewer than 128 leave a large GPU idle (and numba-cuda warns of them; blocks
#: without an element end at once); above 65,536 each thread takes several elements.
BLOCKS_LEAST, BLOCKS_MOST = 128, 65_536
#: Partial sums of a norm that one block of threads forms at a time, in LANES threads each.
SUMS = 4


def grid_size(n: int, block: int) -> int:
    """Blocks of threads for n turns of a loop, `block` of them in a block."""
    return min(max(-(-n // block), BLOCKS_LEAST), BLOCKS_MOST)


def require_numba_cuda() -> None:
    """Say what to install where numba-cuda is missing."""
    # `numba.cuda` would import without it: Numba's own deprecated target
    if importlib.util.find_spec("numba_cuda") is None:
        raise ImportError(
            "CuPy arrays need the numba-cuda package, which is not installed: "
            'pip install "numadam[cuda13]", or "numadam[cuda12]" for CUDA 12.'
        )


@contextmanager
def on_gpu(device: int) -> Iterator[None]:
    """Make a GPU the current one for CuPy and for numba-cuda: each remembers its own."""
    import cupy
    from numba import cuda

    with cupy.cuda.Device(device), cuda.gpus[device]:
        yield


@functools.lru_cache(maxsize=64)
def _numba_stream(pointer: int) -> Any:
    from numba import cuda

    return cuda.external_stream(pointer)


def _stream() -> Any:
    import cupy

    return _numba_stream(cupy.cuda.get_current_stream().ptr)


def numba_view(flat: Any) -> Any:
    """A CuPy array as numba-cuda takes it, without the default wait for CuPy's stream.

    The launch is on that stream, and so after all that CuPy has put there.
    """
    from numba import cuda

    return cuda.as_cuda_array(flat, sync=False)


def launch(kernel: Any, turns: int, arguments: Sequence[Any]) -> None:
    """Run a loop of so many turns on CuPy's current stream."""
    if turns:
        kernel[grid_size(turns, BLOCK), BLOCK, _stream()](*arguments)


def launch_sums(kernel: Any, blocks: int, arguments: Sequence[Any]) -> None:
    """Run the loop over so many blocks of a norm: each is the work of LANES threads."""
    if blocks:
        kernel[grid_size(blocks, SUMS), (LANES, SUMS), _stream()](*arguments)
