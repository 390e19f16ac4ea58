"""Complex parameters beside options, and dtypes that are refused.

The norm of a step: accurate to a few last places, whatever finite numbers the gradients hold.

Where a norm is not finite: tests/settings/test_guard.py. What a clip makes of it:
tests/settings/test_options.py. On what it does not depend: tests/cpu/test_bits.py.

The powers of the bias corrections: rounded correctly, whichever way they are computed.
"""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

import numadam as na
from numadam.nopython import adam_scalars
from tests import extras
from tests.bits import assert_same_bits


def strided(a):
    return np.repeat(a, 3)[::3]


LAYOUTS = pytest.mark.parametrize("lay", [np.copy, strided], ids=["contiguous", "strided"])

# --- dtypes that are refused ---------------------------------------------------------------------

KNOWN = "expected float64, float32, complex64 or complex128, got "


@pytest.mark.parametrize(
    ("dtype", "says"),
    [
        ("f2", "float16. Use .astype(numpy.float32)."),
        (ml_dtypes.bfloat16, "bfloat16. Use .astype(numpy.float32)."),
        (ml_dtypes.float8_e4m3fn, "float8_e4m3fn. Use .astype(numpy.float64)."),
        ("i8", "int64. Use .astype(numpy.float64)."),
        (">f2", "float16 of foreign byte order (>f2). Use .astype(numpy.float32)."),
    ],
)
def test_other_dtypes_are_refused_with_what_to_write(dtype, says):
    p = np.ones(2).astype(dtype)
    for make, name in (
        (lambda: na.Adam(p), "params"),
        (lambda: na.SGD({"w": p}), "params['w']"),
        (lambda: na.adam_update(p, p, p, p, 1), "p"),
    ):
        with pytest.raises(TypeError) as caught:
            make()
        assert str(caught.value) == f"{name}: {KNOWN}{says}"


# --- complex parameters --------------------------------------------------------------------------


def complexes(seed, shape, dtype="c16"):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)


@LAYOUTS
def test_parts_are_a_step_on_the_real_view(lay):
    """Bit for bit, also as the ends of a loop go: an odd number of elements, several arrays."""
    start, *calls = complexes(0, (10, 101), "c8")
    whole = na.Adam([lay(start[:7]), lay(start[7:])], lr=0.01)
    parts = na.Adam(start.view("f4").copy(), lr=0.01)
    for g in calls:
        whole.step([lay(g[:7]), lay(g[7:])])
        parts.step(g.view("f4"))
    pairs = [(whole.params, parts.params), *((whole.state[k], parts.state[k]) for k in "mv")]
    for got, expected in pairs:
        assert got[0].dtype == np.complex64
        assert_same_bits(np.concatenate(got).view("f4"), expected)


def by_modulus(rule, p, grads, lr):
    """Adam, RMSprop and SGD as optax takes complex numbers: v is real."""
    m, v = np.zeros_like(p), np.zeros(p.shape)
    for t, g in enumerate(grads, 1):
        square = g.real**2 + g.imag**2
        if rule == "Adam":
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * square
            p = p - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        elif rule == "RMSprop":
            v = 0.99 * v + 0.01 * square
            m = 0.5 * m + g / (np.sqrt(v) + 1e-8)
            p = p - lr * m
        else:
            m = 0.5 * m + g
            p = p - lr * m
    return p, {"m": m, "v": v}


