"""Norms of a history: safe in range, for any layout."""

import numpy as np
import pytest


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.complex64])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e4, 1e30, 1e-40, 1e200])
def test_norms_are_safe_in_range(dtype, scale):
    from numadam.history.history import norm_of

    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        arrays = [(scale * rng.standard_normal(n)).astype(dtype) for n in (0, 3, 10_000)]
    if dtype is np.complex64:
        arrays = [array * dtype(1 + 2j) for array in arrays] if scale < 1e30 else arrays
    wide = np.concatenate(arrays).astype(np.clongdouble if dtype is np.complex64 else np.longdouble)
    expected = float(np.sqrt(np.sum(np.abs(wide) ** 2)))
    assert norm_of(arrays) == pytest.approx(expected, rel=1e-4 if scale == 1e-40 else 1e-6)


def test_norms_of_other_layouts_and_of_nan():
    from numadam.history.history import norm_of

    x = np.arange(30_000.0).reshape(100, 300)
    expected = np.linalg.norm(x)
    for view in (x.T, np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2]):
        assert norm_of([view]) == pytest.approx(expected, rel=1e-14)
    x[3, 4] = np.nan
    assert np.isnan(norm_of([x]))
    x[3, 4] = -np.inf
    assert norm_of([x]) == np.inf
