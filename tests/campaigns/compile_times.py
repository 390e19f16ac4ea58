"""Functions that a first step compiles, and the CPU seconds of their types, lowering and LLVM.

    python tests/campaigns/compile_times.py
    python tests/campaigns/compile_times.py --elements 1000000 --least 0.05

Taken with Numba's own events, in a process with an empty cache. A function's seconds are without
those of the functions that it calls.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from typing import Any

os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp()  # a kernel from the disk compiles nothing

import numpy as np
from numba.core import event

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


def main() -> None:
    """Print a line a function, the slowest first, and their sum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--elements", type=int, default=1000, help="of the parameter")
    parser.add_argument("--least", type=float, default=0.02, help="seconds of a function shown")
    given = parser.parse_args()
    clock = Clock()
    for kind in ("numba:run_pass", "numba:llvm_lock"):
        event.register(kind, clock)
    p = np.zeros(given.elements, np.float32)
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
