"""Every rule, option and dtype against the references: to rounding, and bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pytest

import numadam as na
from tests.bits import DTYPES, RULES, STEPS, assert_same_bits, extremes, gradients, starts

#: beta2 = 1 moves nothing: its numbers are for `test_bits` alone
MOVING = [name for name in RULES if "beta2 1" not in name]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RULES)
def test_bits(name, dtype):
    """Bit for bit the written expression, with -0.0, overflow, inf and NaN: all propagate."""
    make, bits, _ = RULES[name]
    grads = np.concatenate([gradients(dtype), extremes(dtype)], axis=1)
    p = starts(dtype, grads.shape[1])
    expected, state = p.copy(), {}
    opt = make(p, 0.01)
    for t, g in enumerate(grads, 1):
        opt.step(g)
        expected = bits(expected, g, t, state, 0.01)
        assert_same_bits(p, expected, f"p after step {t}")
        for key, value in state.items():
            assert_same_bits(opt.state[key], value, f"{key} after step {t}")
    assert set(opt.state) == {"t", *state}
    assert opt.t == STEPS
    assert np.isnan(p).any()


@pytest.mark.parametrize("name", MOVING)
def test_float64_path(name):
    """50 steps of the paper's formula in float64: 1e-12 of the largest |p| so far."""
    make, _, path = RULES[name]
    # denormal squares have few digits: 4 and 5 are for test_bits
    grads = np.delete(gradients("float64"), [4, 5, 6], axis=1)
    p = starts("float64", grads.shape[1])
    expected, state = path(p, grads, 0.01)
    opt = make(p, 0.01)
    scale = np.abs(p)
    for g in grads:
        opt.step(g)
        scale = np.maximum(scale, np.abs(p))
    assert np.all(np.abs(p - expected) <= 1e-12 * scale)
    for key, value in state.items():
        size = np.max(np.abs(grads), axis=0) ** (1 if key == "m" else 2)
        size = size * (10 if name.startswith("sgd") else 1)  # 1/(1 - momentum)
        assert np.all(np.abs(opt.state[key] - value) <= 1e-13 * size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MOVING)
def test_one_step_of_the_paper(name, dtype):
    """From any state one step is the paper's, each result to a few roundings of its parts.

    In float32 every scalar and operation rounds once; no bound grows with t.
    """
    if np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps and dtype == "float64":
        pytest.skip("this platform has no wider type than float64 to compare with")
    make, bits, _ = RULES[name]
    grads = np.delete(gradients(dtype), [4, 5, 6], axis=1)
    p = starts(dtype, grads.shape[1])
    opt = make(p, 0.01)
    eps = np.finfo(dtype).eps
    wide = np.float64 if dtype == "float32" else np.longdouble
    for t, g in enumerate(grads, 1):
        old = {key: opt.state[key].astype(wide) for key in opt.state if key != "t"}
        before, size = p.astype(wide), {key: np.abs(value) for key, value in old.items()}
        opt.step(g)
        state = dict(old)
        after = bits(before, g.astype(wide), t, state, 0.01)
        for key, value in state.items():
            parts = np.abs(size[key]) + np.abs(g.astype(wide)) ** (1 if key == "m" else 2)
            assert np.all(np.abs(opt.state[key] - value) <= 3 * eps * parts), (key, t)
        step = np.abs(after - before)
        if "m" in old:  # a sum that cancels: the step carries the roundings of both parts
            full = dict(old) | {"m": size["m"]}
            full_step = np.abs(bits(before, np.abs(g).astype(wide), t, full, 0.01) - before)
            step = np.maximum(step, full_step)
        assert np.all(np.abs(p - after) <= 2 * eps * np.abs(before) + 12 * eps * step), t


@pytest.mark.parametrize("name", MOVING)
def test_float32_path(name):
    """Float32 stays within 50 steps' roundings of float64: of the way, and of the largest |p|."""
    make, _, path = RULES[name]
    grads = np.delete(gradients("float32"), [4, 5, 6], axis=1)
    p = starts("float32", grads.shape[1])
    expected, _ = path(p, grads, 0.01)
    opt = make(p, 0.01)
    scale, way = np.abs(p), np.zeros_like(p)
    for g in grads:
        before = p.copy()
        opt.step(g)
        scale = np.maximum(scale, np.abs(p))
        way += np.abs(p - before)
    eps = np.finfo(np.float32).eps
    # beta2 rounded to float32 has 3e-8 in a weight that is used 50 times; m can cancel
    assert np.all(np.abs(p - expected) <= STEPS / 2 * eps * scale + 4 * STEPS * eps * way)


