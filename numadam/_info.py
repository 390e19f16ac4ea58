"""Versions, threads, cache and machine, for ``python -m numadam info``."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

_OPTIONAL = (
    "numba-cuda",
    "cuda-bindings",
    "nvidia-nvvm",
    "nvidia-cuda-nvrtc",
    "cupy",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "tbb",
    "mpi4py",
    "torch",
    "jax",
    "matplotlib",
)
_ROOT = Path(__file__).parents[1]
#: Beginnings of the names of variables that change what is compiled, on how many threads it runs,
#: or which GPU is there.
_PREFIXES = ("NUMBA_", "NUMADAM_", "OMP_", "KMP_", "GOMP_", "OPENBLAS_", "MKL_", "CUDA_", "CUPY_")


def facts() -> dict[str, str]:
    """Names and values for a bug report."""
    machine = {"CPU": f"{cpu()}, {_cores()}", "GPU": gpu()}
    return {**_versions(), **_threads(), **machine, "environment": _environment()}


def run(args: object) -> int:
    """Print the facts, a line each."""
    for name, value in facts().items():
        print(f"{name:18} {value}")
    return 0


def _versions() -> dict[str, str]:
    from numadam import __version__

    found = {"numadam": __version__, **_commit(), "installed in": str(_ROOT)}
    found["Python"] = sys.version.split()[0]
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
        import numba  # noqa: F401  # to see that it works, even if loaded

        from numadam._jit import build, process
    except ImportError as error:
        return {"threads": f"unknown, as Numba does not import: {error}"}
    try:
        found = {
            "threading layer": process.layer(),
            "parallel from": f"{process.parallel_from():,} elements",
            "threads": str(process.thread_count()),
        }
    except ValueError as error:
        found = {"threading layer": f"none: {error}"}
    folder = build.directory()
    return {
        **found,
        "compiled for": llvm_cpu(),
        "cache folder": str(folder or f"cannot be written: {'; '.join(build.refused)}"),
    }


def _commit() -> dict[str, str]:
    """The commit of a checkout, where git tells it: there are many of one version."""
    if not (_ROOT / ".git").exists():
        return {}
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty=, changed", "--exclude=*"]
    commit = _output(command)
    return {} if commit is None else {"commit": commit}


def _output(command: list[str]) -> str | None:
    """Output of a command; None where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _environment() -> str:
    """Variables that numadam's dependencies read."""
    found = [f"{name}={value}" for name, value in os.environ.items() if name.startswith(_PREFIXES)]
    return ", ".join(sorted(found)) or "none set"


def _cores() -> str:
    """Cores of the machine, and how many of them this process may use."""
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return f"{cores} cores" if usable == cores else f"{usable} of {cores} cores"


def llvm_cpu() -> str:
    """LLVM's name of the processor that loops are compiled for."""
    import numba

    from numadam._jit import private

    return str(numba.config.CPU_NAME or private.PROCESSOR)


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
    found = _output([tool, "--query-gpu=name,driver_version", "--format=csv,noheader"])
    if found is None:
        return "nvidia-smi gives no answer"
    return "; ".join(found.splitlines()) or "none found"
