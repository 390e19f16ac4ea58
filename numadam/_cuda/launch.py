"""Launch of kernels: sizes of grids, streams, and how kernels are compiled and kept."""

from __future__ import annotations

import functools
import re
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba import cuda

from numadam._arrays.interop import install_for_gpu
from numadam._core.plan import Plan
from numadam._jit import cache
from numadam._jit.reports import reported
from numadam._version import install_command

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


def refuse_capture(what: str, instead: str) -> None:
    """Refuse to be recorded for a graph where the host counts t."""
    if is_capturing():
        raise RuntimeError(
            f"{what}: a graph is being captured, but at each replay t and lr would be those of "
            f"this step. {instead} with capturable=True."
        )


class Kernel:
    """A compiled kernel, loaded for one GPU.

    Parameters
    ----------
    image : bytes
        A cubin.
    name : str
        The kernel's name in it.
    kinds : str
        The type of each argument as `struct` has it: q an int64, d a float64, f a float32.
    """

    def __init__(self, image: bytes, name: str, kinds: str) -> None:
        import cupy

        module = cupy.cuda.Module()
        module.load(image)
        self._function, self._kinds = module.get_function(name), kinds

    def ready(self, scalars: np.ndarray | None = None) -> Launch:
        """A launch of it with memory for its arguments; the last ones are in `scalars`."""
        return Launch(self._function, self._kinds, scalars)


class Launch:
    """Launches one kernel, on CuPy's current stream; not for two threads at a time.

    CuPy makes an object of each argument, 0.1 us apiece. Here these are made once, and refer to
    memory that is written before a launch. Their class is no part of CuPy's interface: where a
    later CuPy has none, it gets the NumPy arrays themselves, as its documentation has it.

    Parameters
    ----------
    function : cupy.cuda.Function
    kinds : str
        As of a `Kernel`.
    scalars : numpy.ndarray, optional
        The last arguments, as they will be at each launch.
    """

    def __init__(self, function: Any, kinds: str, scalars: np.ndarray | None) -> None:
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


# --- kernels compiled from Python to a cubin and cached on disk ----------------------------------
# numba-cuda compiles to PTX, and nvJitLink of the same CUDA version to a cubin, so that the driver
# may be an older one of that generation. numba-cuda's own way asks for a GPU, and does not cache
# closures.

#: Constructs a kernel's source: a plain function, and the types of its arguments.
Maker = Callable[..., tuple[Callable[..., None], Any]]

#: Registers of a thread up to which 1024 of them fit on a multiprocessor.
MOST_REGISTERS = 64
_LETTERS = {"int64": "q", "float64": "d", "float32": "f"}

_lock = threading.RLock()
_kernels: dict[tuple[Any, ...], Any] = {}


def ptx_of(make: Maker, capability: tuple[int, int], *arguments: Any) -> tuple[str, str, Any]:
    """PTX of a kernel for a compute capability, the kernel's name, and its arguments' types."""
    function, types = make(*arguments)
    code, _ = cuda.compile(function, types, device=False, abi="numba", cc=capability, output="ptx")
    found = re.search(r"\.visible \.entry (\w+)\(", code)
    assert found is not None  # a kernel is an entry
    return code, found[1], types.args


def kinds_of(types: Any) -> str:
    """The letters of `struct` for the arguments of a launch; those of a tuple one by one."""
    return "".join(kinds_of(t) if hasattr(t, "types") else _LETTERS[str(t)] for t in types)


def registers_of(log: str) -> int | None:
    """Registers of a thread, from the assembler's log; None where it does not say."""
    found = re.search(r"Used (\d+) registers", log)
    return None if found is None else int(found[1])


def spilled(log: str) -> int | None:
    """Bytes of a thread's registers that go to memory, as `registers_of`."""
    found = re.search(r"(\d+) bytes spill stores", log)
    return None if found is None else int(found[1])


