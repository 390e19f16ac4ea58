"""Versions, threads, cache and machine, for ``python -m numadam info``."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

_OPTIONAL = (
    "numba-cuda",
    "cupy",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "tbb",
    "mpi4py",
    "mlxtend",
    "matplotlib",
)
#: Prints the library that mpi4py has loaded. MPI may be asked for its version before it starts.
_LIBRARY = """
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(MPI.Get_library_version())
"""


def facts() -> dict[str, str]:
    """Names and values for a bug report."""
    return {**_versions(), **_threads(), **_mpi(), "CPU": cpu(), "GPU": gpu()}


def _versions() -> dict[str, str]:
    from numadam import __version__

    found = {"numadam": __version__, "Python": sys.version.split()[0]}
    found["platform"] = platform.platform()
    for name in ("numpy", "numba", "llvmlite", "scipy", *_OPTIONAL):
        try:  # the metadata only: importing CuPy would start the GPU
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name not in _OPTIONAL:
                found[name] = "not installed"
    return found


def _threads() -> dict[str, str]:
    import numba

    from numadam._jit import cache, threads

    read = cache.folders()
    return {
        "threading layer": threads.layer(),
        "parallel from": f"{threads.parallel_from():,} elements",
        "threads": str(numba.get_num_threads()),
        "cache folder": str(cache.directory() or f"{', '.join(map(str, read))}: only read"),
    }


def _mpi() -> dict[str, str]:
    """The MPI library, where mpi4py is installed; asked in a process of its own.

    A library that does not load can end its process, and mpi4py's setting that keeps MPI from
    starting would stay with this one.
    """
    if importlib.util.find_spec("mpi4py") is None:
        return {}
    command = [sys.executable, "-c", _LIBRARY]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().split("\n")[-1]
        return {"MPI library": f"does not load: {said}" if said else "does not load"}
    except (OSError, subprocess.SubprocessError):
        return {"MPI library": "gives no answer"}
    # MPICH writes a line on each of its compilers, too
    lines = [" ".join(line.split()) for line in done.stdout.strip("\0\n ").splitlines()]
    return {"MPI library": lines[0] if lines else "gives no answer"}


def cpu() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def gpu() -> str:
    """The GPUs that NVIDIA's own tool lists, without loading CUDA."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "none found"
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "nvidia-smi gives no answer"
    return "; ".join(done.stdout.split("\n")).strip("; ") or "none found"
