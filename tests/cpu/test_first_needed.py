"""Compiled code that few processes need comes with the first array that needs it."""

import numpy as np
import pytest

import numadam as na
from numadam._core.parts import parts_of
from numadam._cpu.validate import PAIRS


def field(opt, name):
    return int(parts_of(opt).backend.arguments.meta[name][0])


def test_strided_arrays():
    opt, same = na.Adam(np.zeros((3, 4))), na.Adam(np.zeros((3, 4)))
    g = np.arange(12.0).reshape(4, 3).T
    opt.step(np.ascontiguousarray(g))
    assert field(opt, "strided_arrays") == 0
    for _ in range(2):
        opt.step(g)
    assert field(opt, "strided_arrays") != 0
    for _ in range(3):
        same.step(np.ascontiguousarray(g))
    assert opt.params.tobytes() == same.params.tobytes()


def test_an_array_that_overlaps_itself_is_refused_before_memory_is_taken():
    opt = na.Adam(np.zeros(4))
    out = np.lib.stride_tricks.as_strided(np.zeros(4), (4,), (0,))
    with pytest.raises(ValueError, match="several of its elements"):
        opt.step(np.ones(4), out=out)
    assert parts_of(opt).backend.arguments.work_bytes == 0
    assert opt.t == 0


@pytest.mark.parametrize("count", [1, 2, PAIRS - 1, PAIRS, PAIRS + 1, 3 * PAIRS])
def test_search_for_overlap(count):
    """The state is one more array that is written."""
    memory = np.zeros(4 * count + 4)
    params = [memory[4 * k : 4 * k + 4] for k in range(count)]
    opt = na.Adam(params)
    assert (field(opt, "overlap_search") != 0) == (count + 1 > PAIRS)
    g = [np.ones(4)] * count  # read twice is no harm
    opt.step(g)
    before = memory.copy()
    for k in {0, count // 2, count - 1}:
        g[k], kept = memory[4 * k + 3 : 4 * k + 7], g[k]
        with pytest.raises(ValueError, match="shares memory"):
            opt.step(g)
        g[k] = kept
    with pytest.raises(ValueError, match="shares memory"):
        na.Adam([*params, memory[3:7]])
    assert memory.tobytes() == before.tobytes()
    opt.step(g)
    assert opt.t == 2


def test_a_step_with_out():
    p, out = np.zeros(5), np.zeros(5)
    opt = na.Adam(p, lr=0.1)
    assert "kernel_with_out" not in vars(parts_of(opt).backend.compiled)
    opt.step(np.ones(5), out=out)
    assert "kernel_with_out" in vars(parts_of(opt).backend.compiled)
    np.testing.assert_allclose(out, -0.1)
    assert not p.any()
