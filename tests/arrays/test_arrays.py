"""Which arrays are right and which are refused: shapes, strides, nesting, dtypes, overlap."""

from __future__ import annotations

import gc
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numadam as na
from tests.bits import KERNELS, RULES, assert_same_bits
from tests.trees import (
    LAYOUTS,
    Pair,
    assert_leaves,
    assert_same_containers,
    lay,
    relaxed,
    shapes,
    tree_leaves,
    tree_map,
)

# --- properties ----------------------------------------------------------------------------------


leaf = st.tuples(shapes, *[st.sampled_from(list(LAYOUTS))] * 3)
keys = st.sampled_from(["w", "b", "layer 1", "it's", 0, 7])


def containers(children):
    dicts = st.dictionaries(keys, children, max_size=3)
    return st.one_of(
        st.lists(children, max_size=4),
        st.lists(children, max_size=3).map(tuple),
        dicts,
        dicts.map(OrderedDict),
        st.tuples(children, children).map(lambda pair: Pair(*pair)),
    )


class Spec:
    """A leaf of a drawn tree: a shape, and a layout each for parameter, gradient and out."""

    def __init__(self, drawn):
        self.shape, *self.layouts = drawn

    def __repr__(self):
        return f"Spec{(self.shape, *self.layouts)}"


trees = st.recursive(leaf.map(Spec), containers, max_leaves=8).filter(
    lambda tree: len(tree_leaves(tree)) > 0
)


@relaxed
@given(trees, st.sampled_from(["float32", "float64"]), st.sampled_from(KERNELS), st.integers(0, 99))
def test_any_tree_of_any_arrays(tree, dtype, name, seed):
    """Every leaf takes exactly the reference's steps, in place; `out` is the direction."""
    rng = np.random.default_rng(seed)
    make, bits, _ = RULES[name]

    def draw(spec, k):
        return lay(rng.standard_normal(spec.shape).astype(dtype), spec.layouts[k])

    params = tree_map(lambda spec: draw(spec, 0), tree)
    expected = tree_map(np.copy, params)
    states = [{} for _ in tree_leaves(tree)]
    opt = make(params, 0.01)
    for t in (1, 2, 3):
        grads = tree_map(lambda spec: draw(spec, 1), tree)
        kept = [g.copy() for g in tree_leaves(grads)]
        flat = zip(tree_leaves(expected), tree_leaves(grads), strict=True)
        after = [bits(p, g, t, state, 0.01) for (p, g), state in zip(flat, states, strict=True)]
        if t == 2:
            out = tree_map(lambda spec: draw(spec, 2), tree)
            opt.step(grads, out=out)
            assert_leaves(params, tree_leaves(expected))
            for p, o in zip(tree_leaves(params), tree_leaves(out), strict=True):
                p += o
        else:
            opt.step(grads)
        assert_leaves(params, after)
        assert_leaves(grads, kept)
        it = iter(after)
        expected = tree_map(lambda _, it=it: next(it), expected)
    assert opt.t == 3
    for key in set(opt.state) - {"t"}:
        moments = opt.state[key]
        assert_same_containers(tree_map(lambda a: None, moments), tree_map(lambda a: None, params))
        assert_leaves(moments, [state[key] for state in states])


@relaxed
@given(shapes, st.sampled_from(list(LAYOUTS)), st.integers(0, 99))
def test_nothing_beside_a_view_is_written(shape, layout, seed):
    """Elements of the base between those of a view stay as they are."""
    p = lay(np.random.default_rng(seed).standard_normal(shape), layout)
    base = p.base if isinstance(p.base, np.ndarray) and p.base.dtype == p.dtype else p
    mine = np.zeros(base.shape, bool)
    if base is not p:
        before = p.copy()
        p[...] = np.inf
        mine = np.isinf(base)
        p[...] = before
    untouched = base[~mine].copy()
    na.Adam(p, lr=0.1).step(np.ones(shape))
    if base is not p:
        assert np.array_equal(base[~mine], untouched)
    assert np.count_nonzero(mine) in (0, p.size)


# --- what is right -------------------------------------------------------------------------------


def test_broadcast_gradients_are_right():
    for g in (np.broadcast_to(2.0, (3, 4)), np.broadcast_to(np.arange(4.0), (3, 4))):
        p, q = np.zeros((3, 4)), np.zeros((3, 4))
        na.SGD(p, lr=1.0).step(g)
        na.SGD(q, lr=1.0).step(g.copy())
        assert_same_bits(p, q)
        assert np.array_equal(p, -g)


