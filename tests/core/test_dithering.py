"""bfloat16 moments are rounded up or down by chance, without bias."""

from typing import Any

import numba
import numpy as np
import pytest

from numadam._core import half as storage


def test_moments_are_rounded_without_bias() -> None:
    """The mean over many steps is the number itself, not the nearest bfloat16."""
    write = numba.njit(storage._write_dithered)

    @numba.njit
    def fill(a: Any, x: Any, seed: Any) -> None:
        for i in range(x.size):
            write(a, i, x[i], seed)

    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    kept, total = np.zeros(x.size, np.uint16), np.zeros(x.size)
    for step in range(1, 1001):
        fill(kept, x, np.float32(step))
        wide = (kept.astype(np.uint32) << 16).view(np.float32)
        # one of the two neighbours
        assert (np.abs(wide - x) < np.abs(x) * 2.0**-7).all()
        total += wide
    assert np.max(np.abs(total / 1000 / x - 1)) < 1e-3


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 0.0, -0.0])
def test_special_moments_are_kept(value: float) -> None:
    kept = np.zeros(1, np.uint16)
    with np.errstate(over="ignore"):
        storage._write_dithered(kept, 0, np.float32(value), np.float32(3))
    wide = (kept.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(wide, np.float32([value]))
    assert np.signbit(wide[0]) == np.signbit(value)
