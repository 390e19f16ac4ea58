"""Figures that need a process of their own: start-up times and memory."""

from __future__ import annotations

import json
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
_TORCH_STEP = """
import torch
parameter = torch.zeros({n}, requires_grad=True)
parameter.grad = torch.ones({n})
torch.optim.Adam([parameter], fused=True).step()
"""
#: A minimisation whose objective no process has seen before, after all imports.
_FIRST_MANY = """
import time
import numba
import numpy as np
from numadam import minimize_many

@numba.njit
def fun(x, g):
    a, b = x[1] - x[0] * x[0], {new:.17g} - x[0]
    g[0], g[1] = -400.0 * a * x[0] - 2.0 * b, 200.0 * a
    return 100.0 * a * a + b * b

start = time.monotonic()
minimize_many(fun, np.zeros((1000, 2)), maxiter=10)
print(time.monotonic() - start)
"""
_NOW = "import time; print(time.monotonic())"
_IMPORT = """
import time
import numpy
start = time.monotonic()
import numadam
print(time.monotonic() - start)
"""
_LAYER = "NUMBA_THREADING_LAYER"


def layer_environment(layer: str) -> dict[str, str]:
    """The environment in which Numba takes this threading layer."""
    environment = {key: value for key, value in os.environ.items() if key != _LAYER}
    if layer != "tbb":  # numadam itself finds the tbb wheel, but only where nobody has chosen
        environment[_LAYER] = layer
    return environment


def under_layer(layer: str, name: str) -> Callable[[int], Figure]:
    """Measure the case `name` in a process of its own that has this threading layer."""

    def measure(pairs: int) -> Figure:
        source = (
            "from numadam.bench.cases import named; import dataclasses, json; "
            f"print(json.dumps(dataclasses.asdict(named({name!r}).prepare()({pairs}))))"
        )
        return Figure(**json.loads(_output(source, layer_environment(layer))))

    return measure


def _output(source: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", source], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"a benchmark process failed: {done.stderr.strip()}")
    return done.stdout.strip().split("\n")[-1]


def run_python(source: str, cache: str | None = None) -> float:
    """Run a program in a fresh interpreter; return the number that it prints last."""
    environment = dict(os.environ)
    if cache is not None:
        environment["NUMBA_CACHE_DIR"] = cache
    return float(_output(source, environment).split()[-1])


def _whole(program: str, cache: str | None = None) -> float:
    """Seconds from the start of a process to the end of its program."""
    # the monotonic clock is one for all processes of the machine
    start = time.monotonic()
    return run_python(program + _NOW, cache) - start


def first_step(cold: bool, n: int, against_torch: bool = True) -> Callable[[int], Figure]:
    """Process start to the end of the first step / the same for torch's fused step, or seconds.

    Ours has an empty or a full cache of compiled loops.
    """
    program, peer = FIRST_STEP.format(n=n), _TORCH_STEP.format(n=n)

    def measure(pairs: int) -> Figure:
        ours, theirs = [], []
        with tempfile.TemporaryDirectory() as folder:
            if not cold:
                _whole(program, folder)  # fills the cache
            if against_torch:
                _whole(peer)  # reads torch's files from the disk
            for k in range(min(pairs, 3 if cold else 5)):
                ours.append(_whole(program, str(Path(folder) / str(k)) if cold else folder))
                if against_torch:
                    theirs.append(_whole(peer))
        if not against_torch:
            return Figure(median(ours))
        value = median(a / b for a, b in zip(ours, theirs, strict=True))
        return Figure(value, median(ours), median(theirs))

    return measure


def first_many(pairs: int) -> Figure:
    """Seconds of the first `minimize_many` with a new objective, the loops being on the disk."""
    seconds = [
        run_python(_FIRST_MANY.format(new=1.0 + time.time() % 1)) for _ in range(1 + min(pairs, 5))
    ]
    return Figure(median(seconds[1:]))  # the first process may have filled the cache


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
