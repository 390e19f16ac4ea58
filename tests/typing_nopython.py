"""A user's own solver with types: `mypy` checks this file strictly, and no test runs it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import numadam as na
from numadam.nopython import VERSION, adam_element, adam_scalars, adam_update


def solve(p: NDArray[np.float64], g: NDArray[np.float64]) -> float:
    m, v = np.zeros_like(p), np.zeros_like(p)
    adam_update(p, g, m, v, t=1, lr=0.1)
    adam_update(p, g, m, v, 2, 0.1, vmax=np.zeros_like(p))
    x, _, _ = adam_element(1.0, np.float32(2), 0.0, 0.0, adam_scalars(1))
    na.nopython.sgd_update(p, g, lr=0.5)
    return float(x) + len(VERSION)
