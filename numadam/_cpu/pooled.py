"""The step in threads of our own, under the layer of Numba that has none that are safe."""

from __future__ import annotations

from typing import Any

import numpy as np

from numadam._jit import pool, threads


def pooled(kernel: Any, meta: np.ndarray) -> Any:
    """The pooled form of a step as a function like the others.

    It reads at each step how many threads Numba would give the caller, starts those that are
    missing (all of them in a forked child), and notes them in META.
    """
    pool.work_at()  # compiled now, not in a step

    def run(*args: Any) -> int:
        meta["pool"], meta["threads"] = pool.started(threads.count())
        return int(kernel(*args))

    return run
