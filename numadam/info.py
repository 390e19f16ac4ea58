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
    "matplotlib",
)


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
    try:  # an install that does not work is what a bug report is about
        import numba

        from numadam._jit import cache, threads
    except ImportError as error:
        return {"threads": f"unknown, as Numba does not import: {error}"}
    read = cache.folders()
    return {
        "threading layer": threads.layer(),
        "parallel from": f"{threads.parallel_from():,} elements",
        "threads": str(numba.get_num_threads()),
        "cache folder": str(cache.directory() or f"{', '.join(map(str, read))}: only read"),
    }


def _mpi() -> dict[str, str]:
    """The MPI that mpi4py finds, where it is installed, and the way of CuPy arrays."""
    if importlib.util.find_spec("mpi4py") is None:
        return {}
    from numadam._mpi.describe import describe

    return {"MPI": describe()}


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
