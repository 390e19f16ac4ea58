"""The bits of a step depend on nothing but the numbers: not on threads, form, place or split."""

from __future__ import annotations

import copy
import itertools

import numba
import numpy as np
import pytest

import numadam as na
from numadam import Rows
from numadam._cpu import loop
from numadam._jit import process
from tests import extras
from tests.bits import DTYPES, KERNELS, OTHERS, RULES, assert_same_bits, gradients, starts
from tests.runs import SINK, compiled_step, digest, shorten_parts, uses_parallel
from tests.trees import tree_map


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


#: compiled in parallel by default; the others only differ in the formula inside
PARALLEL = [("adam paper", "float64")]
FORMS = pytest.mark.parametrize(
    ("name", "dtype", "form"),
    [
        *((*case, form) for case in PARALLEL for form in ("serial", "parallel")),
        *(
            extras.sweep(name, dtype, form)
            for name in KERNELS + OTHERS
            for dtype in DTYPES
            for form in ("serial", "parallel")
            if (name, dtype) not in PARALLEL
        ),
    ],
    indirect=["form"],
)
FEW = pytest.mark.parametrize(
    ("name", "dtype", "form"),
    [(*case, form) for case in PARALLEL for form in ("serial", "parallel")],
    indirect=["form"],
)


@FORMS
def test_forms_threads_and_parts(name, dtype, form, thread_count):
    grads = gradients(dtype)[:4]
    start = starts(dtype, grads.shape[1])
    p, state = expected_of(name, start, grads)
    for part in [None, 1, 7, 64, 299, 300]:
        opt = trajectory(name, start.copy(), grads, part)
        assert uses_parallel(opt) == (form == "parallel")
        check(opt, p, state)


@pytest.mark.parametrize(
    "name", ["adam paper", *map(extras.sweep, ("adam paper amsgrad", "sgd nesterov"))]
)
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


@FEW
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


@FEW
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


@FORMS
def test_lengths(name, dtype, form):
    """0 to 70 elements: every tail of every vector width."""
    grads = gradients(dtype)[:2, :70]
    start = starts(dtype, 70)
    p, state = expected_of(name, start, grads)
    for n in range(71):
        opt = trajectory(name, start[:n].copy(), [g[:n] for g in grads])
        check(opt, p[:n], {key: value[:n] for key, value in state.items()})
        assert opt.t == 2


@FEW
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


# --- the norm -------------------------------------------------------------------------------------


REALS = [np.float64, np.float32]


def norms_of(arrays, calls):
    """Norms of the gradients of some steps with a clip."""
    opt = na.Adam(arrays, lr=0.1, clip_norm=1.0)
    seen = []
    for g in calls:
        opt.step(g)
        seen.append(opt.grad_norm)
    return seen


def magnitudes(real, shape, seed):
    """Of many magnitudes: the sum of their squares depends on the order of plain additions."""
    rng = np.random.default_rng(seed)
    g = rng.standard_normal((8, *shape)) * np.exp(3 * rng.standard_normal((8, *shape)))
    return g.astype(real)


@pytest.mark.parametrize("real", REALS)
def test_memory_order_changes_last_places_alone(real):
    for seed in range(20):
        g = magnitudes(real, (37, 41), seed)
        c = np.ones(g.shape[1:], real)
        norms = norms_of(c, g)
        wide = np.ones((74, 82), real)
        for other in (np.ones(g.shape[1:], real, order="F"), wide[::2, 1::2], wide[::-2, ::-2]):
            other[...] = 1
            np.testing.assert_allclose(norms_of(other, g), norms, rtol=1e-14)
            np.testing.assert_allclose(other, c, rtol=4 * np.finfo(real).eps)
        f = np.ones(g.shape[1:], real, order="F")
        assert norms_of(f, g) == norms_of(np.ones_like(f), [np.asfortranarray(one) for one in g])