@pytest.mark.parametrize("dtype", DTYPES)
def test_hat_form_as_the_issue_writes_it(dtype):
    """Written out once more, without a helper: what a caller of scikit-learn's Adam compares."""
    rng = np.random.default_rng(0)
    cast = np.dtype(dtype).type
    p = rng.standard_normal(1000).astype(dtype)
    x, m, v = p.copy(), np.zeros(1000, dtype), np.zeros(1000, dtype)
    opt = na.Adam(p, lr=0.01, beta1=0.9, beta2=0.999, eps=1e-8, eps_form="hat")
    b1, b2, a1, a2, e = cast(0.9), cast(0.999), cast(1 - 0.9), cast(1 - 0.999), cast(1e-8)
    for t in range(1, 1001):
        g = rng.standard_normal(1000).astype(dtype)
        opt.step(g)
        s = cast(0.01 * math.sqrt(1 - 0.999**t) / (1 - 0.9**t))
        m = b1 * m + a1 * g
        v = b2 * v + a2 * (g * g)
        x = x - (s * m) / (np.sqrt(v) + e)
        assert np.array_equal(p.view("u1"), x.view("u1")), t


@pytest.mark.parametrize("dtype", DTYPES)
def test_scalars_at_large_t(dtype):
    """1 - beta**t is formed with Python's power, at every t, also where it has become 1."""
    make, bits, _ = RULES["adam hat"]
    for t in [999, 12_345, 10**6, 2**31, 2**40]:
        p = np.linspace(-1, 1, 9, dtype=dtype)
        g = np.linspace(1, 2, 9, dtype=dtype)
        state = {"m": g / 2, "v": g * 2}
        opt = make(p, 0.01)
        opt.state = {"t": t - 1, **state}
        expected = bits(p.copy(), g, t, state, 0.01)
        opt.step(g)
        assert_same_bits(p, expected)
        assert opt.t == t


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["adam paper", "adam hat amsgrad", "sgd momentum", "sgd nesterov"])
def test_denormal_m_becomes_zero(name, dtype):
    make, _, _ = RULES[name]
    tiny = np.finfo(dtype).smallest_normal
    beta = 0.9
    p = np.ones(6, dtype)
    opt = make(p, 0.01)
    first = np.array([tiny * 2, tiny, tiny / 2, -tiny, -tiny / 2, np.nan], dtype)
    opt.state["m"] = first
    opt.step(np.zeros(6, dtype))
    m = opt.state["m"]
    assert m[0] == np.array(beta, dtype) * first[0]
    assert np.all(m[1:5].view("u1") == 0)  # +0.0
    assert np.isnan(m[5])
    assert np.isnan(p[5])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["adam paper", "adam hat", "adam paper amsgrad", "rmsprop"])
def test_denormal_v_is_kept(name, dtype):
    make, _, _ = RULES[name]
    small = np.finfo(dtype).smallest_subnormal * np.array([1, 1000, 4096], dtype)
    p = np.ones(3, dtype)
    opt = make(p, 0.01)
    opt.state["v"] = small
    opt.step(np.zeros(3, dtype))
    assert np.all(opt.state["v"] > 0)
    if "amsgrad" in name:
        assert np.array_equal(opt.state["vmax"], opt.state["v"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["adam paper eps 0", "adam hat eps 0", "rmsprop eps 0"])
def test_zero_denominator_does_not_move(name, dtype):
    make, _, _ = RULES[name]
    info = np.finfo(dtype)
    p = np.array([1.0, -0.0, 0.0, 2.0, np.inf, 3.0], dtype)
    g = np.array([0.0, 0.0, -0.0, 0.0, 0.0, info.smallest_subnormal], dtype)  # g*g is 0 in all
    before = p.copy()
    opt = make(p, 0.5)
    for _ in range(3):
        opt.step(g)
    assert_same_bits(p, before)
    assert opt.t == 3
    if "m" in opt.state:  # a first moment that lasts longer than v: still no move
        opt.state["m"] = np.ones(6, dtype)
        opt.step(np.zeros(6, dtype))
        assert_same_bits(p, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RULES)
def test_lr_zero(name, dtype):
    """The parameters stay to the bit, the state moves."""
    make, bits, _ = RULES[name]
    g = gradients(dtype, 30)[0]
    p = starts(dtype, 30)
    before, state = p.copy(), {}
    opt = make(p, 0.0)
    opt.step(g)
    bits(before, g, 1, state, 0.0)
    assert np.array_equal(p, before)
    assert_same_bits(p[2:], before[2:])
    for key, value in state.items():
        assert_same_bits(opt.state[key], value)
    assert opt.t == 1


@pytest.mark.parametrize("name", ["adam hat", "adam paper", "adam hat amsgrad"])
def test_nan_stays_in_its_element(name):
    make, _, _ = RULES[name]
    p, clean = np.ones(70, np.float32), np.ones(70, np.float32)
    opt, other = make(p, 0.1), make(clean, 0.1)
    g = np.linspace(-1, 1, 70, dtype=np.float32)
    bad = g.copy()
    bad[[0, 33, 69]] = [np.nan, np.inf, -np.inf]
    opt.step(bad)
    other.step(g)
    opt.step(g)
    other.step(g)
    mask = np.ones(70, bool)
    mask[[0, 33, 69]] = False
    assert_same_bits(p[mask], clean[mask])
    assert np.isnan(p[[0, 33, 69]]).all()
