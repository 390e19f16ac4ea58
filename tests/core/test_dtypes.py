"""16-bit and complex parameters, and 16-bit state: beside options, at the edges of their range."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import ml_dtypes
import numba
import numpy as np
import pytest

import numadam as na
from numadam._core import half as storage
from tests import reference as ref
from tests.bits import assert_same_bits
from tests.runs import assert_follows, digest, neutral, reference_of, shorten_parts, tree_of
from tests.saved import loaded
from tests.trees import tree_leaves, tree_map


def numbers(seed, dtype, n=203):
    """Of every size that the dtype has, its subnormal numbers and zeros among them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(n) * 10.0 ** rng.uniform(-7, 3, n)
    x[:4] = 0.0, -0.0, 1e-7, 6e4
    return x.astype(dtype)


def strided(a):
    return np.repeat(a, 3)[::3]


BF16 = np.dtype(ml_dtypes.bfloat16)
F16 = np.dtype(np.float16)
LAYOUTS = pytest.mark.parametrize("lay", [np.copy, strided], ids=["contiguous", "strided"])
HALVES = pytest.mark.parametrize("dtype", [F16, BF16], ids=lambda d: d.name)
PAPER = {"lr": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "eps_form": "paper"}


# --- 16-bit parameters ---------------------------------------------------------------------------


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


#: Of a 16-bit optimiser: parameters, options, and what its warning says; "" where there is none.
UNMOVED = {
    "1 in float16": (np.ones(5, F16), {}, r"params: 100% .* lr=0.0001 .* float16\. .* master=True"),
    "1 in bfloat16": (np.ones(5, BF16), {"lr": 1e-3}, r"bfloat16"),
    "most": (np.array([1, 1, 0], F16), {}, r"params: 67% of the elements"),
    "a group": (
        {"a": np.ones(5, F16)},
        {"lr": 1.0, "groups": {"a": {"lr": 1e-5}}},
        r"^params\['a'",
    ),
    "strided": (strided(np.ones(100, F16)), {}, "100%"),
    "a few": (np.array([1, 0, 0], F16), {}, ""),
    "infinite": (np.array([np.inf, 6e4, 0, 0, 0], F16), {"lr": 1e4}, ""),
    "a float32 copy": (np.ones(5, F16), {"master": True}, ""),
    "a schedule": (np.ones(5, F16), {"lr": lambda t: 1e-4}, ""),
    "none": (np.zeros(0, F16), {}, ""),
    "no step": (np.ones(5, F16), {"lr": 0.0}, ""),
    "float32": (np.ones(5, "f4"), {"lr": 1e-12}, ""),
}


@pytest.mark.parametrize("name", UNMOVED)
def test_parameters_that_cannot_move_are_told(name):
    params, options, says = UNMOVED[name]
    options = {"lr": 1e-4, **options}
    if not says:
        na.Adam(params, **options)  # warnings are errors here
        return
    with np.errstate(all="raise"), pytest.warns(RuntimeWarning, match=says) as caught:
        opt = na.Adam(params, **options)
    assert len(caught) == 1
    pickle.loads(pickle.dumps(opt))  # copies warn no more
    copy.deepcopy(opt)
    assert caught[0].filename == __file__
    leaf = tree_leaves(params)[0]
    before = leaf.copy()
    opt.step(tree_map(np.ones_like, params))
    assert np.mean(leaf == before) > 0.5  # the warning was right
    na.SGD(params, lr=1e-4)  # its steps are of no size that is known


# --- 16-bit state --------------------------------------------------------------------------------


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
        p, m, v, _ = ref.adam_bits(opt.params.copy(), g, m, v, t, **PAPER)
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


def test_16_bit_state_of_a_first_moment_reaches_zero():
    opt = na.Adam(np.ones(3, "f4"), state_dtype="bfloat16")
    opt.step(np.array([1.0, -1e-3, 1e30], "f4"))
    for _ in range(5000):
        opt.step(np.zeros(3, "f4"))
    assert (opt.state["m"] == 0).all()


@HALVES
@LAYOUTS
def test_steps_are_those_of_float32_rounded(dtype, lay):
    """Every step, bit for bit; and the same on arrays that the caller owns.

    Others give NaN for a gradient of 0, and -inf for 1e-4 in float16.
    """
    p = lay(numbers(0, dtype))
    expected, m, v = p.copy(), np.zeros(203, "f4"), np.zeros(203, "f4")
    own, own_m, own_v, out = p.copy(), m.copy(), v.copy(), np.empty_like(p)
    opt = na.Adam(p, lr=0.01)
    for t in range(1, 30):
        g = numbers(t, dtype)
        before, past = expected, (g.astype("f4"), m, v, t)
        wide, m, v, _ = ref.adam_bits(expected.astype("f4"), *past, **PAPER)
        expected = wide.astype(dtype)
        opt.step(lay(g))
        assert_same_bits(p.view("u2"), expected.view("u2"))
        assert_same_bits(opt.state["m"], m)
        assert_same_bits(opt.state["v"], v)
        na.adam_update(before, g, own_m.copy(), own_v.copy(), t, lr=0.01, out=out)
        direction = ref.adam_bits(np.zeros(203, "f4"), *past, **PAPER)[0]
        np.testing.assert_array_equal(out.astype("f4"), direction.astype(dtype).astype("f4"))
        na.adam_update(own, g, own_m, own_v, t, lr=0.01)
        assert_same_bits(own.view("u2"), expected.view("u2"))


