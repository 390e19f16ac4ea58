"""Arrays whose shape, dtype, strides or memory changed since the last step."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import numadam as na
from tests.bad_arrays import assert_unchanged, snapshot


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


def test_setflags_behind_the_back():
    p, g, opt = stepped()
    p.setflags(write=False)
    before = snapshot(opt, p)
    with pytest.raises(ValueError, match=r"^params: is read-only"):
        opt.step(g)
    assert_unchanged(before, snapshot(opt, p))
    p.setflags(write=True)
    opt.step(g)
    assert opt.t == 2


@pytest.mark.parametrize("which", ["p", "g"])
@pytest.mark.parametrize("shape", [(3, 2), (6, 1)])
def test_shape_behind_the_back(which, shape):
    p, g, opt = stepped()
    change(p if which == "p" else g, shape=shape)
    before = snapshot(opt, p)
    name = "params" if which == "p" else "grads"
    with pytest.raises(ValueError, match=rf"^{name}: expected shape \(6,\)"):
        opt.step(g)
    assert_unchanged(before, snapshot(opt, p))
    change(p if which == "p" else g, shape=(6,))
    opt.step(g)


@pytest.mark.parametrize("which", ["p", "g"])
@pytest.mark.parametrize("dtype", [np.int64, ">f8", "m8[s]"])
def test_dtype_behind_the_back(which, dtype):
    p, g, opt = stepped()
    changed = p if which == "p" else g
    change(changed, dtype=np.dtype(dtype))
    before = snapshot(opt, p)
    name = "params" if which == "p" else "grads"
    with pytest.raises(TypeError, match=f"^{name}: expected float64"):
        opt.step(g)
    assert_unchanged(before, snapshot(opt, p))
    change(changed, dtype=np.dtype(float))
    opt.step(g)


@pytest.mark.parametrize("which", ["p", "g"])
def test_resize_behind_the_back(which):
    p, g, opt = stepped()
    changed = p if which == "p" else g
    name = "params" if which == "p" else "grads"
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


def test_strides_behind_the_back():
    room = np.arange(12.0)
    p = room[:6]
    opt = na.SGD(p, lr=1.0)
    g = np.ones(6)
    opt.step(g)
    change(p, strides=(16,))
    opt.step(g)
    assert room[10] == 9.0  # 10, the sixth of every second, less 1
    assert room[11] == 11.0
    assert room[0] == -2.0


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


def test_gradient_that_comes_to_overlap():
    """The same objects, laid over the parameters between two steps."""
    room = np.zeros(12)
    p, g = room[:6], np.ones(6)
    opt = na.SGD(p, lr=1.0)
    opt.step(g)
    over = room[3:9]
    for _ in range(2):
        with pytest.raises(ValueError, match="grads shares memory with params"):
            opt.step(over)
    opt.step(g)
    assert p.tolist() == [-2] * 6