def cubin_of(ptx: str, capability: tuple[int, int]) -> tuple[bytes, str]:
    """Machine code of a kernel, and the assembler's log of its registers and spills.

    With at most 64 registers 1024 threads fit. Where the assembler takes more, it is asked for 64,
    and its answer is used if nothing is spilled. The log decides about speed alone: where its
    words are others, the first answer is used.
    """
    from cuda.bindings import nvjitlink

    arch = f"-arch=sm_{capability[0]}{capability[1]}"
    try:
        image, log = _linked(ptx, arch)
        if (registers_of(log) or 0) > MOST_REGISTERS:
            dense, dense_log = _linked(ptx, arch, f"-maxrregcount={MOST_REGISTERS}")
            return (dense, dense_log) if spilled(dense_log) == 0 else (image, log)
        return image, log
    except nvjitlink.nvJitLinkError as error:
        (major, minor), written = nvjitlink.version(), re.search(r"\.version ([\d.]+)", ptx)
        package = "nvidia-nvjitlink" + (f"-cu{major}" if major < 13 else "")
        raise RuntimeError(
            f"nvJitLink {major}.{minor} makes no code for compute capability "
            f"{'.'.join(map(str, capability))} from PTX {written and written[1]} ({error}): it is "
            "older than the GPU, or than the libNVVM that wrote the PTX. Bring it up to date: "
            f'pip install --upgrade "{package}=={major}.*".'
        ) from error


def _linked(ptx: str, *options: str) -> tuple[bytes, str]:
    from cuda.bindings import nvjitlink

    options = (*options, "-verbose")
    handle, code = nvjitlink.create(len(options), options), ptx.encode()
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, code, len(code), "numadam")
        nvjitlink.complete(handle)
        image = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, image)
        log = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, log)
    finally:
        nvjitlink.destroy(handle)
    return bytes(image), log.decode()


def _versions() -> tuple[str, ...]:
    import numba_cuda
    from cuda.bindings import nvjitlink
    from numba.cuda.cudadrv import nvvm

    return numba_cuda.__version__, str(nvvm.NVVM().get_ir_version()), str(nvjitlink.version())


def _image(
    make: Maker, capability: tuple[int, int], plan: Plan, more: tuple[Any, ...]
) -> tuple[bytes, str, str]:
    """The cubin, the kernel's name and the kinds of its arguments, from the disk if it is there."""
    key = (make.__qualname__, plan.name, str(more), capability, THREADS, _versions())
    entry = cache.entry("cuda", key, "_cuda")
    cached = cache.read(entry)
    if cached is not None:
        name, letters, image = cached.split(b"\n", 2)
        return image, name.decode(), letters.decode()
    what = f"{plan.name} for the GPU ({make.__qualname__})"
    with reported(what, cache.directory()):
        ptx, title, types = ptx_of(make, capability, plan, *more)
        kinds, (image, _) = kinds_of(types), cubin_of(ptx, capability)
    cache.write(entry, f"{title}\n{kinds}\n".encode() + image)
    return image, title, kinds


def compiled(make: Maker, device: int, plan: Plan, *more: Any) -> Any:
    """The kernel of ``make(plan, *more)``, compiled for a GPU and loaded there, once a process."""
    key = (make, plan, *map(str, more), device, THREADS)
    with _lock:
        if key not in _kernels:
            _kernels[key] = _load(make, device, plan, more)
        return _kernels[key]


@contextmanager
def _explained(device: int) -> Iterator[None]:
    """Raise, in one sentence, what keeps numba-cuda from compiling, and what to do."""
    from cuda.pathfinder import DynamicLibNotFoundError
    from numba.cuda.cudadrv.error import CCSupportError, CudaSupportError, NvvmSupportError

    try:
        yield
    except (DynamicLibNotFoundError, NvvmSupportError) as error:
        what = str(error).partition("\n")[0]
        raise ImportError(
            f"numba-cuda lacks a part of its compiler ({what}): {install_for_gpu()}."
        ) from error
    except CCSupportError as error:
        raise RuntimeError(
            f"numba-cuda does not compile for GPU {device} ({error}). CUDA 12 knows GPUs from "
            f"compute capability 5.0 on: in a fresh environment, {install_command('cuda12')}."
        ) from error
    except CudaSupportError as error:
        raise RuntimeError(
            f"numba-cuda cannot use GPU {device}, and CuPy can ({' '.join(str(error).split())}): "
            "check the driver with `nvidia-smi`."
        ) from error
    except AttributeError as error:  # of np.row_stack, where NumPy is 2.5 and numba-cuda 0.30
        if error.obj is not np:
            raise
        raise ImportError(
            f"numba-cuda does not work with NumPy {np.__version__} ({error}): {install_for_gpu()}."
        ) from error


def _load(make: Maker, device: int, plan: Plan, more: tuple[Any, ...]) -> Any:
    with _explained(device), compiling_for(device):
        capability = cuda.get_current_device().compute_capability
        return Kernel(*_image(make, capability, plan, more))
