"""Figures that need a process of their own: start-up times and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from statistics import median

from numadam.bench.measure import Figure, Side

#: A program, from the first import to the end of the first step; 1M need the parallel loop, too.
FIRST_STEP = """
import numpy as np
import numadam
params, grads = np.zeros({n}, np.float32), np.ones({n}, np.float32)
numadam.Adam(params).step(grads)
"""
_NOW = "import time; print(time.monotonic())"
_IMPORT = """
import time
import numpy
start = time.monotonic()
import numadam
print(time.monotonic() - start)
"""


def run_python(source: str, cache: str | None = None) -> float:
    """Run a program in a fresh interpreter; return the number that it prints last."""
    environment = dict(os.environ)
    if cache is not None:
        environment["NUMBA_CACHE_DIR"] = cache
    done = subprocess.run(
        [sys.executable, "-c", source], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"a benchmark process failed: {done.stderr.strip()}")
    return float(done.stdout.split()[-1])


def _first_step(n: int, cache: str) -> float:
    # the monotonic clock is one for all processes of the machine
    start = time.monotonic()
    return run_python(FIRST_STEP.format(n=n) + _NOW, cache) - start


def first_step(cold: bool, n: int = 1_000_000) -> Callable[[int], Figure]:
    """Seconds from process start to the end of the first step, with an empty or a full cache."""

    def measure(pairs: int) -> Figure:
        with tempfile.TemporaryDirectory() as folder:
            places = [str(Path(folder) / str(k)) for k in range(max(1, pairs // 5))]
            if cold:
                seconds = [_first_step(n, place) for place in places]
            else:
                _first_step(n, places[0])  # fills the cache
                seconds = [_first_step(n, places[0]) for _ in range(pairs)]
        return Figure(median(seconds))

    return measure


def import_time(pairs: int) -> Figure:
    """Seconds that ``import numadam`` adds to ``import numpy``."""
    return Figure(median(run_python(_IMPORT) for _ in range(pairs)))


def memory(side: Side, peak: bool) -> Callable[[int], Figure]:
    """Bytes that a step leaves behind, or has at most, as tracemalloc sees them."""

    def measure(pairs: int) -> Figure:
        steps, peaks = 10 * pairs, []
        tracing = tracemalloc.is_tracing()
        tracemalloc.start()
        try:
            for _ in range(10):
                side()
            first = tracemalloc.get_traced_memory()[0]
            for _ in range(steps):
                side()
            # rounded: Python's free lists come and go by an object
            net = round((tracemalloc.get_traced_memory()[0] - first) / steps)
            for _ in range(pairs):
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                side()
                peaks.append(tracemalloc.get_traced_memory()[1] - before)
        finally:
            if not tracing:
                tracemalloc.stop()
        return Figure(median(peaks) if peak else net)

    return measure


def peak(work: Side) -> int:
    """Bytes that `work` has at most, beyond what there was, as tracemalloc sees them."""
    tracing = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not tracing:
            tracemalloc.stop()
