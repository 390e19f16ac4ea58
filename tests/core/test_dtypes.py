"""16-bit parameters, 16-bit state, and numbers at the edges of their range."""

from __future__ import annotations

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

import numadam as na
from numadam._core.synonyms import LIKE
from tests.bits import assert_same_bits
from tests.runs import digest, shorten_parts
from tests.saved import loaded

BF16 = np.dtype(ml_dtypes.bfloat16)
F16 = np.dtype(np.float16)
HALVES = pytest.mark.parametrize("dtype", [F16, BF16], ids=lambda d: d.name)


def adam32(p, g, m, v, t, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    """One step of Adam in float32 with the paper's form, as numadam promises its bits."""
    f = np.float32
    root = np.sqrt(1 - beta2**t)
    m = f(beta1) * m + f(1 - beta1) * g
    v = f(beta2) * v + f(1 - beta2) * (g * g)
    d = np.sqrt(v) + f(eps * root)
    s = f(lr * root / (1 - beta1**t))
    return p - np.where(d == 0, f(0), (s * m) / np.where(d == 0, f(1), d)), m, v


# --- 16-bit parameters ---------------------------------------------------------------------------


@HALVES
@pytest.mark.parametrize("g", [0.0, -0.0, 1e-4, 1e-7, 6e4, -1.0])
def test_first_step_of_16_bits(dtype, g):
    """formulas.md b15: others give NaN for g = 0, and -inf for 1e-4 in float16."""
    p = np.ones(5, dtype)
    opt = na.Adam(p, lr=0.1)
    opt.step(np.full(5, g, dtype))
    exact = np.float32(1 - 0.1 * np.sign(g) if abs(g) > 1e-7 else p[0] * 0 + 1)
    if g == 1e-7:  # beside eps = 1e-8
        seen = float(np.array(g, dtype))
        exact = np.float32(1 - 0.1 * seen / (seen + 1e-8))
    assert (p == exact.astype(dtype)).all()
    assert opt.state["m"].dtype == opt.state["v"].dtype == np.float32
    assert float(opt.state["v"][0]) == pytest.approx(
        1e-3 * float(np.array(g, dtype)) ** 2, rel=1e-5
    )


@HALVES
def test_16_bits_are_stored_and_float32_is_calculated(dtype):
    """Bit for bit: read exactly, rounded once when written."""
    rng = np.random.default_rng(0)
    start, *calls = (rng.standard_normal((11, 301)) * 0.5).astype(dtype)
    opt = na.Adam(start.copy(), lr=0.01)
    p, m, v = start, np.zeros(301, "f4"), np.zeros(301, "f4")
    for t, g in enumerate(calls, 1):
        opt.step(g)
        x, m, v = adam32(p.astype("f4"), g.astype("f4"), m, v, t, 0.01)
        p = x.astype(dtype)
    assert_same_bits(opt.state["m"], m)
    assert_same_bits(opt.state["v"], v)
    assert (opt.params == p).all()


@HALVES
def test_master_keeps_what_16_bits_cannot_show(dtype):
    """1000 steps of 1e-5 are less than half a unit each; together they are seen."""
    p, q = np.ones(4, dtype), np.ones(4, dtype)
    plain, master = na.Adam(p, lr=1e-5), na.Adam(q, lr=1e-5, master=True)
    assert master.state["master"].dtype == np.float32
    for _ in range(1000):
        plain.step(np.ones(4, dtype))
        master.step(np.ones(4, dtype))
    assert (p == 1).all()
    np.testing.assert_allclose(master.state["master"], 0.99, atol=2e-5)
    assert (q == master.state["master"].astype(dtype)).all()
    assert (q != 1).all()


def test_master_is_a_run_in_float32():
    """The parameters are its rounding and never come back into it."""
    rng = np.random.default_rng(1)
    start = rng.standard_normal(65).astype(F16)
    calls = rng.standard_normal((20, 65)).astype(F16)
    opt = na.Adam(start.copy(), lr=0.01, master=True)
    wide = na.Adam(start.astype("f4"), lr=0.01)
    for g in calls:
        opt.step(g)
        wide.step(g.astype("f4"))
    assert_same_bits(opt.state["master"], wide.params)
    assert (opt.params == wide.params.astype(F16)).all()


def test_master_resumes_with_the_same_bits():
    rng = np.random.default_rng(2)
    start, *calls = rng.standard_normal((9, 20)).astype(F16)
    opt = na.Adam(start, lr=1e-3, master=True)
    for g in calls[:4]:
        opt.step(g)
    twins = [pickle.loads(pickle.dumps(opt)), copy.deepcopy(opt), loaded(opt)]
    twins.append(na.Adam(opt.params.copy(), lr=1e-3, master=True))
    twins[3].state = copy.deepcopy(dict(opt.state))
    for g in calls[4:]:
        for one in (opt, *twins):
            one.step(g)
    assert len({digest(one) for one in (opt, *twins)}) == 1


def test_gradients_of_16_bits_that_are_not_finite():
    p = np.ones(3, F16)
    opt = na.Adam(p, lr=0.1)
    opt.step(np.array([np.inf, np.nan, 1.0], F16))
    assert np.isnan(p[:2]).all()
    assert p[2] == F16.type(0.9)


@HALVES
def test_functional_api_of_16_bits_has_the_bits_of_the_class(dtype):
    rng = np.random.default_rng(5)
    start, *calls = rng.standard_normal((6, 31)).astype(dtype)
    opt = na.Adam(start.copy(), lr=0.01)
    p, m, v = start.copy(), np.zeros(31, "f4"), np.zeros(31, "f4")
    for t, g in enumerate(calls, 1):
        opt.step(g)
        na.adam_update(p, g, m, v, t, lr=0.01)
    assert (p == opt.params).all()
    assert_same_bits(m, opt.state["m"])
    assert_same_bits(v, opt.state["v"])
    with pytest.raises(TypeError, match=r"^m: expected float32 like p, got"):
        na.adam_update(p, g, m.astype(dtype), v, 7)


def test_other_dtypes_of_the_gradient_are_refused():
    opt = na.Adam(np.ones(2, F16))
    for other in (np.float32, np.float64, BF16):
        with pytest.raises(TypeError, match=r"^grads: expected float16 like params, got"):
            opt.step(np.ones(2, other))
    with pytest.raises(TypeError, match=r"^state\['m'\]: expected float32"):
        opt.state["m"] = np.ones(2, F16)


# --- 16-bit state --------------------------------------------------------------------------------


def dithered(x, step):
    """float32 to bfloat16, up or down by a hash of its bits and the step (MurmurHash3's last)."""
    bits = x.view(np.uint32).astype(np.uint64)
    seed = int(np.float32(step).view(np.uint32)) * 0x9E3779B1 % 2**32
    mix = bits ^ np.uint64(seed)
    mix = (mix ^ mix >> np.uint64(16)) * np.uint64(0x85EBCA6B) % np.uint64(2**32)
    mix = (mix ^ mix >> np.uint64(13)) * np.uint64(0xC2B2AE35) % np.uint64(2**32)
    return (bits + (mix >> np.uint64(16)) >> np.uint64(16)).astype(np.uint16).view(BF16)


def neighbours(x):
    """The bfloat16 numbers around float32 ones, lower and upper in size."""
    bits = np.ascontiguousarray(x, "f4").view("u4")
    low = (bits & np.uint32(0xFFFF_0000)).view("f4")
    high = ((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF_0000)).view("f4")
    return low, high


def test_bfloat16_state_is_rounded_up_or_down_when_it_is_stored():
    """From the state as it is stored to one of two neighbours; the step takes it unrounded."""
    rng = np.random.default_rng(3)
    start, *calls = rng.standard_normal((11, 1001)).astype("f4")
    opt = na.Adam(start.copy(), lr=0.01, state_dtype="bfloat16")
    ups = []
    for t, g in enumerate(calls, 1):
        m, v = (np.array(opt.state[name], "f4") for name in ("m", "v"))
        p, m, v = adam32(opt.params.copy(), g, m, v, t, 0.01)
        opt.step(g)
        assert_same_bits(opt.params, p)
        for name, exact in (("m", m), ("v", v)):
            assert opt.state[name].dtype == BF16
            stored, (low, high) = opt.state[name].astype("f4"), neighbours(exact)
            assert ((stored == low) | (stored == high)).all()
            expected = np.sum((exact - low)[low != high] / (high - low)[low != high])
            ups.append((np.sum((stored == high) & (low != high)), expected, exact.size))
    for up, expected, size in ups:  # 5 standard deviations of a fair draw
        assert abs(up - expected) < 5 * np.sqrt(size / 4)


def test_bfloat16_state_does_not_get_stuck():
    """v grows by a thousandth of g^2: rounded to the nearest it would stop at a fifth of it."""
    p, q = np.zeros(500, "f4"), np.zeros(500, "f4")
    narrow, wide = na.Adam(p, state_dtype=BF16), na.Adam(q)
    for _ in range(3000):
        narrow.step(np.ones(500, "f4"))
        wide.step(np.ones(500, "f4"))
    v = narrow.state["v"].astype("f4")
    assert float(v.mean()) == pytest.approx(float(wide.state["v"][0]), rel=0.01)
    np.testing.assert_allclose(p, q, rtol=0.02)


def test_bfloat16_state_has_the_same_bits_wherever_it_lies(form):
    """The chance is made of number and step alone: no place, part, or thread."""
    rng = np.random.default_rng(6)
    start, *calls = rng.standard_normal((5, 4000)).astype("f4")
    one = na.Adam(start.copy(), state_dtype=BF16)
    pieces = na.Adam([a.copy() for a in np.split(start, [1, 700, 3001])], state_dtype=BF16)
    shorten_parts(one, 333)
    for g in calls:
        one.step(g)
        pieces.step(np.split(g, [1, 700, 3001]))
    assert_same_bits(np.concatenate(pieces.params), one.params)
    for name in ("m", "v"):
        joined = np.concatenate(pieces.state[name])
        np.testing.assert_array_equal(joined.view("u2"), one.state[name].view("u2"))
    if form == "parallel":
        for again in (pickle.loads(pickle.dumps(one)), loaded(one)):
            assert digest(again) == digest(one)


@pytest.mark.parametrize(
    ("dtype", "state_dtype", "says"),
    [
        ("f4", "float64", "state_dtype: float64 holds more digits than the arithmetic"),
        (F16, "float64", "state_dtype: float64 holds more digits than the arithmetic"),
        ("c8", "bfloat16", "state_dtype: there are no complex numbers of bfloat16 parts"),
        ("c16", "float16", "state_dtype: there are no complex numbers of float16 parts"),
        ("f4", "float16", "state_dtype: squares of gradients below 2e-4 are 0 in float16"),
        (F16, "float16", "state_dtype: squares of gradients below 2e-4 are 0 in float16"),
        ("f4", "int16", "state_dtype: expected float64"),
        ("f4", "float8", "state_dtype: expected float64"),
        ("f4", 16, "state_dtype: expected float64"),
    ],
)
def test_states_that_cannot_be_are_refused(dtype, state_dtype, says):
    with pytest.raises((TypeError, ValueError)) as caught:
        na.Adam(np.ones(2, dtype), state_dtype=state_dtype)
    assert str(caught.value).startswith(says), caught.value


# --- denormal numbers ----------------------------------------------------------------------------

#: like= of each: whether a first moment below the smallest normal number becomes 0
FLUSHED = {like: like in (None, "torch", "optax") for like in (None, *LIKE)}


@pytest.mark.parametrize("like", FLUSHED)
def test_moments_after_many_zero_gradients(like):
    """A denormal m would slow every later step down; the bit-exact presets keep theirs."""
    p = np.ones(4, np.float32)
    opt = na.Adam(p, lr=1e-3, like=like)
    opt.step(np.array([1.0, -1.0, 1e-30, 0.0], "f4"))
    for _ in range(5000):
        opt.step(np.zeros(4, "f4"))
    tiny = np.finfo("f4").smallest_normal
    if FLUSHED[like]:
        assert (opt.state["m"] == 0).all()
    else:
        assert (np.abs(opt.state["m"][:3]) < tiny).all()
        assert (opt.state["m"][:2] != 0).all()
    assert (opt.state["v"][:2] > 0).all()  # v is never flushed


def test_flush_is_exactly_below_the_smallest_normal_number():
    for dtype in ("f4", "f8"):
        tiny = np.finfo(dtype).smallest_normal
        g = np.array([tiny, -tiny, np.nextafter(tiny, 0, dtype=dtype), tiny / 2], dtype)
        opt = na.Adam(np.ones(4, dtype), beta1=0.0)
        opt.step(g)
        np.testing.assert_array_equal(opt.state["m"], [tiny, -tiny, 0, 0])


def test_16_bit_state_of_a_first_moment_reaches_zero():
    opt = na.Adam(np.ones(3, "f4"), state_dtype="bfloat16")
    opt.step(np.array([1.0, -1e-3, 1e30], "f4"))
    for _ in range(5000):
        opt.step(np.zeros(3, "f4"))
    assert (opt.state["m"] == 0).all()
