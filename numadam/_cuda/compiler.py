"""Kernels compiled from texts to a cubin and kept on the disk, without a GPU.

numba-cuda compiles to PTX, and nvJitLink of the same CUDA version to a cubin, so that the driver
may be an older one of that generation. numba-cuda's own way asks for a GPU.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numba import cuda, types

from numadam._arrays.interop import install_for_gpu
from numadam._core.plan import Plan
from numadam._cuda import launch as policy
from numadam._cuda import private
from numadam._cuda.kernel import Kernel
from numadam._jit import build
from numadam._jit.reports import reported
from numadam._version import install_command

#: A kernel that is loaded for one GPU, and the letters of its arguments.
Loaded = tuple[Any, str]

_LETTERS = {"int64": "q", "float64": "d", "float32": "f"}
_ARGUMENT = re.compile(r"(\w+?)(\**)(?:\[(\d+)\])?")

_lock = threading.RLock()
_kernels: dict[tuple[Any, ...], Loaded] = {}


def _type_of(kind: str, types: Any) -> Any:
    """The type of an argument, among the `types` of a compiler."""
    match = _ARGUMENT.fullmatch(kind)
    assert match is not None  # `Kernel` says how kinds are written
    found = getattr(types, match[1])
    for _ in match[2]:
        found = types.CPointer(found)
    return types.UniTuple(found, int(match[3])) if match[3] else found


def ptx_of(
    kernel: Kernel, capability: tuple[int, int], compiler: Any = cuda, types: Any = types
) -> tuple[str, str]:
    """PTX of a kernel for a compute capability, and its name there.

    `compiler` is `numba.cuda` or another module like it, `types` the module of its types.
    """
    known: dict[Any, Any] = {}

    def wrap(function: Any) -> Any:
        return known.setdefault(function, compiler.jit(device=True)(function))

    scope = {
        "__name__": "numadam",
        "cuda": compiler,
        "np": np,
        "float64": np.float64,
        "float32": np.float32,
    }
    scope |= kernel.scope(wrap)
    exec(compile(kernel.text, f"<numadam: {kernel.name}>", "exec"), scope)
    signature = types.void(*(_type_of(kind, types) for kind in kernel.kinds))
    given = {"device": False, "abi": "numba", "cc": capability, "output": "ptx"}
    code, _ = compiler.compile(scope[kernel.name], signature, **given)
    code = code if isinstance(code, str) else code.decode()
    found = re.search(r"\.visible \.entry (\w+)\(", code)
    assert found is not None  # a kernel is an entry
    return code, found[1]


def letters_of(kernel: Kernel) -> str:
    """The letters of `struct` for the arguments of a launch, those of a tuple one by one."""
    matches = [_ARGUMENT.fullmatch(kind) for kind in kernel.kinds]
    return "".join(
        "q" if match[2] else _LETTERS[match[1]] * int(match[3] or 1) for match in matches if match
    )


def cubin_of(ptx: str, capability: tuple[int, int]) -> tuple[bytes, str]:
    """Machine code of a kernel, and the assembler's log of its registers and spills."""
    from cuda.bindings import nvjitlink

    try:
        return _linked(ptx, f"-arch=sm_{capability[0]}{capability[1]}")
    except nvjitlink.nvJitLinkError as error:
        (major, minor), written = nvjitlink.version(), re.search(r"\.version ([\d.]+)", ptx)
        package = "nvidia-nvjitlink" + (f"-cu{major}" if major < 13 else "")
        raise RuntimeError(
            f"nvJitLink {major}.{minor} makes no code for compute capability "
            f"{'.'.join(map(str, capability))} from PTX {written and written[1]} ({error}): it is "
            "older than the GPU, or than the libNVVM that wrote the PTX. Bring it up to date: "
            f'pip install --upgrade "{package}=={major}.*".'
        ) from error


def _linked(ptx: str, arch: str) -> tuple[bytes, str]:
    from cuda.bindings import nvjitlink

    options = arch, "-verbose"
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


def _kept(name: str) -> bytes | None:
    """The content of a whole file of that name, or None."""
    for folder in build.folders():
        with contextlib.suppress(OSError):
            stored = (folder / name).read_bytes()
            if hashlib.sha256(stored[32:]).digest() == stored[:32]:
                return stored[32:]
    return None


def _keep(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then move it into place, where that can be done."""
    with contextlib.suppress(OSError):
        temporary = path.with_name(f"{path.name}.tmp.{secrets.token_hex(8)}")
        temporary.write_bytes(hashlib.sha256(content).digest() + content)
        temporary.replace(path)


def _image(kernel: Kernel, plan: Plan, capability: tuple[int, int]) -> tuple[bytes, str]:
    """The cubin, and the kernel's name there; from the disk, but for rules of the user's own."""
    key = build.hashed(kernel.text, kernel.kinds, plan.name, capability, private.versions())
    entry = f"{build.PREFIX}{key}.cubin"
    content = None if plan.rule.digest else _kept(entry)
    if content is None:
        where = None if plan.rule.digest else build.directory()
        with reported(f"{plan.name} for the GPU ({kernel.name})", where):
            ptx, title = ptx_of(kernel, capability)
            content = f"{title}\n".encode() + cubin_of(ptx, capability)[0]
        if where is not None:
            _keep(where / entry, content)
    name, image = content.split(b"\n", 1)
    return image, name.decode()


def compiled(make: Any, device: int, plan: Plan, *more: Any) -> Loaded:
    """The kernel of ``make(plan, *more)``, compiled for a GPU and loaded there, once a process."""
    key = (make, plan, *more, device)
    with _lock:
        if key not in _kernels:
            kernel = make(plan, *more)
            with _explained(device), policy.compiling_for(device):
                capability = cuda.get_current_device().compute_capability
                image, name = _image(kernel, plan, capability)
                _kernels[key] = policy.load(image, name), letters_of(kernel)
        return _kernels[key]


@contextlib.contextmanager
def _explained(device: int) -> Iterator[None]:
    """Raise, in one sentence, what keeps numba-cuda from compiling, and what to do."""
    from cuda.pathfinder import DynamicLibNotFoundError

    try:
        yield
    except (DynamicLibNotFoundError, private.NvvmSupportError) as error:
        what = str(error).partition("\n")[0]
        raise ImportError(
            f"numba-cuda lacks a part of its compiler ({what}): {install_for_gpu()}."
        ) from error
    except private.CCSupportError as error:
        raise RuntimeError(
            f"numba-cuda does not compile for GPU {device} ({error}). CUDA 12 knows GPUs from "
            f"compute capability 5.0 on: in a fresh environment, {install_command('cuda12')}."
        ) from error
    except private.CudaSupportError as error:
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
