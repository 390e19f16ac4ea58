"""The bits of a step depend on nothing but the numbers: not on threads, form, place or split.

And no step writes or reads outside its arrays.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest

import numadam as na
from numadam._jit import threads
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
    assert uses_parallel(opt) == (threads.layer() != "workqueue")
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


GUARDED = """
    import ctypes, mmap, sys
    import numpy as np
    import numadam as na
    from numadam._jit import threads

    PAGE = mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    class Guarded:
        "One page between two that can be neither read nor written."

        def __init__(self):
            self.map = mmap.mmap(-1, 3 * PAGE)
            whole = np.frombuffer(self.map, np.uint8)
            self.page = whole[PAGE : 2 * PAGE]
            for at in (0, 2 * PAGE):
                if libc.mprotect(whole.ctypes.data + at, PAGE, 0) != 0:
                    raise OSError(ctypes.get_errno(), "mprotect")

        def array(self, n, dtype, first):
            "n elements from byte `first` of the page (counted from its end if negative)."
            self.page[:] = 0xA5
            size = n * np.dtype(dtype).itemsize
            self.first = first if first >= 0 else PAGE + first + 1 - size
            self.size = size
            return self.page[self.first : self.first + size].view(dtype)

        def untouched(self):
            return bool(
                np.all(self.page[: self.first] == 0xA5)
                and np.all(self.page[self.first + self.size :] == 0xA5)
            )

    rooms = [Guarded() for _ in range(6)]
    if sys.argv[1] == "break":  # shows that the guard bites
        whole = np.frombuffer(rooms[0].map, np.uint8)
        whole[2 * PAGE] = 1
    parallel = sys.argv[1] == "parallel"
    threads.layer()
    threads.wants_parallel = lambda total: parallel

    def calls(p, g, m, v, x, out, t):
        yield lambda: na.adam_update(p, g, m, v, t, out=out)
        yield lambda: na.adam_update(p, g, m, v, t, vmax=x, out=out)
        yield lambda: na.rmsprop_update(p, g, v, out=out)
        yield lambda: na.sgd_update(p, g, out=out)
        yield lambda: na.sgd_update(p, g, m, momentum=0.9, nesterov=True, out=out)

    count = 0
    for dtype in (np.float32, np.float64):
        item = np.dtype(dtype).itemsize
        # flush with the lower guard, flush with the upper one, and every offset mod 64
        for n in range(34):
            firsts = [0, -1] + ([*range(1, 64)] if n in (1, 9, 17, 33) else [*range(0, 64, item)])
            for first in firsts:
                arrays = [room.array(n, dtype, first) for room in rooms]
                for k, a in enumerate(arrays):
                    a[...] = k + 1
                used = arrays[:-1] + ([None] if (n + first) % 2 else arrays[-1:])
                every = first in (0, -1)
                for k, call in enumerate(calls(*used, 3)):
                    if every or k == first % 5:
                        call()
                        count += 1
                assert all(np.isfinite(a).all() for a in arrays)
                assert all(room.untouched() for room in rooms), (dtype, n, first)
                assert n == 0 or not (arrays[0] == 1).all() or used[-1] is not None
    print("calls", count)
"""


def run_guarded(mode):
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(GUARDED), mode],
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="guard pages are made with POSIX mprotect")
@pytest.mark.parametrize("mode", ["serial", "parallel"])
def test_guard_pages(mode):
    """Every array of a step lies between pages that cannot be touched; beside it, marked bytes."""
    done = run_guarded(mode)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[1]) > 2000


@pytest.mark.skipif(sys.platform == "win32", reason="guard pages are made with POSIX mprotect")
def test_guard_pages_bite():
    assert run_guarded("break").returncode < 0


def test_update_takes_the_bits_of_the_class():
    """The functional API and the class are one step (more in optimizer/test_functional.py)."""
    p, q = np.ones(9), np.ones(9)
    m, v = np.zeros(9), np.zeros(9)
    g = np.linspace(-1, 1, 9)
    opt = na.Adam(p)
    opt.step(g)
    na.adam_update(q, g, m, v, 1)
    assert_same_bits(p, q)
