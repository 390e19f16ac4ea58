"""Complex parameters: by parts, and taken whole."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from tests.bits import assert_same_bits


def complexes(seed, shape, dtype="c16"):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)


def by_parts(z):
    return np.stack([z.real, z.imag], -1)


def adam64(p, grads, lr, square, beta1=0.9, beta2=0.999, eps=1e-8):
    """Adam in NumPy's own arithmetic; `square` says what the second moment averages."""
    m, v = np.zeros_like(p), np.zeros_like(square(p))
    for t, g in enumerate(grads, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * square(g)
        p = p - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return p, m, v


@pytest.mark.parametrize("form", ["parts", "modulus"])
def test_complex_adam_against_numpy(form):
    start, *calls = complexes(0, (8, 5, 3))
    opt = na.Adam(np.asfortranarray(start), lr=0.05, complex_form=form)
    for g in calls:
        opt.step(g)
    if form == "modulus":
        p, m, v = adam64(start, calls, 0.05, lambda z: np.abs(z) ** 2)
        assert opt.state["v"].dtype == np.float64
        np.testing.assert_allclose(opt.state["v"], v, rtol=1e-13)
        np.testing.assert_allclose(opt.state["m"], m, rtol=1e-13)
        np.testing.assert_allclose(opt.params, p, rtol=1e-13)
    else:
        p, m, v = adam64(by_parts(start), by_parts(np.array(calls)), 0.05, np.square)
        for got, expected in ((opt.params, p), (opt.state["m"], m), (opt.state["v"], v)):
            assert got.dtype == np.complex128
            np.testing.assert_allclose(by_parts(got), expected, rtol=1e-13)


def test_the_two_forms_of_formulas_md():
    """b11: g = 3 + 4j; torch steps by .1 + .1j, optax by .06 + .08j."""
    for form, v, step in [("parts", 0.009 + 0.016j, 0.1 + 0.1j), ("modulus", 0.025, 0.06 + 0.08j)]:
        z = np.zeros(2, complex)
        opt = na.Adam(z, lr=0.1, complex_form=form)
        opt.step(np.full(2, 3 + 4j))
        np.testing.assert_allclose(opt.state["v"], v, rtol=1e-12)
        np.testing.assert_allclose(z, -step, rtol=1e-7)


def test_parts_are_the_same_bits_as_two_real_numbers():
    """In float32, also as bounds of the loop go: an odd number of elements, several arrays."""
    start, *calls = complexes(1, (6, 33), "c8")
    opt = na.Adam([start[:7].copy(), start[7:].copy()], lr=0.01)
    real = na.Adam(start.view("f4").copy(), lr=0.01)
    for g in calls:
        opt.step([g[:7], g[7:]])
        real.step(g.view("f4"))
    assert_same_bits(np.concatenate(opt.params).view("f4"), real.params)
    assert_same_bits(np.concatenate(opt.state["v"]).view("f4"), real.state["v"])


@pytest.mark.parametrize("form", ["parts", "modulus"])
def test_options_of_complex_parameters(form):
    """Norm of both parts together, decay, average, step sizes by element, a mean of two."""
    start, *calls = complexes(2, (9, 4))
    lr = np.array([0.0, 0.1, 0.2, 0.3])
    options = {"lr": lr, "clip_norm": 1.0, "ema": 0.5, "weight_decay": 0.2, "accumulate": 2}
    opt = na.Adam(start.copy(), complex_form=form, **options)
    p = average = start
    m, v = np.zeros(4, complex), np.zeros(4, complex)
    for t, (a, b) in enumerate(zip(calls[::2], calls[1::2], strict=True), 1):
        opt.step(a)
        opt.step(b)
        g = (a + b) / 2
        assert opt.grad_norm == pytest.approx(np.linalg.norm(g), rel=1e-14)
        g = g * min(1.0, 1 / np.linalg.norm(g)) + 0.2 * p
        m = 0.9 * m + 0.1 * g
        square = np.abs(g) ** 2 * (1 + 1j) if form == "modulus" else g.real**2 + 1j * g.imag**2
        v = 0.999 * v + 0.001 * square
        root = np.sqrt(v.real / (1 - 0.999**t)) + 1j * np.sqrt(v.imag / (1 - 0.999**t))
        first = m / (1 - 0.9**t)
        p = p - lr * (first.real / (root.real + 1e-8) + 1j * first.imag / (root.imag + 1e-8))
        average = (average + p) / 2
    np.testing.assert_allclose(opt.params, p, rtol=1e-12)
    np.testing.assert_allclose(opt.averaged, average, rtol=1e-12)
    assert opt.averaged.dtype == np.complex128
    assert opt.params[0] == start[0]


@pytest.mark.parametrize("name", ["AdaMax", "AdaBelief", "Lion"])
def test_modulus_is_refused_where_the_gradient_is_not_squared(name):
    """There is no sign and no maximum of complex numbers."""
    with pytest.raises(ValueError, match=r"^complex_form: .* cannot be taken whole; use 'parts'"):
        getattr(na, name)(np.ones(2, complex), complex_form="modulus")


def test_complex_nan_and_infinity_are_found():
    z = np.ones(3, complex)
    opt = na.Adam(z, nonfinite="skip", lr=np.full(3, 0.1), weight_decay=0.1, ema=0.5, accumulate=2)
    for bad in (np.nan, 1j * np.inf, complex(0, np.nan)):
        opt.step(np.array([0, 0, bad], complex))
        opt.flush()
    assert (opt.t, opt.skipped) == (0, 3)
    assert (z == 1).all()