def test_sliding_and_readonly_gradients_are_right():
    windows = np.lib.stride_tricks.sliding_window_view(np.arange(6.0), 3)
    p = np.zeros((4, 3))
    na.SGD(p, lr=1.0).step(windows)
    assert np.array_equal(p, -windows)


@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_a_number_is_the_gradient_of_a_zero_d_parameter(dtype):
    """NumPy's arithmetic turns 0-d arrays into numbers."""
    alone, nested, plain = np.array(1, dtype), {"a": np.array(1, dtype)}, np.ones(1, dtype)
    optimizers = [na.Adam(x, lr=0.1) for x in (alone, nested, plain)]
    for _ in range(5):
        optimizers[0].step(2 * (alone - 3))
        optimizers[1].step({"a": float(2 * (nested["a"] - 3))})
        optimizers[2].step(2 * (plain - 3))
    assert alone == nested["a"] == plain[0] != 1


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "c8", "c16"])
def test_numbers_of_numpy_are_gradients_as_those_of_python(dtype):
    kinds = [int, float, np.float64, np.float32, np.float16, np.int64, np.uint8]
    if np.dtype(dtype).kind == "c":
        kinds += [complex, np.complex64, np.complex128]
    for kind in kinds:
        x, nested = np.ones((), dtype), {"a": [np.ones((), dtype)], "b": np.ones(2, dtype)}
        na.SGD(x, lr=1.0).step(kind(3))
        na.SGD(nested, lr=1.0).step({"a": [kind(3)], "b": np.ones(2, dtype)})
        assert x == nested["a"][0] == -2, kind


def test_a_number_is_rounded_to_the_dtype():
    for number in (0.1, np.float64(0.1)):
        x = np.zeros((), np.float32)
        na.SGD(x, lr=1.0).step(number)
        assert x == -np.float32(0.1)


@pytest.mark.parametrize("number", [True, np.True_, 2j, np.complex64(2j), "2", np.str_("2")])
def test_what_is_no_real_number_is_refused_as_a_gradient(number):
    x = np.array(1.0, np.float32)
    opt = na.Adam(x)
    with pytest.raises(TypeError, match=r"^grads: expected .*, got .*(bool|True|complex|str)"):
        opt.step(number)
    with pytest.raises(TypeError, match=r"^grads: expected a NumPy array, got the number .*2.0"):
        na.Adam(np.ones(1)).step(np.float64(2.0))
    assert (x, opt.t) == (1, 0)


def test_zero_d_and_one_element():
    for shape in ((), (1,), (1, 1, 1)):
        p = np.full(shape, 3.0)
        opt = na.Adam(p, lr=0.5)
        opt.step(np.ones(shape))
        assert opt.state["m"].shape == shape
        assert p.item() == pytest.approx(2.5)


def test_more_axes_than_usual():
    p = np.ones([2, 1] * 8).transpose(*range(15, -1, -1))
    opt = na.SGD(p[::-1], lr=1.0)
    opt.step(np.ones(p.shape))
    assert not p.any()


class Tagged(np.ndarray):
    """A subclass that must not be asked to compute."""

    def __array_ufunc__(self, *args, **kwargs):
        raise AssertionError("a step called a ufunc of a subclass")


def test_subclasses_are_their_memory():
    p, g, out = (np.ones(5).view(Tagged) for _ in range(3))
    opt = na.Adam([p, np.ones(5)], lr=0.5)
    opt.step([g, g])
    opt.step([np.ones(5), np.ones(5)], out=[out, np.ones(5)])
    opt.step([g, g], params=[out, p])
    assert opt.t == 3
    assert p.view(np.ndarray)[0] != 1.0
    assert opt.params[0] is p


def test_memmap(tmp_path):
    p = np.memmap(tmp_path / "p", np.float64, "w+", shape=(3, 4))
    p[...] = 1.0
    opt = na.Adam(p, lr=0.1)
    opt.step(np.ones((3, 4)))
    p.flush()
    saved = np.fromfile(tmp_path / "p")
    assert np.allclose(saved, 0.9)
    view = np.memmap(tmp_path / "p", np.float64, "r", shape=(3, 4))
    with pytest.raises(ValueError, match=r"^params: is read-only"):
        na.Adam(view)
    na.Adam(np.ones((3, 4))).step(view)  # as a gradient it is read only


def test_params_are_kept_alive():
    opt = na.Adam([np.ones(1000) for _ in range(3)], lr=0.1)
    gc.collect()
    for _ in range(20):
        opt.step([np.ones(1000) for _ in range(3)])
    assert all(np.allclose(p, -1.0) for p in opt.params)
