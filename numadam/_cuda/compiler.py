"""Kernels compiled from Python to a cubin and cached on disk, without a GPU.

numba-cuda compiles to PTX, and nvJitLink of the same CUDA version to a cubin, so that the driver
may be an older one of that generation. numba-cuda's own way asks for a GPU, and does not cache
closures.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba import cuda

from numadam._arrays.interop import install_for_gpu
from numadam._core.plan import Plan
from numadam._cuda import launch as policy
from numadam._jit import build, cache
from numadam._jit.reports import reported
from numadam._version import install_command

#: Constructs a kernel's source: a plain function, and the types of its arguments.
Maker = Callable[..., tuple[Callable[..., None], Any]]

#: A kernel that is loaded for one GPU, and the letters of its arguments.
Kernel = tuple[Any, str]

#: Registers of a thread up to which 1024 of them fit on a multiprocessor.
MOST_REGISTERS = 64
_LETTERS = {"int64": "q", "float64": "d", "float32": "f"}

_lock = threading.RLock()
_kernels: dict[tuple[Any, ...], Kernel] = {}


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
    key = (make.__qualname__, plan.name, str(more), capability, policy.THREADS, _versions())
    entry = cache.entry("cuda", key)
    cached = cache.read(entry)
    if cached is not None:
        name, letters, image = cached.split(b"\n", 2)
        return image, name.decode(), letters.decode()
    what = f"{plan.name} for the GPU ({make.__qualname__})"
    with reported(what, build.directory()):
        ptx, title, types = ptx_of(make, capability, plan, *more)
        kinds, (image, _) = kinds_of(types), cubin_of(ptx, capability)
    cache.write(entry, f"{title}\n{kinds}\n".encode() + image)
    return image, title, kinds


def compiled(make: Maker, device: int, plan: Plan, *more: Any) -> Kernel:
    """The kernel of ``make(plan, *more)``, compiled for a GPU and loaded there, once a process."""
    key = (make, plan, *map(str, more), device, policy.THREADS)
    with _lock:
        if key not in _kernels:
            with _explained(device), policy.compiling_for(device):
                capability = cuda.get_current_device().compute_capability
                image, name, kinds = _image(make, capability, plan, more)
                _kernels[key] = policy.load(image, name), kinds
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
