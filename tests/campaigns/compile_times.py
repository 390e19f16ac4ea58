"""Functions that a first step compiles, and the CPU seconds of their types, lowering and LLVM.

    python tests/campaigns/compile_times.py
    python tests/campaigns/compile_times.py --elements 1000000 --least 0.05
    python tests/campaigns/compile_times.py --combinations     # the table of the cold start
    python tests/campaigns/compile_times.py --combinations --only minimize

Taken with Numba's own events, in a process with an empty cache. A function's seconds are without
those of the functions that it calls. A combination has a process and an empty cache of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from typing import Any

import numpy as np
from numba.core import config, event

import numadam as na

_TYPES, _LOWERING, _REST, _LLVM = "types", "lowering", "other passes", "LLVM"
_KINDS = {"nopython_type_inference": _TYPES, "linked_lowering": _LOWERING}
_KINDS |= {"native_lowering": _LOWERING, "native_parfor_lowering": _LOWERING}


class Clock(event.Listener):  # type: ignore[misc]  # Numba has no types for it
    """Seconds of each function by kind; nested events are taken from those around them."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._running: list[list[Any]] = []

    def on_start(self, found: Any) -> None:
        """Begin a pass, or a call of LLVM inside one."""
        self._running.append([time.process_time(), 0.0, found])

    def on_end(self, found: Any) -> None:
        """End it, and note its own seconds."""
        begin, inner, started = self._running.pop()
        whole = time.process_time() - begin
        if self._running:
            self._running[-1][1] += whole
        if found.kind == "numba:run_pass":
            name, kind = started.data["qualname"], started.data["name"].split(" ")[0]
            self.seconds[name][_KINDS.get(kind, _REST)] += whole - inner
        elif self._running:
            # the pass that LLVM works for
            self.seconds[self._running[-1][2].data["qualname"]][_LLVM] += whole


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
    """Print a line a function, the slowest first, and their sum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--elements", type=int, default=1000, help="of the parameter")
    parser.add_argument("--least", type=float, default=0.02, help="seconds of a function shown")
    parser.add_argument("--combinations", action="store_true", help="a table of first calls")
    parser.add_argument("--only", default="", help="combinations whose name has this text")
    given = parser.parse_args()
    if given.combinations:
        combinations(given.only)
        return
    clock = Clock()
    for kind in ("numba:run_pass", "numba:llvm_lock"):
        event.register(kind, clock)
    p = np.zeros(given.elements, np.float32)
    # a kernel from the disk compiles nothing
    with tempfile.TemporaryDirectory() as folder:
        config.CACHE_DIR = folder
        begin = time.process_time()
        na.Adam(p).step(np.ones_like(p))
        whole = time.process_time() - begin
    kinds = (_TYPES, _LOWERING, _REST, _LLVM)
    print("| function | " + " | ".join(kinds) + " | sum |\n|" + "---|" * 6)
    lines = sorted(clock.seconds.items(), key=lambda one: -sum(one[1].values()))
    shown = [one for one in lines if sum(one[1].values()) >= given.least]
    rest = [one for _, one in lines[len(shown) :]]
    shown.append((f"{len(rest)} more", {k: sum(one[k] for one in rest) for k in kinds}))
    every = {k: sum(one[k] for _, one in lines) for k in kinds}
    shown.append((f"all {len(lines)}", every))
    for name, one in shown:
        cells = [f"{one[k]:.2f}" for k in kinds]
        name = name.rsplit("-", 1)[0] if len(name.rsplit("-", 1)[-1]) == 16 else name
        print(f"| {name} | " + " | ".join(cells) + f" | {sum(one.values()):.2f} |")
    print(f"\nconstructor and first step: {whole:.2f} s; compiling: {sum(every.values()):.2f} s")


if __name__ == "__main__":
    main()
