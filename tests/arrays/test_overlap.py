"""Arrays that share memory are refused; those that only interleave are right."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.exceptions import TooHardError

import numadam as na
from numadam._arrays import checks
from tests.bad_arrays import assert_unchanged, snapshot
from tests.bits import assert_same_bits
from tests.trees import assert_leaves

ONE, TWO = 1, 2
#: how many arrays are stepped, a call that must be refused, names in the message
OVERLAPS = {
    "p is g": (ONE, lambda opt, a, b: opt.step(opt.params), ["grads", "params"]),
    "g inside p": (ONE, lambda opt, a, b: opt.step(a[3:7]), ["grads", "params"]),
    "g backwards over p": (ONE, lambda opt, a, b: opt.step(a[3::-1]), ["grads", "params"]),
    "g interleaved and touching": (ONE, lambda opt, a, b: opt.step(a[1::2]), ["grads", "params"]),
    "second g is first p": (
        TWO, lambda opt, a, b: opt.step([np.ones(4), a[:4]]), ["grads[1]", "params[0]"]),
    "out is p": (ONE, lambda opt, a, b: opt.step(np.ones(4), out=opt.params), ["out", "params"]),
    "out is g": (ONE, lambda opt, a, b: opt.step(b[:4], out=b[:4]), ["out", "grads"]),
    "out overlaps g": (ONE, lambda opt, a, b: opt.step(b[:4], out=b[2:6]), ["out", "grads"]),
    "out twice": (
        TWO, lambda opt, a, b: opt.step([np.ones(4)] * 2, out=[b[4:]] * 2), ["out[0]", "out[1]"]),
    "params= is g": (ONE, lambda opt, a, b: opt.step(b[:4], params=b[:4]), ["params", "grads"]),
    "params= twice": (
        TWO, lambda opt, a, b: opt.step([np.ones(4)] * 2, params=[b[4:]] * 2),
        ["params[0]", "params[1]"]),
    "g is m": (ONE, lambda opt, a, b: opt.step(opt.state["m"]), ["grads", "state['m']"]),
    "g is v backwards": (
        ONE, lambda opt, a, b: opt.step(opt.state["v"][::-1]), ["grads", "state['v']"]),
    "out is v": (
        ONE, lambda opt, a, b: opt.step(np.ones(4), out=opt.state["v"]), ["out", "state['v']"]),
    "params= is m": (
        ONE, lambda opt, a, b: opt.step(np.ones(4), params=opt.state["m"]),
        ["params", "state['m']"]),
}  # fmt: skip


@pytest.mark.parametrize("case", OVERLAPS)
def test_overlap_is_refused(case):
    stepped, call, names = OVERLAPS[case]
    a, b = arrays = np.arange(8.0), np.arange(8.0)
    opt = na.Adam([a[:4], b[:4]] if stepped is TWO else a[:4])
    before = snapshot(opt, list(arrays))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"shares memory.*copy") as caught:
            call(opt, a, b)
        assert all(name in str(caught.value) for name in names), str(caught.value)
        assert_unchanged(before, snapshot(opt, list(arrays)))


def test_the_gradient_of_half_x_squared_is_a_copy_of_x():
    """f = x^2 / 2 has the gradient x: the message says how to step with it."""
    x = np.array([3.0, -2.0])
    nested = {"w": x, "b": np.ones(2)}
    opt = na.SGD(x, lr=0.5)
    for step, name in [
        (lambda: opt.step(x), "grads"),
        (lambda: opt.step(x[:]), "grads"),
        (lambda: na.SGD(nested).step({"w": x, "b": np.ones(2)}), r"grads\['w'\]"),
    ]:
        with pytest.raises(ValueError, match=rf"^{name} shares memory.*opt\.step\(x\.copy\(\)\)"):
            step()
    with pytest.raises(ValueError, match=r"^g shares memory with p.* p\.copy\(\)"):
        na.sgd_update(x, x, lr=0.5)
    assert opt.t == 0
    opt.step(x.copy())
    assert np.array_equal(x, [1.5, -1.0])


def test_one_array_twice_is_refused_when_made():
    a = np.ones(8)
    for params in ([a, a], {"w": a, "b": a[2:4]}, [a[:5], a[4:]], [a[::2], a[2:3]], [a, a[::-1]]):
        with pytest.raises(ValueError, match=r"params\[.* shares memory with params\[.*copy"):
            na.Adam(params)
    assert np.array_equal(a, np.ones(8))


def test_interleaved_arrays_that_share_no_element_are_right():
    rng = np.random.default_rng(0)
    z, gz = (rng.standard_normal(6) + 1j * rng.standard_normal(6) for _ in range(2))
    a, ga, out = rng.standard_normal((3, 12))
    square = rng.standard_normal((4, 4))
    for params, grads in [
        ([z.real, z.imag], [gz.real, gz.imag]),
        ([a[::2], a[1::2]], [ga[1::2], ga[::2]]),
        ([square[:, 1], square[:, 3], square[::2, 2]], [ga[:4], ga[4:8], ga[8:10]]),
    ]:
        expected = [p.copy() for p in params]
        opt, other = na.Adam(params, lr=0.1), na.Adam(expected, lr=0.1)
        for _ in range(3):
            opt.step(grads)
            other.step([g.copy() for g in grads])
        assert_leaves(params, expected)
    # gradient, parameter and direction in the gaps of one another
    mixed = rng.standard_normal(12)
    copies = [mixed[k::3].copy() for k in range(3)]
    na.Adam(mixed[0::3]).step(mixed[1::3], out=mixed[2::3])
    na.Adam(copies[0]).step(copies[1], out=copies[2])
    for k in range(3):
        assert_same_bits(mixed[k::3], copies[k])
    assert out.size == 12


def places(strides):
    """Of the elements of an array of shape (2, 2, ...), from its first."""
    return {sum(some) for some in itertools.product(*((0, stride) for stride in strides))}


@pytest.mark.parametrize(("begin", "shared"), [(6800, 1), (6801, 0)])
def test_strides_that_numpy_searches_long_are_decided(begin, shared, monkeypatch):
    """Its search may take seconds, which Ctrl-C does not end: the elements are compared then."""
    of_p = (828, 1822, 4009, 8819, 19403, 42689, 93914, 206611, 454545, 999999)
    of_g = (22692, 297871, 378526, 496706, 77254, 87739, 647210, 107883, 65602, 395317)
    assert len(places(of_p) & {begin + at for at in places(of_g)}) == shared
    memory, view = np.zeros(2_600_000), np.lib.stride_tricks.as_strided
    p = view(memory, (2,) * 10, [8 * stride for stride in of_p])
    g = view(memory[begin:], (2,) * 10, [8 * stride for stride in of_g])
    for one, other in [(p, g), (g, p)]:
        with pytest.raises(TooHardError):
            np.shares_memory(one, other, max_work=checks.MOST_WORK)
        found = checks.shared_memory([("p", one)], [("g", other)])
        assert found.startswith("g shares memory with p: ") == bool(shared)
    reverse = checks.shared_memory([("p", p[::-1])], [("g", g[::-1, ::-1])])
    assert bool(reverse) == bool(shared)
    opt = na.SGD(p)
    if shared:
        with pytest.raises(ValueError, match=r"^grads shares memory with params"):
            opt.step(g)
    else:
        opt.step(g)
    monkeypatch.setattr(checks, "MOST_ELEMENTS", 1023)
    with pytest.raises(ValueError, match=r"^grads may share memory with params: .* Pass a copy"):
        opt.step(g)
    assert opt.t == 1 - shared


def test_empty_arrays_share_nothing():
    a = np.ones(4)
    opt = na.Adam([a, a[:0], a[2:2]])
    opt.step([np.ones(4), a[:0], a[4:]])
    assert opt.t == 1
    empty = np.ones((3, 0))
    na.Adam(empty).step(empty)
