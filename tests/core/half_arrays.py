"""16-bit arrays of the tests of dtypes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

half = pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=str)


def numbers(seed, dtype, n=203):
    """Of every size that the dtype has, its subnormal numbers and zeros among them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(n) * 10.0 ** rng.uniform(-7, 3, n)
    x[:4] = 0.0, -0.0, 1e-7, 6e4
    return x.astype(dtype)


def strided(a):
    return np.repeat(a, 3)[::3]
