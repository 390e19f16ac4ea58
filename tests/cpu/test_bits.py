"""The bits of a step depend on nothing but the numbers: not on threads, form, place or split."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from tests.bits import DTYPES, KERNELS, RULES, assert_same_bits, gradients, starts
from tests.runs import shorten_parts, uses_parallel


def trajectory(name, p, grads, part=None):
    """Parameters and state after some steps of a rule, made with the settings of now."""
    opt = RULES[name][0](p, 0.01)
    if part is not None:
        shorten_parts(opt, part)
    for g in grads:
        opt.step(g)
    return opt


def expected_of(name, p, grads):
    p, state = p.copy(), {}
    for t, g in enumerate(grads, 1):
        p = RULES[name][1](p, g, t, state, 0.01)
    return p, state


def flat(tree):
    arrays = tree if isinstance(tree, list) else [tree]
    return np.concatenate([a.ravel() for a in arrays])


def check(opt, p, state):
    assert_same_bits(flat(opt.params), p)
    for key, value in state.items():
        assert_same_bits(flat(opt.state[key]), value, key)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNELS)
def test_forms_threads_and_parts(name, dtype, form, thread_count):
    grads = gradients(dtype)[:4]
    start = starts(dtype, grads.shape[1])
    p, state = expected_of(name, start, grads)
    for part in [None, 1, 7, 64, 299, 300]:
        opt = trajectory(name, start.copy(), grads, part)
        assert uses_parallel(opt) == (form == "parallel")
        check(opt, p, state)


@pytest.mark.parametrize("name", ["adam paper amsgrad", "sgd nesterov"])
def test_large_arrays_as_they_are_cut_by_default(name, thread_count):
    """Long enough for the parallel form of every layer and for full parts."""
    rng = np.random.default_rng(1)
    n = 16 * 65_536 + 12_345
    start = rng.standard_normal(n).astype(np.float32)
    grads = [rng.standard_normal(n).astype(np.float32) for _ in range(2)]
    p, state = expected_of(name, start, grads)
    opt = trajectory(name, start.copy(), grads)
    assert uses_parallel(opt)
    check(opt, p, state)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNELS)
def test_split(name, dtype, form):
    """One array, or a list of its pieces, cut anywhere (empty pieces too)."""
    grads = gradients(dtype)[:4]
    n = grads.shape[1]
    start = starts(dtype, n)
    p, state = expected_of(name, start, grads)
    rng = np.random.default_rng(2)
    cuts = [[1], [n // 2], list(range(1, 60)), [0, 0, 5, 5, n - 1, n], list(range(n))]
    cuts += [sorted(rng.integers(0, n, 6)) for _ in range(3)]
    for cut in cuts:
        pieces = [piece.copy() for piece in np.split(start, cut)]
        opt = RULES[name][0](pieces, 0.01)
        shorten_parts(opt, 11)
        for g in grads:
            opt.step(np.split(g, cut))  # views of one array
        check(opt, p, state)


def at_offset(a, offset):
    """A copy of `a` that begins `offset` bytes behind a cache line."""
    room = np.zeros(a.nbytes + 128, np.uint8)
    first = -room.ctypes.data % 64 + offset
    copy = room[first : first + a.nbytes].view(a.dtype)
    assert copy.ctypes.data % 64 == offset
    copy[...] = a
    return copy


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNELS)
def test_alignment(name, dtype, form):
    """Parameters, gradients and out at every byte offset, also where NumPy says unaligned."""
    grads = gradients(dtype)[:2, :71]
    start = starts(dtype, 71)
    p, state = expected_of(name, start, grads)
    first, _ = expected_of(name, start, grads[:1])
    for offset in range(64):
        others = [(offset * 5 + 3) % 64, 0, offset]
        opt = trajectory(
            name,
            at_offset(start, offset),
            [at_offset(g, o) for g, o in zip(grads, others, strict=False)],
        )
        check(opt, p, state)
        out = at_offset(start, others[0])
        opt = RULES[name][0](at_offset(start, offset), 0.01)
        opt.step(at_offset(grads[0], others[2]), out=out)
        assert_same_bits(start + out, first)
        assert_same_bits(opt.params, start)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNELS)
def test_lengths(name, dtype, form):
    """0 to 70 elements: every tail of every vector width."""
    grads = gradients(dtype)[:2, :70]
    start = starts(dtype, 70)
    p, state = expected_of(name, start, grads)
    for n in range(71):
        opt = trajectory(name, start[:n].copy(), [g[:n] for g in grads])
        check(opt, p[:n], {key: value[:n] for key, value in state.items()})
        assert opt.t == 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNELS)
def test_strided_as_contiguous(name, dtype, form):
    grads = gradients(dtype)[:3, :240]
    start = starts(dtype, 240)
    p, state = expected_of(name, start, grads)

    def every_third(a):
        room = np.full(3 * a.size + 5, 77.0, a.dtype)
        room[2:-3:3] = a
        return room[2:-3:3]

    def backwards(a):
        return a[::-1].copy()[::-1]

    def fortran(a):
        return np.asfortranarray(a.reshape(12, 20))

    def unsorted(a):
        return a.reshape(4, 5, 12).transpose(2, 0, 1).copy().transpose(1, 2, 0)

    for lay in (every_third, backwards, fortran, unsorted):
        for lay_grad in (lay, lambda a: a, every_third):
            view = lay(start)
            opt = trajectory(name, view, [lay_grad(g).reshape(view.shape) for g in grads])
            check(opt, p, state)
            if lay is every_third:
                between = np.ones(view.base.size, bool)
                between[2:-3:3] = False
                assert np.all(view.base[between] == 77.0)


def test_update_takes_the_bits_of_the_class():
    """The functional API and the class are one step (more in optimizer/test_functional.py)."""
    p, q = np.ones(9), np.ones(9)
    m, v = np.zeros(9), np.zeros(9)
    g = np.linspace(-1, 1, 9)
    opt = na.Adam(p)
    opt.step(g)
    na.adam_update(q, g, m, v, 1)
    assert_same_bits(p, q)
