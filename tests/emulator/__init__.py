"""A CUDA machine without a card: real CuPy and numba-cuda over a `libcuda.so.1` of our own.

The folder `driver` has the driver, and the CUDA runtime that CuPy has linked into itself;
`ptx_to_c.py` makes C of the PTX of kernels, which gcc compiles. `start` builds and loads both.
README.md says what is emulated, and which environment variables choose how.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import mmap
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

from numadam._version import install_command

HERE = Path(__file__).parent
_FLAGS = "-O2 -std=c++17 -fPIC -shared -fvisibility=hidden -fvisibility-inlines-hidden"
_LINK = "-static-libstdc++ -static-libgcc -Wl,--exclude-libs,ALL -Wl,-soname,libcuda.so.1"
#: Marks the PTX behind a cubin, which the driver translates in the place of the machine code.
_MARK = b"PTXEMU::"
_driver: ctypes.CDLL | None = None
_kept: list[object] = []  # memory that patched functions refer to


def why_not() -> str:
    """The reason why the emulator cannot run here, or nothing."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return "the emulator needs Linux on x86-64"
    for program in ("g++", "gcc", "nm"):
        if shutil.which(program) is None:
            return f"the emulator needs {program}: install a C++ compiler and binutils"
    for package in ("cupy", "numba_cuda"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed: {install_command('test-cuda')}"
    if not all((folder / "crt").is_dir() for folder in _headers()) or not _headers():
        return f"CUDA's headers are not installed: {install_command('test-cuda')}"
    return ""


def _headers() -> list[Path]:
    """The folder of CUDA's headers, of the wheels."""
    found = importlib.util.find_spec("nvidia")
    places = [] if found is None else list(found.submodule_search_locations or ())
    folders = [Path(place) / "cu13" / "include" for place in places]
    return [folder for folder in folders if (folder / "cuda.h").exists()][:1]


def has_gpu() -> bool:
    """Whether the machine has a card, with its driver."""
    if is_running():
        return False
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return (
        driver.cuInit(0) == 0
        and not driver.cuDeviceGetCount(ctypes.byref(count))
        and count.value > 0
    )


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _cache() -> Path:
    """The folder of the driver and of translated kernels, both by their content."""
    default = Path.home() / ".cache" / "numadam-emulator"
    folder = Path(os.environ.get("EMU_CACHE") or default)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _build() -> Path:
    """Build the driver, unless there is one of the same sources and headers."""
    (headers,) = _headers()
    sources = sorted((HERE / "driver").glob("*.cpp"))
    command = ["g++", *_FLAGS.split(), f"-I{headers}", *map(str, sources), *_LINK.split()]
    parts = [repr(command).encode(), (headers / "cuda.h").read_bytes()]
    parts += [file.read_bytes() for file in sorted((HERE / "driver").iterdir())]
    built = _cache() / f"driver-{_digest(*parts)}" / "libcuda.so.1"
    if not built.exists():
        built.parent.mkdir(exist_ok=True)
        fresh = built.with_name(f"{os.getpid()}.so")
        subprocess.run([*command, "-o", str(fresh), "-ldl", "-lpthread"], check=True)
        fresh.replace(built)  # several processes may build it at once
    return built


def _load() -> ctypes.CDLL:
    """Load the driver, and tell it how kernels are translated."""
    driver = ctypes.CDLL(str(_build()), mode=ctypes.RTLD_GLOBAL)
    for name in ("emu_take_faults", "emu_take_launches"):
        getattr(driver, name).restype = ctypes.c_char_p
    for name in ("emu_take_waits", "emu_pending"):
        getattr(driver, name).restype = ctypes.c_long
    parts = [*sorted(HERE.glob("ptx_*")), HERE / "driver" / "kernel_abi.h"]
    key = _digest(*(part.read_bytes() for part in parts))
    words = (sys.executable, str(HERE / "ptx_to_c.py"), str(_cache()), key)
    driver.emu_set_translator(*(word.encode() for word in words))
    return driver


def start() -> None:
    """Load the emulated driver into this process, before CuPy and numba-cuda load theirs."""
    global _driver
    if _driver is not None:
        return
    if "cupy" in sys.modules:
        raise RuntimeError("the emulator has to start before CuPy is imported")
    os.environ.setdefault("CUPY_COMPILE_WITH_PTX", "1")
    os.environ.setdefault("CUPY_ACCELERATORS", "")
    _driver = _load()
    backends = importlib.util.find_spec("cupy_backends")
    assert backends is not None
    (root,) = backends.submodule_search_locations or ()
    _patch_runtime(next((Path(root) / "cuda/api").glob("runtime.*.so")))
    _keep_ptx_of_nvjitlink()
    _keep_ptx_of_numba()
    import cupy
    import numpy

    # CuPy sorts by Thrust, which is machine code alone
    cupy.argsort = lambda a, axis=-1, kind=None: cupy.asarray(
        numpy.argsort(cupy.asnumpy(a), axis, kind="stable")
    )
    if os.environ.get("EMU_EXACT") == "1":  # no pool: each array ends where its memory ends
        cupy.cuda.set_allocator(None)


def is_running() -> bool:
    """Whether this process has the emulated driver."""
    return _driver is not None


def faults() -> list[str]:
    """Faults that the emulator has found since the last call."""
    assert _driver is not None
    return _driver.emu_take_faults().decode(errors="replace").splitlines()


def launches() -> list[str]:
    """Names of the kernels that were put into streams since the last call, in this order."""
    assert _driver is not None
    return _driver.emu_take_launches().decode().splitlines()


def waits() -> int:
    """Number of times that the host has waited for a device since the last call."""
    assert _driver is not None
    return int(_driver.emu_take_waits())


def pending() -> int:
    """Operations that nobody has waited for: they have not run."""
    assert _driver is not None
    return int(_driver.emu_pending())


def environment(started: bool | None = None) -> dict[str, str]:
    """Environment variables for a Python process with the emulator, where this one has it."""
    if not (is_running() if started is None else started):
        return dict(os.environ)
    paths = [str(HERE / "startup"), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "EMU": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


# --- CuPy's runtime, and cubins -------------------------------------------------------------------


def _base(path: Path) -> int:
    """The address at which a library is loaded."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path)) and line.split()[2] == "00000000":
            return int(line.split("-")[0], 16)
    raise RuntimeError(f"{path} is not loaded")


def _patch_runtime(path: Path) -> None:
    """Let the static runtime functions of a library jump to those of the emulator."""
    assert _driver is not None
    path = path.resolve()
    ctypes.CDLL(str(path), mode=os.RTLD_NOW)
    base, libc = _base(path), ctypes.CDLL(None, use_errno=True)
    names = subprocess.run(["nm", str(path)], capture_output=True, text=True, check=True).stdout
    symbols = [
        (base + int(address, 16), name)
        for address, name in re.findall(r"^([0-9a-f]+) [tT] (cuda[A-Z]\w*)$", names, re.M)
    ]
    pages = {end & ~4095 for address, _ in symbols for end in (address, address + 16)}
    for page in pages:
        if libc.mprotect(ctypes.c_void_p(page), 4096, 7):
            raise OSError(ctypes.get_errno(), "mprotect")
    table = mmap.mmap(-1, 1 << 16, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    _kept.append(table)
    room, used = ctypes.addressof(ctypes.c_char.from_buffer(table)), 0
    unsupported = ctypes.cast(_driver.emu_not_supported, ctypes.c_void_p).value
    for address, name in symbols:
        plain = re.sub(r"_pt[sd]s?z$|_ptsz$", "", name)
        plain = re.sub(r"_v\d+$", "", plain) if not hasattr(_driver, plain) else plain
        if hasattr(_driver, plain):
            target = ctypes.cast(getattr(_driver, plain), ctypes.c_void_p).value
        else:  # names itself in the error
            text = ctypes.create_string_buffer(name.encode())
            _kept.append(text)
            code = b"\x48\xbf" + struct.pack("<Q", ctypes.addressof(text)) + _jump(unsupported)
            ctypes.memmove(room + used, code, len(code))
            target, used = room + used, used + 32
        code = _jump(target)
        ctypes.memmove(address, code, len(code))


def _jump(target: int | None) -> bytes:
    """Machine code: mov rax, target; jmp rax."""
    return b"\x48\xb8" + struct.pack("<Q", target) + b"\xff\xe0"


def _marked(ptx: bytes) -> bytes:
    """PTX as it stands behind a cubin."""
    text = ptx.rstrip(b"\0")
    return _MARK + struct.pack("<Q", len(text)) + text


def _keep_ptx_of_nvjitlink() -> None:
    """Put behind nvJitLink's cubins the PTX that they are made of."""
    from cuda.bindings import nvjitlink

    texts: dict[int, bytes] = {}
    add, size, get = (
        nvjitlink.add_data,
        nvjitlink.get_linked_cubin_size,
        nvjitlink.get_linked_cubin,
    )

    def add_data(handle, kind, data, length, name):
        if int(kind) == int(nvjitlink.InputType.PTX):
            is_address = isinstance(data, int)
            texts[int(handle)] = (
                ctypes.string_at(data, length) if is_address else bytes(data[:length])
            )
        return add(handle, kind, data, length, name)

    def get_linked_cubin_size(handle):
        return size(handle) + len(_marked(texts[int(handle)]))

    def get_linked_cubin(handle, out):
        linked = bytearray(size(handle))
        get(handle, linked)
        out[:] = bytes(linked) + _marked(texts[int(handle)])

    nvjitlink.add_data = add_data
    nvjitlink.get_linked_cubin_size = get_linked_cubin_size
    nvjitlink.get_linked_cubin = get_linked_cubin


def _keep_ptx_of_numba() -> None:
    """Do the same for kernels that numba-cuda links itself."""
    from cuda.core import ObjectCode
    from numba.cuda.codegen import CUDACodeLibrary

    get = CUDACodeLibrary.get_cubin

    def get_cubin(library, cc=None):
        linked, cc = get(library, cc), library._ensure_cc(cc)
        if library._lto:
            text = library.get_lto_ptx(cc=cc)
        else:
            (text,) = library.get_asm_strs(cc=cc)
        return ObjectCode.from_cubin(bytes(linked.code) + _marked(text.encode()))

    CUDACodeLibrary.get_cubin = get_cubin
