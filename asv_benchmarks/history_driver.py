"""Measures one version of numadam, whichever is found first: history.py runs it for each commit.

It uses the public API alone and brings its own other sides, so that all commits are measured in
the same way. What a version does not have yet is left out, with the reason. Prints JSON.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numba
import numpy as np

_BENCH = Path(__file__).resolve().parents[1] / "numadam" / "_bench"
_LR = 1e-3
_START = (-1.2, 1.0)


def _measure_of_this_checkout():
    """The benchmarks' timing as it is now, not that of the commit; it needs no numadam."""
    spec = importlib.util.spec_from_file_location("history_measure", _BENCH / "measure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


measure = _measure_of_this_checkout()


def values(n, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(n).astype(dtype)


# --- the other sides ----------------------------------------------------------------------------


@numba.njit(parallel=True, error_model="numpy")
def _stream(p, g, m, v):
    for i in numba.prange(p.size):
        p[i] = p[i] + g[i]
        m[i] = m[i] + g[i]
        v[i] = v[i] + g[i]


def roofline(n):
    """The memory traffic of a step: 4 reads, 3 writes."""
    return functools.partial(_stream, *(values(n, seed) for seed in range(4)))


def numpy_adam(n):
    p, g = values(n), values(n, 1)
    m, v, t = np.zeros_like(p), np.zeros_like(p), 0

    def update():
        nonlocal m, v, t
        t += 1
        m = 0.9 * m + (1 - 0.9) * g
        v = 0.999 * v + (1 - 0.999) * g**2
        p[...] -= _LR * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)

    return update


@numba.njit
def rosen(x, g):
    a, b = x[1] - x[0] * x[0], 1.0 - x[0]
    g[0] = -400.0 * a * x[0] - 2.0 * b
    g[1] = 200.0 * a
    return 100.0 * a * a + b * b


def numpy_loop(iterations):
    """The usual loop on the same compiled objective."""

    def run():
        x, g, m, v = np.array(_START), np.zeros(2), np.zeros(2), np.zeros(2)
        for t in range(1, iterations + 1):
            rosen(x, g)
            m = 0.9 * m + (1 - 0.9) * g
            v = 0.999 * v + (1 - 0.999) * g * g
            x -= 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)

    return run


# --- ours ---------------------------------------------------------------------------------------


def step(n, rule="Adam", **options):
    import numadam

    return functools.partial(
        getattr(numadam, rule)(values(n), lr=_LR, **options).step, values(n, 1)
    )


def many(count, size):
    import numadam

    params = [values(size, k) for k in range(count)]
    grads = [values(size, k + 1) for k in range(count)]
    return functools.partial(numadam.Adam(params, lr=_LR).step, grads)


def bare(n):
    import numadam

    p, g, m, v = values(n), values(n, 1), np.zeros(n, np.float32), np.zeros(n, np.float32)
    return lambda: numadam.adam_update(p, g, m, v, 1, lr=_LR)


def minimize(iterations, compiled):
    import numadam

    g = np.empty(2)

    def python(x):
        return rosen(x, g), g

    fun, options = (rosen, {}) if compiled else (python, {"jac": True})
    options |= {"lr": 0.01, "gtol": 1e-300, "maxiter": iterations}
    return functools.partial(numadam.minimize, fun, np.array(_START), **options)


def _seconds(code, cache):
    """From the start of a fresh interpreter to the end of `code`."""
    import os

    start = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "NUMBA_CACHE_DIR": cache}
    )
    return time.monotonic() - start


_FIRST = """
import numpy, numadam
numadam.Adam(numpy.zeros(1000, numpy.float32)).step(numpy.ones(1000, numpy.float32))
"""


def first_step(cold, rounds):
    """A process up to the end of its first step / a process that imports numba."""
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        _seconds(_FIRST, f"{folder}/full")
        for k in range(rounds):
            ours = _seconds(_FIRST, f"{folder}/{k}" if cold else f"{folder}/full")
            ratios.append(ours / _seconds("import numba", folder))
    return median(ratios)


#: name: (what ours is divided by, elements or iterations of that, ours, their ratio by design)
_PAIRS = {
    "step-100k": ("roofline", 100_000, lambda: step(100_000), 1.0),
    "step-1M": ("roofline", 1_000_000, lambda: step(1_000_000), 1.0),
    "step-10M": ("roofline", 10_000_000, lambda: step(10_000_000), 1.0),
    "1000 x 1000": ("roofline", 1_000_000, lambda: many(1000, 1000), 1.0),
    "clip_norm-1M": ("roofline", 1_000_000, lambda: step(1_000_000, clip_norm=1.0), 1.0),
    "AdamW-1M": ("roofline", 1_000_000, lambda: step(1_000_000, "AdamW"), 1.0),
    "step-1000": ("NumPy", 1000, lambda: step(1000), 1.0),
    "adam_update-1000": ("NumPy", 1000, lambda: bare(1000), 1.0),
    "minimize, Python": ("NumPy loop", 2000, lambda: minimize(2000, False), 1.0),
    "minimize, compiled": ("NumPy loop", 2000, lambda: minimize(200_000, True), 100.0),
}
_THEIRS = {"roofline": roofline, "NumPy": numpy_adam, "NumPy loop": numpy_loop}


def ratio(what, count, ours, expected, pairs):
    mine = ours()  # first: numadam chooses the threading layer, as in a user's process
    times = measure.rounds((mine, _THEIRS[what](count)), pairs)
    return median(a / b for a, b in zip(*times, strict=True)) / expected


#: name: (what is divided by what, function of the number of pairs)
BENCHMARKS = {
    **{name: (row[0], functools.partial(ratio, *row)) for name, row in _PAIRS.items()},
    "first step, warm": ("import numba", lambda pairs: first_step(False, max(2, pairs // 3))),
    "first step, cold": ("import numba", lambda pairs: first_step(True, max(1, pairs // 7))),
}


def run(names, pairs):
    """Values by name, what is missing and why, and the share of the machine that others took."""
    load = measure.Load()
    found, missing = {}, {}
    for name in names:
        try:
            found[name] = BENCHMARKS[name][1](pairs)
        except (AttributeError, TypeError, NotImplementedError) as error:
            missing[name] = str(error).split("\n")[0]  # not in this version yet
    return {"values": found, "missing": missing, "busy": load.busy()}


if __name__ == "__main__":
    import numadam

    asked = json.loads(sys.argv[1])
    answer = run(asked["names"] or list(BENCHMARKS), asked["pairs"])
    print(json.dumps({"from": str(Path(numadam.__file__).resolve().parent), **answer}))
