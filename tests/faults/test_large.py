"""Arrays of more than 2^31 elements: addresses and counts are of 64 bits.

The memory is asked for without a reservation, and few of its pages are touched. Steps over all
elements: tests/campaigns/large_arrays.py.
"""

from __future__ import annotations

import mmap
import sys

import numpy as np
import pytest

import numadam as na

EDGE = 2**31
WIDTH = 1024

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks for memory as Linux does")


@pytest.fixture
def large():
    """2^31 + 1024 numbers in float32, all 0: 8 GiB of addresses."""
    no_reserve = 0x4000  # of Linux; `mmap` has no name for it before Python 3.13
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    room = mmap.mmap(-1, 4 * (EDGE + WIDTH), flags=flags)
    array = np.frombuffer(room, np.float32)
    yield array
    del array  # frees the memory, when its last view goes


def test_rows_on_both_sides_of_the_edge(large):
    p = large.reshape(-1, WIDTH)
    last = len(p) - 1
    assert last * WIDTH == EDGE
    opt = na.SGD(p, lr=1.0, sparse="lazy")
    rows = np.array([last, last - 1, 1])
    opt.step(na.Rows(rows, np.arange(3 * WIDTH, dtype=np.float32).reshape(3, WIDTH)))
    for k, row in enumerate(rows):
        np.testing.assert_array_equal(p[row], -np.arange(k * WIDTH, (k + 1) * WIDTH, dtype="f4"))
    # where sums of 32 bits would lead to
    assert not p[0].any()
    assert not p[last // 2].any()


def test_strides_over_the_edge(large):
    p, g = large[:: EDGE // 2], np.array([1.0, 2.0, 3.0], np.float32)
    assert p.shape == (3,)
    opt = na.SGD(p, lr=1.0)
    opt.step(g)
    opt.step(-2 * g)
    assert [float(large[at]) for at in (0, EDGE // 2, EDGE)] == [1.0, 2.0, 3.0]
    assert not large[1:1000].any()


def test_overlap_beyond_the_edge_is_refused_and_neighbours_are_not(large):
    p, g = large[EDGE:], large[EDGE - WIDTH : EDGE]
    opt = na.SGD(p, lr=1.0)
    opt.step(g)
    with pytest.raises(ValueError, match="grads shares memory with params"):
        opt.step(large[EDGE - 1 : EDGE - 1 + WIDTH])
    assert opt.t == 1