@HALVES
def test_all_options_with_a_float32_copy(dtype):
    params = tree_of(0, dtype)
    options = neutral(params, weight_decay=0.1, decoupled=True, clip_norm=1.0, ema=0.9)
    options["lr"] = tree_map(lambda leaf: np.full(leaf.shape, 0.01), params)
    options["bounds"] = tree_map(lambda leaf: (np.full(leaf.shape, -0.5), 1.0), params)
    reference = reference_of(
        tree_map(lambda leaf: leaf.astype(float), params), **copy.deepcopy(options)
    )
    opt = na.Adam(params, master=True, **options)
    for k in range(1, 20):
        grads = tree_of(k, dtype)
        opt.step(grads)
        reference.step([leaf.astype(float) for leaf in tree_leaves(grads)])
    for leaf, p in zip(tree_leaves(opt.state["master"]), tree_leaves(params), strict=True):
        assert_same_bits(np.asarray(leaf.astype(dtype)).view("u2"), np.array(p).view("u2"))
    assert opt.grad_norm == pytest.approx(reference.norm, rel=1e-6)
    opt._params = opt.state["master"]  # what is compared
    assert_follows(opt, reference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("params", "options", "says"),
    [
        (np.ones(2, complex), {"complex_form": "modulus", "like": "qiskit"}, "complex_form: adam"),
        ([np.ones(2, F16), np.ones(2, "f4")], {},
         "params[1]: is float32, but params[0] is float16"),
        ([np.ones(2, BF16), np.ones(2, F16)], {}, "params[1]: is float16, but params[0] is bf"),
        ([np.ones(2, complex), np.ones(2)], {},
         "params[1]: is float64, but params[0] is complex128"),
        (np.ones(2, ">f2"), {}, "params: expected float64, float32, float16, bfloat16"),
        (np.ones(2, ml_dtypes.float8_e4m3fn), {}, "params: expected float64, float32"),
    ],
)  # fmt: skip
def test_refused(params, options, says):
    with pytest.raises((TypeError, ValueError)) as caught:
        na.Adam(params, **options)
    assert str(caught.value).startswith(says), caught.value


def test_arrays_of_another_dtype_are_refused():
    p = np.ones(3, np.float16)
    opt = na.Adam(p, lr=0.1, sparse="dense")
    with pytest.raises(TypeError, match=r"^grads: expected float16 like params, got bfloat16"):
        opt.step(np.ones(3, BF16))
    with pytest.raises(TypeError, match=r"^grads.values: expected float16 like the parameter"):
        opt.step(na.Rows(np.arange(3), np.ones(3, "f4")))
    with pytest.raises(TypeError, match=r"^m: expected float32 like p, got float16"):
        na.adam_update(p, p.copy(), np.zeros(3, "f2"), np.zeros(3, "f4"), 1)
    with pytest.raises(
        TypeError, match=r"^state\['m'\]: expected float32 like params, got float16"
    ):
        opt.state["m"] = np.zeros(3, "f2")
    assert opt.t == 0
    assert (p == 1).all()


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


@pytest.mark.parametrize("rule", ["Adam", "RMSprop", "SGD"])
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


@pytest.mark.parametrize("form", ["parts", "modulus"])
def test_options_of_complex_parameters(form):
    """Norm of both parts together, decay, average, step sizes by element, a mean of two."""
    start, *calls = complexes(2, (9, 3, 4))
    lr, decoupled = np.array([0.0, 0.1, 0.2, 0.3]), form == "modulus"
    options = {"lr": lr, "clip_norm": 1.0, "ema": 0.5, "weight_decay": 0.2, "accumulate": 2}
    opt = na.Adam(np.asfortranarray(start), complex_form=form, decoupled=decoupled, **options)
    p = average = start
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, (a, b) in enumerate(zip(calls[::2], calls[1::2], strict=True), 1):
        opt.step(a)
        opt.step(b)
        g = (a + b) / 2
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
    opt = na.Adam(z, nonfinite="skip", lr=np.full(3, 0.1), weight_decay=0.1, ema=0.5, accumulate=2)
    opt.step(np.array([0, 0, bad], complex))
    opt.flush()
    assert (opt.t, opt.skipped) == (0, 1)
    assert (z == 1).all()
