"""16-bit parameters beside every option: layouts, the functional API, all at once, resumed."""

from __future__ import annotations

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

import numadam as na
from tests import reference as ref
from tests.bits import assert_same_bits
from tests.core.half_arrays import BFLOAT16, half, numbers, strided
from tests.reference_options import Steps
from tests.runs import assert_follows
from tests.saved import load_into, loaded
from tests.trees import tree_leaves

PAPER = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "eps_form": "paper"}


@half
@pytest.mark.parametrize("lay", [np.copy, strided], ids=["contiguous", "strided"])
def test_steps_are_those_of_float32_rounded(dtype, lay):
    """Every step, bit for bit; and the same on arrays that the caller owns."""
    p = lay(numbers(0, dtype))
    expected, m, v = p.copy(), np.zeros(203, "f4"), np.zeros(203, "f4")
    own, own_m, own_v, out = p.copy(), m.copy(), v.copy(), np.empty_like(p)
    opt = na.Adam(p, lr=0.01)
    for t in range(1, 30):
        g = numbers(t, dtype)
        before, past = expected, (g.astype("f4"), m, v, t)
        wide, m, v, _ = ref.adam_bits(expected.astype("f4"), *past, lr=0.01, **PAPER)
        expected = wide.astype(dtype)
        opt.step(lay(g))
        assert_same_bits(p.view("u2"), expected.view("u2"))
        assert_same_bits(opt.state["m"], m)
        assert_same_bits(opt.state["v"], v)
        na.adam_update(before, g, own_m.copy(), own_v.copy(), t, lr=0.01, out=out)
        direction = ref.adam_bits(np.zeros(203, "f4"), *past, lr=0.01, **PAPER)[0]
        np.testing.assert_array_equal(out.astype("f4"), direction.astype(dtype).astype("f4"))
        na.adam_update(own, g, own_m, own_v, t, lr=0.01)
        assert_same_bits(own.view("u2"), expected.view("u2"))


OPTIONS = {"accumulate": 2, "ema": 0.9, "clip_norm": 1.0, "bounds": (-0.5, 1.0)}
OPTIONS |= {"lr": 0.01, "weight_decay": 0.1, "decoupled": True}


def tree_of(seed, dtype):
    rng = np.random.default_rng(seed)
    a, s = rng.standard_normal((3, 4)).astype(dtype), rng.standard_normal(5).astype(dtype)
    tree = {"a": a, "f": np.asfortranarray(a), "s": strided(s)}
    return tree | {"0-d": np.array(0.3, dtype), "empty": np.zeros((0, 2), dtype)}


@half
def test_all_options_with_a_float32_copy(dtype):
    params = tree_of(0, dtype)
    reference = Steps([leaf.astype(float) for leaf in tree_leaves(params)], **OPTIONS)
    opt = na.Adam(params, master=True, **OPTIONS)
    for k in range(1, 20):
        grads = tree_of(k, dtype)
        opt.step(grads)
        reference.step([leaf.astype(float) for leaf in tree_leaves(grads)])
    for name, leaf in opt.state["master"].items():
        stored = np.asarray(leaf.astype(dtype))
        assert_same_bits(stored.view("u2"), np.array(params[name]).view("u2"), name)
    assert opt.grad_norm == pytest.approx(reference.norm, rel=1e-6)
    opt._params = opt.state["master"]  # what is compared
    assert_follows(opt, reference, rtol=1e-5, atol=1e-6)


@half
@pytest.mark.parametrize("way", ["pickle", "deepcopy", "state", "na.load", "opt.load"])
def test_resumed_while_gradients_are_added_up(dtype, way):
    opt = na.Adam(tree_of(0, dtype), master=True, **OPTIONS)
    for k in range(1, 6):
        opt.step(tree_of(k, dtype))
    if way == "state":
        twin = na.Adam(copy.deepcopy(opt.params), master=True, **OPTIONS)
        twin.state = opt.state
    elif way == "na.load":
        twin = loaded(opt)
    elif way == "opt.load":
        twin = load_into(na.Adam(tree_of(7, dtype), master=True, **OPTIONS), opt)
    else:
        twin = copy.deepcopy(opt) if way == "deepcopy" else pickle.loads(pickle.dumps(opt))
    for k in range(6, 10):
        opt.step(tree_of(k, dtype))
        twin.step(tree_of(k, dtype))
    assert twin.t == opt.t == 4
    pairs = [
        (twin.params, opt.params),
        *((twin.state[name], opt.state[name]) for name in opt.state),
    ]
    for a, b in pairs:
        for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True):
            assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


Z, HALF = np.ones(2, complex), np.ones(2, np.float16)


@pytest.mark.parametrize(
    ("rule", "params", "options", "says"),
    [
        ("RMSprop", Z, {"complex_form": "modulus", "centered": True}, "complex_form: rmsprop"),
        ("Adam", Z, {"complex_form": "modulus", "like": "qiskit"}, "complex_form: adam"),
        ("Adam", Z, {"bounds": (0, 1)}, "bounds"),
        ("Adam", Z, {"master": True}, "master: is for float16 and bfloat16"),
        ("Adam", HALF, {"state_dtype": "float64"}, "state_dtype: float64 holds more"),
        ("Adam", [HALF, np.ones(2, "f4")], {}, "params[1]: is float32, but params[0] is float16"),
        ("Adam", [HALF.astype(BFLOAT16), HALF], {}, "params[1]: is float16, but params[0] is bf"),
        ("Adam", [Z, np.ones(2)], {}, "params[1]: is float64, but params[0] is complex128"),
        ("Adam", np.ones(2, ">f2"), {}, "params: expected float64, float32, float16, bfloat16"),
        ("Adam", np.ones(2, ml_dtypes.float8_e4m3fn), {}, "params: expected float64, float32"),
    ],
)
def test_refused(rule, params, options, says):
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(na, rule)(params, **options)
    assert str(caught.value).startswith(says), caught.value


def test_arrays_of_another_dtype_are_refused():
    p = np.ones(3, np.float16)
    opt = na.Adam(p, lr=0.1, sparse="dense")
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
