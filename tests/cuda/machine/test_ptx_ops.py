"""Rounding of the PTX machine: against exact fractions, and against the manual."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from tests.cuda.machine.ptx_ops import DTYPES, OPS, fma32, fma64


def _floats(dtype, n, seed):
    """Of all sizes, with subnormal ones and those near each other."""
    random = np.random.default_rng(seed)
    bits = random.integers(
        0, 2 ** (8 * np.dtype(dtype).itemsize), n, f"u{np.dtype(dtype).itemsize}"
    )
    found = bits.view(dtype)
    return np.where(np.isfinite(found), found, dtype(1.5))


@pytest.mark.parametrize(("fma", "dtype"), [(fma32, np.float32), (fma64, np.float64)])
def test_fused_products_are_rounded_once(fma, dtype):
    with np.errstate(all="ignore"):
        for close in (False, True):
            a, b, c = (_floats(dtype, 2_000, seed) for seed in range(3))
            if close:  # where most of the product cancels
                a, b = (np.ldexp(np.frexp(x)[0], 3).astype(dtype) for x in (a, b))
                c = -(a * b)
            got = fma(a, b, c)
            for x, y, z, one in zip(a, b, c, got, strict=True):
                exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
                assert _is_nearest(float(one), exact, dtype), (x, y, z, one)


def _is_nearest(got, exact, dtype):
    """No neighbour of a number is nearer to the exact one, and none as near is even."""
    largest = np.finfo(dtype).max
    step = float(largest) - float(np.nextafter(largest, dtype(0)))
    if math.isinf(got):
        return (exact > 0) == (got > 0) and abs(exact) >= Fraction(float(largest)) + Fraction(
            step
        ) / 2
    off = abs(Fraction(got) - exact)
    bits = f"u{np.dtype(dtype).itemsize}"
    for way in (-np.inf, np.inf):
        other = np.nextafter(dtype(got), dtype(way))
        if np.isinf(other):
            continue
        distance = abs(Fraction(float(other)) - exact)
        if distance < off or (distance == off and dtype(got).view(bits) & 1):
            return False
    return True


NAN, INF = np.nan, np.inf
#: From the manual: an instruction, what it gets, and what it gives.
MANUAL = [
    ("min.f32", (-0.0, 0.0), -0.0), ("max.f32", (-0.0, 0.0), 0.0), ("min.f64", (NAN, 2.0), 2.0),
    ("max.f32", (1.0, NAN), 1.0), ("setp.ne.f64", (NAN, 1.0), False),
    ("setp.neu.f64", (NAN, 1.0), True), ("setp.ltu.f32", (2.0, NAN), True),
    ("setp.lt.f32", (2.0, NAN), False), ("setp.num.f64", (NAN, 1.0), False),
    ("setp.nan.f32", (NAN, 1.0), True), ("setp.eq.f32", (-0.0, 0.0), True),
    ("setp.gt.u32", (2**32 - 1, 1), True), ("setp.gt.s32", (-1, 1), False),
    ("shl.b32", (1, 32), 0), ("shr.u32", (2**31, 31), 1), ("shr.u64", (2**63, 64), 0),
    ("shr.s32", (-8, 40), -1), ("shr.s64", (-8, 1), -4), ("div.s64", (-7, 2), -3),
    ("rem.s32", (-7, 2), -1), ("div.u32", (2**32 - 1, 2), 2**31 - 1),
    ("mul.wide.s32", (-2, 2**31 - 1), -(2**32 - 2)), ("mul.wide.u32", (2**32 - 1, 2), 2**33 - 2),
    ("mul.hi.s32", (-1, 5), -1),
    ("mul.hi.u64", (2**64 - 1, 2**64 - 1), 2**64 - 2), ("mul.hi.s64", (-(2**62), 5), -2),
    ("mul.lo.s32", (2**30, 4), 0), ("abs.s32", (-3,), 3),
    ("cvt.s64.s32", (-1,), -1), ("cvt.u64.u32", (2**32 - 1,), 2**32 - 1), ("neg.f32", (0.0,), -0.0),
    ("cvt.rmi.f64.f64", (-1.5,), -2.0), ("cvt.rpi.f64.f64", (-1.5,), -1.0),
    ("cvt.rzi.f64.f64", (-1.5,), -1.0), ("cvt.rni.f32.f32", (2.5,), 2.0),
    ("cvt.rzi.s32.f32", (-1.9,), -1), ("cvt.rzi.s32.f32", (3e9,), 2**31 - 1),
    ("cvt.rzi.u32.f64", (-5.0,), 0), ("cvt.rzi.s64.f64", (1e300,), 2**63 - 1),
    ("cvt.rzi.s32.f32", (NAN,), 0), ("cvt.rzi.s64.f64", (NAN,), -(2**63)),
    ("cvt.rzi.u64.f64", (2.0**63,), 2**63), ("cvt.rn.f32.f64", (1 + 2**-24,), 1.0),
    ("cvt.rn.f32.f64", (1e300,), INF), ("cvt.rn.f16.f32", (65519.0,), 65504.0),
    ("cvt.rn.f16.f32", (65520.0,), INF), ("cvt.rn.f16.f32", (2.0**-25,), 0.0),
    ("cvt.f32.f16", (6e-8,), 2.0**-24), ("cvt.rn.f32.s64", (2**24 + 1,), 2.0**24),
    ("div.rn.f32", (1.0, 3.0), np.float32(1 / 3)), ("sqrt.rn.f32", (2.0,), np.float32(2**0.5)),
    ("sqrt.rn.f64", (-1.0,), NAN), ("sqrt.rn.f32", (-1.0,), NAN),
    ("selp.f32", (1.0, 2.0, False), 2.0), ("not.pred", (True,), False),
    ("sub.f16", (-0.0, 1.0), -1.0), ("rcp.approx.ftz.f64", (4e-320,), INF),
    ("rcp.approx.ftz.f64", (-INF,), -0.0), ("min.s64", (-1, 1), -1), ("max.u32", (1, 2), 2),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "wanted"), MANUAL)
def test_what_the_manual_says(name, given, wanted):

    op = OPS[name]
    with np.errstate(all="ignore"):
        got = op.function(
            *(np.array([x], DTYPES[t]) for x, t in zip(given, op.arguments, strict=True))
        )
    assert got.dtype == DTYPES[op.result]
    np.testing.assert_array_equal(got, np.array([wanted], got.dtype))
    if got.dtype.kind == "f" and wanted == 0:
        assert np.signbit(got[0]) == np.signbit(wanted)
    if name.endswith("f32") and wanted != wanted:
        assert got.view(np.uint32)[0] == 0x7FFF_FFFF


def test_an_approximation_is_right_to_20_bits_and_no_better():
    x = np.abs(_floats(np.float64, 1_000, 5)) % 1e9 + 1e-9
    got = OPS["rcp.approx.ftz.f64"].function(x)
    np.testing.assert_allclose(got, 1 / x, rtol=2.0**-19)
    assert not (got.view(np.uint64) & np.uint64(0xFFFF_FFFF)).any()