@pytest.mark.parametrize("rule", ["Adam", *map(extras.sweep, ("RMSprop", "SGD"))])
@LAYOUTS
def test_modulus_has_a_real_second_moment(rule, lay):
    start, *grads = complexes(1, (12, 50))
    start[:2] = grads[0][:2] = 0.0
    p = lay(start)
    own = {} if rule == "Adam" else {"momentum": 0.5}
    opt = getattr(na, rule)(p, 0.02, complex_form="modulus", **own)
    for g in grads:
        opt.step(lay(g))
    expected, state = by_modulus(rule, start, grads, 0.02)
    np.testing.assert_allclose(p, expected, rtol=1e-12, atol=1e-14)
    assert len(opt.state) == (2 if rule == "SGD" else 3)
    for name in set(opt.state) - {"t"}:
        assert opt.state[name].dtype == (float if name == "v" else complex)
        np.testing.assert_allclose(opt.state[name], state[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("form", [extras.sweep("parts"), "modulus"])
def test_options_of_complex_parameters(form):
    """Norm of both parts together, decay, average, step sizes by element."""
    start, *calls = complexes(2, (9, 3, 4))
    lr, decoupled = np.array([0.0, 0.1, 0.2, 0.3]), form == "modulus"
    options = {"lr": lr, "clip_norm": 1.0, "ema": 0.5, "weight_decay": 0.2}
    opt = na.Adam(np.asfortranarray(start), complex_form=form, decoupled=decoupled, **options)
    p = average = start
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(calls, 1):
        opt.step(g)
        assert opt.grad_norm == pytest.approx(np.linalg.norm(g), rel=1e-14)
        g = g * min(1.0, 1 / np.linalg.norm(g)) + (0.0 if decoupled else 0.2 * p)
        m = 0.9 * m + 0.1 * g
        square = np.abs(g) ** 2 * (1 + 1j) if form == "modulus" else g.real**2 + 1j * g.imag**2
        v = 0.999 * v + 0.001 * square
        root = np.sqrt(v.real / (1 - 0.999**t)) + 1j * np.sqrt(v.imag / (1 - 0.999**t))
        first = m / (1 - 0.9**t)
        step = first.real / (root.real + 1e-8) + 1j * first.imag / (root.imag + 1e-8)
        p = p - lr * (step + (0.2 * p if decoupled else 0.0))
        average = (average + p) / 2
    np.testing.assert_allclose(opt.params, p, rtol=1e-12)
    np.testing.assert_allclose(opt.averaged, average, rtol=1e-12)
    assert opt.averaged.dtype == np.complex128
    np.testing.assert_array_equal(opt.params[:, 0], start[:, 0])


@pytest.mark.parametrize("bad", [np.nan, 1j * np.inf, complex(0, np.nan)])
def test_numbers_that_are_not_finite_are_found_in_either_part(bad):
    z = np.ones(3, complex)
    options = {"complex_form": "modulus", "decoupled": True, "clip_norm": 1.0}
    options |= {"lr": np.full(3, 0.1), "weight_decay": 0.1, "ema": 0.5}
    opt = na.Adam(z, nonfinite="skip", **options)
    opt.step(np.array([0, 0, bad], complex))
    assert (opt.t, opt.skipped) == (0, 1)
    assert (z == 1).all()


# --- norms ---------------------------------------------------------------------------------------


#: elements of a sum that are added side by side, and of a block
LANES, BLOCK = 64, 4096
#: ulp of a norm by which it may be off: each addition rounds by half an ulp of the sum at most,
#: and a root halves that; a number meets those of its lane, the lanes and the blocks
MOST = (BLOCK // LANES + LANES + 200_000 // BLOCK) / 2
REALS = [np.float32, np.float64]
UNHURRIED = settings(deadline=None)  # the first call compiles


def norm_of(g):
    opt = na.Adam(np.zeros_like(g), clip_norm=np.inf)
    opt.step(g)
    return opt.grad_norm


def off_by(g):
    """Distance of the norm from sqrt(math.fsum(x * x)), in ulp."""
    expected = math.sqrt(math.fsum(g.astype(np.float64) ** 2))
    return abs(norm_of(g) - expected) / np.spacing(expected)


def numbers(size):
    return np.random.default_rng(0).standard_normal(size)


ADVERSARIES = {
    "big first": lambda x: np.concatenate([[1e6], 1e-4 * x]),
    "big last": lambda x: np.concatenate([1e-4 * x, [1e6]]),
    "rising": lambda x: np.sort(np.abs(x)),
    "falling": lambda x: np.sort(np.abs(x))[::-1].copy(),
    "rising over many magnitudes": lambda x: np.sort(np.exp(10 * x)),
    "alternating": lambda x: np.where(np.arange(x.size) % 2, 1e-9, 1e9) * x,
    "alternating by block": lambda x: np.where(np.arange(x.size) // BLOCK % 2, 1e-8, 1e8) * x,
}


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("name", ADVERSARIES)
def test_norm_of_adversaries(name, real):
    for size in (BLOCK - 1, 3000, 200_000):
        assert off_by(ADVERSARIES[name](numbers(size)).astype(real)) <= MOST


def assert_near_exact(g):
    """The norm is between those whose squares enclose the exact sum."""
    norm, exact = norm_of(g), sum(Fraction(float(x)) ** 2 for x in g)
    if norm == math.inf:
        assert exact > Fraction(np.finfo(np.float64).max) ** 2 * (1 - Fraction(1, 2**52))
        return
    slack = Fraction(MOST) * Fraction(math.ulp(norm))
    assert max(Fraction(norm) - slack, 0) ** 2 <= exact <= (Fraction(norm) + slack) ** 2


@pytest.mark.parametrize("real", REALS)
@UNHURRIED
@given(data=st.data(), times=st.integers(1, 3))
def test_any_finite_numbers(real, data, times):
    width = 8 * np.dtype(real).itemsize
    floats = st.floats(width=width, allow_nan=False, allow_infinity=False)
    assert_near_exact(np.array(data.draw(st.lists(floats, max_size=300)) * times, real))


@pytest.mark.parametrize("low", [-1074, -1060, -600, -540, -460, -400, 480, 505, 520, 1000])
def test_float64_all_of_one_magnitude(low):
    """Around the ends of the range in which squares stand."""
    assert_near_exact(np.ldexp(1 + np.abs(numbers(3000)), low))


def test_float32_at_the_ends_of_its_range():
    for value in (np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal):
        assert off_by(np.full(3000, value)) <= MOST


# --- powers --------------------------------------------------------------------------------------


@njit
def scalars_of(beta, t):
    return adam_scalars(t, 1.0, beta)


def test_beta_set_by_the_user_counts_from_the_next_step_on():
    x = np.ones(3)
    opt = na.Adam(x, eps=0.0, beta2=0.5)
    for _ in range(4):
        opt.step(np.ones(3))
    opt.beta1 = 0.25
    before, m, v = x.copy(), opt.state["m"].copy(), opt.state["v"].copy()
    opt.step(np.ones(3))
    m, v = 0.25 * m + 0.75, 0.5 * v + 0.5
    wanted = 1e-3 * (m / (1 - 0.25**5)) / np.sqrt(v / (1 - 0.5**5))
    np.testing.assert_allclose(before - x, wanted, rtol=1e-12)


@pytest.mark.parametrize("beta", [-0.5, 1.5, math.inf, math.nan])
def test_nopython_takes_any_beta(beta):
    h = scalars_of(beta, 3)
    np.testing.assert_equal(h[7], 1.0 - math.pow(beta, 3.0))
