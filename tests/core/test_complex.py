"""Complex parameters: as pairs of real numbers, or whole with a real second moment."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from tests.bits import assert_same_bits
from tests.core.half_arrays import numbers, strided


def complexes(seed, dtype, n=101):
    return numbers(seed, np.finfo(dtype).dtype, 2 * n).view(dtype)


@pytest.mark.parametrize("lay", [np.copy, strided], ids=["contiguous", "strided"])
def test_parts_are_a_step_on_the_real_view(lay):
    dtype, real = np.dtype(np.complex64), np.dtype(np.float32)
    z = lay(complexes(0, dtype))
    p = np.ascontiguousarray(z).view(real)
    whole, parts = na.Adam(z, lr=0.01), na.Adam(p, lr=0.01)
    for t in range(1, 10):
        g = complexes(t, dtype)
        whole.step(lay(g))
        parts.step(g.view(real))
    for got, expected in [(z, p), *((whole.state[k], parts.state[k]) for k in "mv")]:
        assert got.dtype == dtype
        assert_same_bits(np.ascontiguousarray(got).view(real), np.ascontiguousarray(expected))


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


@pytest.mark.parametrize("rule", ["Adam", "RMSprop", "SGD"])
@pytest.mark.parametrize("lay", [np.copy, strided], ids=["contiguous", "strided"])
def test_modulus_has_a_real_second_moment(rule, lay):
    rng = np.random.default_rng(1)
    start, *grads = rng.standard_normal((12, 50, 2)).view(complex)[..., 0]
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


def test_modulus_with_all_options():
    """Step size per element, decay, clip by norm, mean of gradients, average."""
    rng = np.random.default_rng(2)
    start, *grads = rng.standard_normal((13, 4, 5, 2)).view(complex)[..., 0]
    lr = np.linspace(0.0, 0.1, 5)
    p = np.asfortranarray(start)
    options = {"weight_decay": 0.1, "decoupled": True, "clip_norm": 2.0, "accumulate": 3}
    opt = na.Adam(p, lr, complex_form="modulus", ema=0.5, **options)
    x, m, v, average = start, 0.0, 0.0, start
    for t, three in enumerate(np.reshape(grads, (4, 3, 4, 5)), 1):
        for g in three:
            opt.step(g)
        g = three.mean(0)
        assert opt.grad_norm == pytest.approx(np.linalg.norm(g), rel=1e-13)
        g = g * min(1, 2 / np.linalg.norm(g))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * abs(g) ** 2
        step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        x = x - lr * (step + 0.1 * x)
        average = average + 0.5 * (x - average)
        np.testing.assert_allclose(p, x, rtol=1e-12)
        np.testing.assert_allclose(opt.state["v"], v, rtol=1e-12)
        np.testing.assert_allclose(opt.averaged, average, rtol=1e-12)
