"""The machine of a run: processor, caches, threads, versions; and what others leave of it."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import time
from pathlib import Path

from numadam._bench import measure
from numadam._info import cpu, gpu

_PACKAGES = (
    *("numadam", "numpy", "numba", "tbb", "torch", "deepspeed", "jax", "optax", "numba-cuda"),
    *("cupy-cuda12x", "cupy-cuda13x", "mpi4py", "mpich", "openmpi"),
)


def machine():
    """The machine and the versions of a table."""
    import numba

    from numadam._jit import process

    layer = process.layer()  # first: asking for the number of threads makes Numba choose, too
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


def _kind():
    """Family and model of the processor, where Linux tells them: some names are of all models."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return {}
    pairs = [[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]
    return {name.split()[-1]: value for name, value in pairs if name in ("cpu family", "model")}


def _caches():
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


def introduction(about):
    """Return the machine in two lines."""
    kind = ", ".join(f"{name} {about[name]}" for name in ("family", "model") if name in about)
    caches = ", ".join(f"{name} {size}" for name, size in about.get("caches", {}).items())
    parts = [f"{about['processor']}{kind and f' ({kind})'}", f"{about['cores']} cores", caches]
    words = ", ".join(part for part in parts if part)
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"{about['date']}, {words}, {about['system']}, {about['threads']} threads, "
        f"layer {about['layer']}, GPU: {about['gpu']}\n{versions}"
    )


def wait_until_quiet(end):
    """Sleep until others leave the machine alone, or the monotonic clock reaches `end`."""
    while time.monotonic() < end and measure.busy_now() > measure.LIMIT:
        pass


def quietest(take, wait):
    """Call `take` when others are away, again for `wait` seconds; the quietest answer and load."""
    end, best = time.monotonic() + wait, None
    while True:
        wait_until_quiet(end)
        load = measure.Load()
        found = take()
        busy = load.busy()
        if best is None or (busy or 0.0) < (best[1] or 0.0):
            best = found, busy
        if (best[1] or 0.0) <= measure.LIMIT or time.monotonic() >= end:
            return best


def table(heads, rows):
    """Lines of a table in Markdown."""
    body = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in body)
