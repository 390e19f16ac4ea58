"""Sums of several ranks' gradients inside a step: in their order, bit for bit. No MPI is needed."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

import numadam as na
from numadam._arrays.layout import address_of
from numadam._core.parts import parts_of
from numadam._cpu.adding import BLOCK, Adding
from numadam._cpu.compiled import adder_address
from numadam._cpu.records import META

_ADDER = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 6)

#: Gradients before this node's, of its ranks, and after; whether the only one of its ranks is the
#: leaf's own.
CASES = [
    *((counts, False) for counts in [(0, 1, 0), (0, 2, 0), (0, 5, 0), (2, 3, 1), (3, 2, 2)]),
    *((counts, True) for counts in [(0, 1, 0), (1, 1, 0), (0, 1, 1), (1, 1, 3)]),
]


def gradients(count, size, dtype, seed=0):
    rng = np.random.default_rng([seed, count, size])
    return [rng.standard_normal(size).astype(dtype) for _ in range(count)]


def in_order(before, own, after, divisor):
    """The documented sum, one rounding an addition."""
    nodes = [*before]
    if own:
        node = own[0]
        for one in own[1:]:
            node = node + one
        nodes.append(node)
    nodes += after
    total = nodes[0]
    for one in nodes[1:]:
        total = total + one
    return total if divisor == 1 else total / total.dtype.type(divisor)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("divisor", [1, 3])
@pytest.mark.parametrize(("counts", "leafwise"), CASES, ids=str)
def test_a_block_is_summed_in_order(dtype, divisor, counts, leafwise):
    first, low, size = 100, 107, 300
    n = min(BLOCK // np.dtype(dtype).itemsize, 190)
    arrays = gradients(sum(counts), size, dtype)
    b, o, _ = counts
    before, own, after = arrays[:b], arrays[b : b + o], arrays[b + o :]
    adding, meta = Adding(divisor), np.zeros(1, META)
    adding.set(first, before, [] if leafwise else own, after)
    meta["adding"] = adding.address
    to = np.full(BLOCK // np.dtype(dtype).itemsize + 8, np.nan, dtype)
    at = low - first
    mine = own[0][at:].copy()
    add = _ADDER(adder_address(np.dtype(dtype)))
    add(address_of(meta), address_of(mine), low, n, address_of(to), 0)
    wanted = in_order(before, own, after, divisor)[at : at + n]
    assert to[:n].tobytes() == wanted.tobytes()
    assert np.isnan(to[n:]).all()
    assert mine.tobytes() == own[0][at:].tobytes()


@pytest.mark.parametrize("counts", [(1, 0, 0), (0, 0, 1), (0, 2, 0), (0, 3, 0), (1, 0, 2)], ids=str)
def test_windows_of_a_step_are_the_step(counts):
    """Parts of several leaves with sums; t advances with the last; two sources go as a pair."""
    shapes, part = [(700,), (64,), (5, 3), (900,)], 256
    offsets = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])
    b, o, a = counts
    leafwise = o == 0
    arrays = gradients(b + max(o, 1) + a, int(offsets[-1]), np.float32, seed=1)
    before, own, after = arrays[:b], arrays[b : b + max(o, 1)], arrays[b + max(o, 1) :]
    ours, theirs = ([np.ones(shape, np.float32) for shape in shapes] for _ in range(2))
    opt, whole = na.Adam(ours, lr=0.1), na.Adam(theirs, lr=0.1)
    pairs = list(zip(offsets, offsets[1:], shapes, strict=False))
    total = in_order(before, own, after, 1)
    whole.step([total[low:high].reshape(shape) for low, high, shape in pairs])

    backend = parts_of(opt).backend
    backend.cut_parts(part)
    adding, count = Adding(1), -(-int(offsets[-1]) // part)
    starts = [address_of(own[0][low:]) if leafwise else 0 for low in offsets[:-1]]
    for done in range(0, count, 2):
        assert opt.t == 0
        low, high = done * part, min((done + 2) * part, int(offsets[-1]))
        cut = [[one[low:high] for one in some] for some in (before, own, after)]
        adding.set(low, cut[0], [] if leafwise else cut[1], cut[2])
        left = max(count - done - 2, 0)
        backend.step_parts(done, left, np.array(starts, np.int64), adding, 0.1)
    assert opt.t == 1
    for one, other in zip(ours, theirs, strict=True):
        assert one.tobytes() == other.tobytes()
