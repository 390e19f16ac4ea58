"""Complex parameters beside options, and dtypes that are refused."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import numadam as na
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


# --- complex parameters ---------------------------------------------------------------------------


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
    opt = na.Adam(z, nonfinite="skip", lr=np.full(3, 0.1), weight_decay=0.1, ema=0.5)
    opt.step(np.array([0, 0, bad], complex))
    assert (opt.t, opt.skipped) == (0, 1)
    assert (z == 1).all()
