"""Checks of arrays, each at its edge, and the advice in their texts."""

from __future__ import annotations

import numpy as np
import pytest

from numadam._arrays import checks


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.complex64])
def test_numbers_below_zero(dtype):
    for values in ([0, 1], [-0.0, np.inf], [np.nan, 1], []):
        assert checks.has_negative(np.array(values, dtype)) is False
    for values in ([1, -6e-8], [np.nan, -1], [-np.inf, 1]):
        assert checks.has_negative(np.array(values, dtype)) is True


def test_either_part_of_a_complex_number():
    for number, negative in [(1 + 1j, False), (1 - 1j, True), (-1 + 1j, True)]:
        assert checks.has_negative(np.full((2, 3), number)) is negative


def test_advice():
    step = "Pass a copy, as in opt.step(x.copy())."
    assert checks._advice("params", "grads") == step
    assert checks._advice("out", "grads") == "Pass a copy, as in out.copy()."
    assert checks._advice("params[0]", "params[1]") == "Pass a copy, as in params[0].copy()."
    assert "cupy.asarray(x)" in checks.describe(np.ones(2), "CuPy")
    real, number = np.dtype(np.float64), np.dtype(np.complex128)
    assert "Use x.real" in checks.bad_dtype("g", number, real, "p")
    assert checks.bad_dtype("g", real, number, "p").endswith("Use .astype(numpy.complex128).")
    with pytest.raises(TypeError, match=r"^lr: expected real numbers, got a masked array"):
        checks.refuse_more_than_numbers(np.ma.ones(2), "lr")


def test_dtypes_of_parameters():
    for name in ("float64", "float32", "float16", "complex64", "complex128"):
        assert checks.common_dtype([np.ones(2, name)], ["p"]) == name
    with pytest.raises(TypeError, match=r"^p: expected float64, .* got int64\. Use .astype"):
        checks.common_dtype([np.ones(2, np.int64)], ["p"])
