"""Which arrays are right: shapes, strides, nesting, dtypes, and those that change between steps.

Arrays of other libraries: gradients, read through views and never copied, or refused.
"""

from __future__ import annotations

import gc
import itertools
import re
import warnings
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numadam as na
from tests import extras
from tests.bits import KERNELS, OTHERS, RULES
from tests.trees import (
    LAYOUTS,
    Exported,
    Pair,
    assert_leaves,
    assert_same_containers,
    assert_unchanged,
    lay,
    relaxed,
    shapes,
    snapshot,
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


#: Two plans, each with `out`; all of them in a sweep.
FEW = [("adam paper amsgrad", "float64"), ("rmsprop", "float64")]
ALL = list(itertools.product(KERNELS + OTHERS, ("float32", "float64")))


@pytest.mark.parametrize("plans", [FEW, extras.sweep(ALL)], ids=["few", "all"])
@relaxed
@given(st.data(), trees, st.integers(0, 99))
def test_any_tree_of_any_arrays(plans, data, tree, seed):
    """Every leaf takes exactly the reference's steps, in place; `out` is the direction."""
    name, dtype = data.draw(st.sampled_from(plans))
    rng = np.random.default_rng(seed)
    make, bits = RULES[name]

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


@pytest.mark.parametrize(
    "g",
    [
        np.broadcast_to(2.0, (4, 3)),
        np.broadcast_to(np.arange(3.0), (4, 3)),
        np.lib.stride_tricks.sliding_window_view(np.arange(6.0), 3),
    ],
)
def test_read_only_gradients_whose_elements_share_memory_are_right(g):
    p = np.zeros((4, 3))
    na.SGD(p, lr=1.0).step(g)
    assert np.array_equal(p, -g)


@pytest.mark.parametrize("dtype", ["f8", "f4", extras.sweep("c16")])
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


# --- changed since the last step -----------------------------------------------------------------


def stepped():
    p = np.linspace(1, 2, 6).copy()
    opt = na.Adam(p, lr=0.1)
    g = np.ones(6)
    opt.step(g)
    return p, g, opt


def change(a, **attributes):
    """Set attributes that newer NumPy versions deprecate: old codes set them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for name, value in attributes.items():
            setattr(a, name, value)


#: what is changed, to what, and the error
CHANGED = [
    *(("shape", shape, r": expected shape \(6,\)") for shape in [(3, 2), (6, 1)]),
    *(("dtype", np.dtype(kind), ": expected float64") for kind in [np.int64, ">f8", "m8[s]"]),
]


@pytest.mark.parametrize("which", ["params", "grads"])
@pytest.mark.parametrize(("attribute", "value", "says"), CHANGED, ids=str)
def test_attributes_behind_the_back(which, attribute, value, says):
    p, g, opt = stepped()
    changed = p if which == "params" else g
    usual = getattr(changed, attribute)
    change(changed, **{attribute: value})
    before = snapshot(opt, p)
    with pytest.raises((TypeError, ValueError), match=f"^{which}{says}"):
        opt.step(g)
    assert_unchanged(before, snapshot(opt, p))
    change(changed, **{attribute: usual})
    opt.step(g)
    assert opt.t == 2


def test_setflags_behind_the_back():
    p, g, opt = stepped()
    p.setflags(write=False)
    before = snapshot(opt, p)
    with pytest.raises(ValueError, match=r"^params: is read-only"):
        opt.step(g)
    assert_unchanged(before, snapshot(opt, p))


@pytest.mark.parametrize("name", ["params", "grads"])
def test_resize_behind_the_back(name):
    p, g, opt = stepped()
    changed = p if name == "params" else g
    for size in (3, 60_000, 0):
        changed.resize(size, refcheck=False)
        before = snapshot(opt, p)
        with pytest.raises(ValueError, match=rf"^{name}: expected shape \(6,\) .*\({size},\)"):
            opt.step(g)
        assert_unchanged(before, snapshot(opt, p))
    changed.resize(6, refcheck=False)  # the old shape on other memory: it is stepped there
    changed[...] = 1.0
    start, m = p.copy(), opt.state["m"].copy()
    opt.step(g)
    assert np.all(p < start)
    assert not np.array_equal(opt.state["m"], m)


def test_gradient_entry_swapped_in_the_same_list():
    """The same list object with another array in it: nothing of the last step is trusted."""
    params = [np.zeros(3), np.zeros(3)]
    opt = na.SGD(params, lr=1.0)
    grads = [np.ones(3), np.ones(3)]
    opt.step(grads)
    opt.step(grads)
    grads[1] = np.full(3, 5.0)
    opt.step(grads)
    assert params[0].tolist() == [-3] * 3
    assert params[1].tolist() == [-7] * 3
    grads[0] = np.ones(4)
    with pytest.raises(ValueError, match=r"^grads\[0\]: expected shape"):
        opt.step(grads)
    grads[0] = np.ones(3)
    grads[1].setflags(write=False)
    opt.step(grads)
    change(grads[1], dtype=np.dtype(np.int64))
    with pytest.raises(TypeError, match=r"^grads\[1\]: expected float64"):
        opt.step(grads)
    assert params[0].tolist() == [-4] * 3
    assert opt.t == 4


# --- foreign -------------------------------------------------------------------------------------


class Interface:
    """The same by NumPy's array interface."""

    def __init__(self, array):
        self.array, self.dtype = array, array.dtype

    @property
    def __array_interface__(self):
        return self.array.__array_interface__


class OnGpu(Exported):
    def __dlpack_device__(self):
        return (2, 0)


@pytest.mark.parametrize("kind", [Exported, Interface])
def test_as_gradients_they_are_read_where_they_lie(kind):
    p, twin = np.ones(4), np.ones(4)
    g = np.array([1.0, -2.0, 3.0, 0.0])
    opt, other = na.Adam({"a": p}, lr=0.1), na.Adam({"a": twin}, lr=0.1)
    for _ in range(3):
        opt.step({"a": kind(g)})
        other.step({"a": g})
    np.testing.assert_array_equal(p, twin)
    m, v = np.zeros((2, 4))
    na.adam_update(p, kind(g), m, v, 1)
    out = np.empty(4)
    na.adam_update(None, kind(g), m, v, 2, out=out)
    assert out.any()


@pytest.mark.parametrize("kind", [Exported, Interface])
def test_as_parameters_they_are_refused(kind):
    p, g, m, v = np.ones(3), np.ones(3), np.zeros(3), np.zeros(3)
    opt = na.SGD(p, lr=1.0)
    for name, call in {
        "params": lambda: na.SGD(kind(p)),
        "params['a']": lambda: na.SGD({"a": kind(p), "b": p}),
        "params[1]": lambda: na.SGD([p, kind(np.ones(2))]),
        "p": lambda: na.adam_update(kind(p), g, m, v, 1),
        "m": lambda: na.adam_update(p, g, kind(m), v, 1),
        "out": lambda: opt.step(g, out=kind(np.ones(3))),
    }.items():
        with pytest.raises(TypeError, match=rf"^{re.escape(name)}: expected a .* array, got .*"):
            call()
    with pytest.raises(TypeError, match=r"^params: expected a NumPy array, got"):
        opt.step(g, params=kind(np.ones(3)))
    assert (p == 1).all()
    opt.step(g, params=kind(p), out=np.empty(3))  # then they are only read


def test_what_is_wrong_with_them_is_said_as_of_any_array():
    opt = na.SGD(np.ones(3))
    with pytest.raises(ValueError, match=r"grads: expected shape \(3,\)"):
        opt.step(Exported(np.ones(4)))
    with pytest.raises(TypeError, match="grads: expected float64 like params, got float32"):
        opt.step(Exported(np.ones(3, np.float32)))
    with pytest.raises(TypeError, match=r"got complex128. Use x.real, if that is what you mean.$"):
        opt.step(np.ones(3, complex))
    with pytest.raises(TypeError, match=r"grads: expected a NumPy array, got .*OnGpu"):
        opt.step(OnGpu(np.ones(3)))
    p = np.ones(3)
    with pytest.raises(ValueError, match="shares memory"):
        na.SGD(p).step(Exported(p))
    assert opt.t == 0


class Deleted(Exported):
    def __dlpack__(self, **how):
        raise BufferError("deleted")


class Nowhere(Exported):
    def __dlpack_device__(self):
        raise BufferError("deleted")


def test_where_their_library_gives_no_view_its_error_says_which_array():
    opt, x = na.SGD({"a": np.ones(3)}), np.ones(3)
    for name, step in {
        "grads['a']": lambda: opt.step({"a": Nowhere(x)}),
        "grads": lambda: na.SGD(x).step(Deleted(np.ones(3))),
        "g": lambda: na.adam_update(x, Deleted(np.ones(3)), np.zeros(3), np.zeros(3), 1),
    }.items():
        with pytest.raises(BufferError, match="deleted") as caught:
            step()
        assert caught.value.__notes__ == [f"This is about {name}."]


def test_a_minimisation_starts_from_them():
    x0 = np.array([1.0, 2.0])
    res = na.minimize(lambda x: (x @ x, 2 * x), Exported(x0), jac=True, lr=0.1, maxiter=5)
    assert isinstance(res.x, np.ndarray)
    np.testing.assert_array_equal(x0, [1, 2])


# --- the libraries themselves --------------------------------------------------------------------


@pytest.mark.peers("torch")
def test_torch_tensors_are_gradients_and_share_their_memory_as_parameters():
    import torch

    weight = torch.nn.Parameter(torch.ones(4, 3))
    (weight**2).sum().backward()
    with pytest.raises(TypeError) as caught:
        na.Adam({"w": weight})
    assert str(caught.value) == (
        "params['w']: expected a NumPy or CuPy array, got torch.nn.parameter.Parameter on cpu. "
        "Use x.detach().numpy(), which has the same memory."
    )
    na.Adam({"w": weight.detach().numpy()}, lr=0.1).step({"w": weight.grad})
    assert torch.allclose(weight, torch.full((4, 3), 0.9))


@pytest.mark.peers("jax")
def test_jax_arrays_are_gradients_and_no_parameters():
    import jax

    x = np.ones(3, np.float32)
    opt = na.SGD(x, lr=1.0)
    opt.step(jax.numpy.ones(3))
    assert not x.any()
    with pytest.raises(TypeError, match=r"params: .* which is read-only.* or out=\.\.\."):
        na.SGD(jax.numpy.ones(3))
    # with out= the parameters are only read
    p, out, m, v = jax.numpy.ones(3), np.ones(3, np.float32), *np.zeros((2, 3), np.float32)
    opt.step(jax.numpy.ones(3), params=p, out=out)
    np.testing.assert_array_equal(out, -1)
    na.adam_update(p, jax.numpy.ones(3), m, v, 1, lr=0.5, out=out)
    np.testing.assert_allclose(out, -0.5, rtol=1e-6)
    with pytest.raises(TypeError, match=r"params: .* which is read-only"):
        opt.step(jax.numpy.ones(3), params=p)
    with pytest.raises(TypeError, match=r"p: .* which is read-only"):
        na.adam_update(p, jax.numpy.ones(3), m, v, 2)
