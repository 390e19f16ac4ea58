"""CPU seconds of first calls: with an empty cache, and with a full one.

    python asv_benchmarks/compile_times.py                     # the table of the cold start
    python asv_benchmarks/compile_times.py --only minimize

A combination has a process and an empty cache of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

_ADAM = "na.Adam(x).step(x.copy())"
#: What is called, with the arrays and the compiled `fun` of `_FRESH`.
COMBINATIONS = {
    "Adam, float64": _ADAM,
    "the same, 1,000,000 elements": "na.Adam(large).step(large.copy())",
    "a second rule (NAdam)": "na.NAdam(x).step(x.copy())",
    "AdamW, weight_decay": "na.AdamW(x).step(x.copy())",
    "AMSGrad": "na.Adam(x, amsgrad=True).step(x.copy())",
    "clip_norm": "na.Adam(x, clip_norm=1.0).step(x.copy())",
    "bounds": "na.Adam(x, bounds=(0, 2)).step(x.copy())",
    "like='keras'": "na.Adam(x, like='keras').step(x.copy())",
    "like='torch'": "na.Adam(x, like='torch').step(x.copy())",
    "complex128": "z = x + 0j; na.Adam(z).step(z.copy())",
    "all of clip_norm, bounds, weight_decay, ema": (
        "na.AdamW(x, clip_norm=1.0, bounds=(0, 2), ema=0.9).step(x.copy())"
    ),
    "SGD": "na.SGD(x).step(x.copy())",
    "adam_update": "na.adam_update(x, x.copy(), 0 * x, 0 * x, 1)",
    "strided gradient": "na.Adam(x).step(np.ones(2000)[::2])",
    "out=": "na.Adam(x).step(x.copy(), out=0 * x)",
    "minimize, fun in Python": "na.minimize(lambda x: (x @ x, 2 * x), x, jac=True, maxiter=3)",
    "minimize, compiled fun": "na.minimize(fun, x, maxiter=3)",
    "minimize, compiled fun of (f, g)": "na.minimize(both, x, jac=True, maxiter=3)",
    "minimize_many, 100 problems of 3": "na.minimize_many(fun, many, maxiter=3)",
}
#: Those that are timed after an ordinary step: what they add to it.
_AFTER_A_STEP = ("a second rule (NAdam)", "strided gradient", "out=")
_FRESH = """
import time, numba, numpy as np, numadam as na
x, many, large = np.ones(1000), np.ones((100, 3)), np.ones(1_000_000)
@numba.njit
def fun(x, g):
    f = 0.0
    for k in range(x.size):
        g[k] = 2 * x[k]
        f += x[k] * x[k]
    return f
@numba.njit
def both(x):
    return np.sum(x * x), 2 * x
{before}
begin = time.process_time()
{timed}
end = time.process_time()
print(end - begin, end)
"""


def combinations(only: str) -> None:
    """Print the CPU seconds of each combination with an empty cache, and with a full one.

    User and system time of all threads; in brackets those of the whole process, with imports.
    """
    print("| first call of | compiled | from the disk |\n|---|---|---|")
    for name, timed in COMBINATIONS.items():
        if only not in name:
            continue
        seconds, before = [], _ADAM if name in _AFTER_A_STEP else ""
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(2):
                code = _FRESH.format(before=before, timed=timed)
                env = {**os.environ, "NUMBA_CACHE_DIR": folder}
                command = [sys.executable, "-c", code]
                done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
                seconds += map(float, done.stdout.split())
        cold, cold_all, warm, warm_all = seconds
        print(
            f"| {name} | {cold:.1f} s ({cold_all:.1f}) | {warm:.2f} s ({warm_all:.2f}) |",
            flush=True,
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="combinations whose name has this text")
    combinations(parser.parse_args().only)


if __name__ == "__main__":
    main()
