"""Steps over more than 2^31 elements of float32: 8.4 GiB of memory, half a minute.

    python tests/campaigns/large_arrays.py

The gradient is 0 but for some elements round 2^31 - 1, 2^31, 2^31 + 1 and at both ends, and
pages of zeros take no memory. Exactly those elements move, in the serial and in the parallel loop,
with a norm formed and without.
"""

from __future__ import annotations

import math
import time

import numpy as np

import numadam as na
from numadam._jit import process

EDGE = 2**31
SIZE = EDGE + 1000


def moved(p: np.ndarray) -> list[int]:
    """Places of the elements that are not 0, found without an array as large."""
    words, cut = p.view(np.uint32), 2**24
    found = [start + np.flatnonzero(words[start : start + cut]) for start in range(0, SIZE, cut)]
    return np.concatenate(found).tolist()


def main() -> None:
    p, g = (np.zeros(SIZE, np.float32) for _ in range(2))
    places = sorted({0, 1, 31, EDGE - 33, EDGE - 1, EDGE, EDGE + 1, EDGE + 31, SIZE - 2, SIZE - 1})
    g[places] = 1.0
    process.layer()
    for parallel in (False, True):
        process.wants_parallel = lambda total, parallel=parallel: parallel
        for options in ({}, {"clip_norm": math.inf}):
            p[places] = 0.0
            start = time.perf_counter()
            opt = na.SGD(p, lr=1.0, **options)
            opt.step(g)
            seconds = time.perf_counter() - start
            assert moved(p) == places, (parallel, options)
            assert np.all(p[places] == -1.0), p[places]
            if options:
                assert opt.grad_norm == math.sqrt(len(places)), opt.grad_norm
            name = "parallel" if parallel else "serial"
            print(f"{name} {options or ''}: {SIZE:,} elements, {seconds:.1f} s, right", flush=True)


if __name__ == "__main__":
    main()