@pytest.mark.parametrize("real", [np.float64, extras.sweep(np.float32)])
def test_one_array_or_many_in_any_order_and_threads(real):
    """Threads change no bit of a norm, the order of the arrays its last places."""
    g = magnitudes(real, (60_000,), 0)
    cuts = [0, 1, 1_000, 1_003, 20_000, 20_000, 47_111, 60_000]
    pieces = [slice(a, b) for a, b in itertools.pairwise(cuts)]
    whole = np.ones(60_000, real)
    norms = norms_of(whole, g)
    before, found = numba.get_num_threads(), []
    try:
        for loops, order in [(1, 1), (before, 1), (before, -1)]:
            numba.set_num_threads(loops)
            parts = [np.ones(60_000, real)[one] for one in pieces[::order]]
            found.append(norms_of(parts, [[h[one] for one in pieces[::order]] for h in g]))
            np.testing.assert_allclose(found[-1], norms, rtol=1e-14)
            joined = np.concatenate(parts[::order])
            # each of the 8 steps may round a parameter the other way, which shrinks to a third
            np.testing.assert_allclose(joined, whole, rtol=24 * np.finfo(real).eps)
        assert found[0] == found[1]
    finally:
        numba.set_num_threads(before)


# --- all options together, in every form ----------------------------------------------------------


RNG = np.random.default_rng(5)


def draw(n, dtype="f4"):
    return RNG.standard_normal(n).astype(dtype)


def sink():
    """All options at once, over nested arrays of which one is strided, with a flush at the end."""
    options = {**copy.deepcopy(SINK), "clip_norm": 20.0}
    options["lr"]["strided"] = np.linspace(0.0, 0.1, 700)
    options["bounds"]["strided"] = (np.linspace(-1, 0, 700), 0.8)
    sizes = {"w": [30_011, 4_097], "0-d": 1, "empty": 0, "strided": 1400}

    def make(n):
        return draw(n)[::2] if n == 1400 else draw(n).reshape(() if n == 1 else n)

    return [tree_map(make, sizes) for _ in range(6)], options


def skipping():
    """The third gradient is not finite, and skipped."""
    calls = [[draw(20_001, "f4"), draw(3, "f4")] for _ in range(5)]
    calls[3][0][777] = np.nan
    return calls, {"nonfinite": "skip", "clip_array_norm": 9.0}


def large_complex():
    """Numbers whose squares leave the range: the partial sums are formed twice."""
    calls = [
        {name: draw(2 * n, "f8").view(complex) * 1e200 for name, n in (("a", 9_001), ("b", 40))}
        for _ in range(4)
    ]
    return calls, {"clip_norm": 3.0, "groups": {"b": {"lr": 0.01}}}


def rows():
    """A gradient that touches some rows of the first array."""
    p = [draw(6_000).reshape(600, 10), draw(5_000)]
    grads = [[Rows(RNG.permutation(600)[:150], draw(1500).reshape(150, 10)), draw(5_000)]]
    return [p, *3 * grads], {"sparse": "lazy", "clip_norm": 1.0}


@pytest.fixture
def way(request, monkeypatch):
    """Every optimiser of the test steps in this way, whatever the layer and its size."""
    way = request.param
    process.layer()  # that of the other tests is chosen
    monkeypatch.setattr(process, "wants_parallel", lambda total: way != "serial")
    return way


@pytest.mark.parametrize(
    ("case", "way"),
    [
        *((sink, form) for form in ("serial", "parallel")),
        (rows, "parallel"),
        *(extras.sweep(case, "parallel") for case in (skipping, large_complex)),
    ],
    indirect=["way"],
)
def test_all_together_has_the_same_bits_in_any_form_thread_and_part(case, way, thread_count):
    """Long arrays: a norm has many blocks, parts end anywhere."""
    (start, *calls), options = case()
    found = set()
    for part in (0, None, 1 << 20, 65, 999):
        opt = na.Adam(tree_map(np.copy, start), **copy.deepcopy(options))
        assert uses_parallel(opt) == (way != "serial")
        if part == 0:  # what the others have to be: serial, in one piece
            compiled_step(opt).kernel().step = loop.compiled_step(
                opt._backend.memory.plan, False, loop.SERIAL
            )
            part = 1 << 20
        if part is not None:
            shorten_parts(opt, part)
        for grads in calls:
            opt.step(grads)
        found.add((digest(opt), opt.t, opt.skipped, str(opt.grad_norm)))
    assert len(found) == 1
