"""The machine of a run: processor, caches, threads, versions; and that of the targets."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from numadam.info import cpu, gpu

_PACKAGES = (
    "numadam",
    "numpy",
    "numba",
    "tbb",
    "torch",
    "deepspeed",
    "jax",
    "optax",
    "numba-cuda",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "mpi4py",
    "mpich",
    "openmpi",
)
#: The processor on which the targets of the CPU's cases were set; a machine is compared in these.
RECORDED: dict[str, Any] = {
    "processor": "AMD EPYC",
    "family": "25",
    "model": "17",
    "cores": 2,
    "caches": {"L1d": "32K", "L2": "1024K", "L3": "32768K"},
}


def machine() -> dict[str, Any]:
    """The machine and the versions of a table."""
    import numba

    from numadam._jit import threads

    layer = threads.layer()  # first: asking for the number of threads makes Numba choose, too
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "processor": cpu(),
        **_kind(),
        "caches": _caches(),
        "gpu": gpu(),
        "cores": os.cpu_count(),
        "threads": numba.get_num_threads(),
        "layer": layer,
        "system": platform.system(),
        "versions": versions,
    }


def _kind() -> dict[str, str]:
    """Family and model of the processor, where Linux tells them: some names are of all models."""
    found = {}
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("cpu family", "model"):
            found[name.split()[-1]] = value.strip()
    return found


def _caches() -> dict[str, str]:
    """Sizes of the first core's caches, where Linux tells them."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = (
                (folder / name).read_text().strip() for name in ("level", "type", "size")
            )
        except OSError:
            continue
        if kind != "Instruction":
            found[f"L{level}{'d' if kind == 'Data' else ''}"] = size
    return found


def _words(about: dict[str, Any]) -> str:
    """A processor in words."""
    kind = ", ".join(f"{name} {about[name]}" for name in ("family", "model") if name in about)
    caches = ", ".join(f"{name} {size}" for name, size in about.get("caches", {}).items())
    parts = [f"{about['processor']}{kind and f' ({kind})'}", f"{about['cores']} cores", caches]
    return ", ".join(part for part in parts if part)


def introduction(about: dict[str, Any]) -> str:
    """Return the machine in two lines."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"{about['date']}, {_words(about)}, {about['system']}, {about['threads']} threads, "
        f"layer {about['layer']}, GPU: {about['gpu']}\n{versions}"
    )


def compared(about: dict[str, Any]) -> str:
    """Say on which processor the targets were set, and warn where this one is another."""
    text = f"targets: set on {_words(RECORDED)}"
    others = [name for name, value in RECORDED.items() if about.get(name) != value]
    if not others:
        return f"{text}: a processor like this one"
    return (
        f"{text}.\nWARNING: this machine differs ({', '.join(others)}): ratios may differ, "
        "most of all in the caches (10k to 5M elements), of starts, and of minimize_many."
    )
