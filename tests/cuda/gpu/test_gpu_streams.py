"""On a GPU: streams, captures, and a GPU that is behind."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import numadam as na
from tests import emulator


def test_a_step_in_a_capture_is_refused(cp):
    """Each replay would repeat its t and lr."""
    p, g = cp.ones(8), cp.ones(8)
    opt = na.Adam(p)
    opt.step(g)
    before = p.copy()
    cp.cuda.Device().synchronize()
    with cp.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        try:
            for call in (lambda: opt.step(g), opt.reset, opt.snapshot):
                with pytest.raises(RuntimeError, match="a graph is being captured"):
                    call()
        finally:
            stream.end_capture()
    assert opt.t == 1
    cp.testing.assert_array_equal(p, before)
    opt.step(g)
    assert opt.t == 2


@pytest.fixture
def behind(cp):
    """Gives the GPU work for a tenth of a second; an emulated one is as late as it may be."""
    if emulator.is_running():
        before = cp.cuda.get_allocator()
        cp.cuda.set_allocator(cp.get_default_memory_pool().malloc)  # which waits for nothing
        yield cp.cuda.Device().synchronize
        cp.cuda.Device().synchronize()
        cp.cuda.set_allocator(before)
        return
    big = cp.ones(2**27, np.float32)

    def keep_busy():
        cp.cuda.Device().synchronize()
        for _ in range(400):
            big.__imul__(1)

    yield keep_busy


#: Two arrays, the second of which has an lr of its own: the scalars lie in a table on the GPU.
OWN = {"1": {"lr": 0.0}}


def test_optimisers_made_and_left_while_the_gpu_is_behind(cp, behind):
    """Each one's scalars are copied later, from memory that the next one must not get."""
    arrays, g = [cp.zeros(16) for _ in range(100)], cp.ones(16)
    other = cp.zeros(16)

    def step(p, lr):
        na.SGD([p, other], lr=lr, groups=OWN).step([g, g])

    step(cp.zeros(16), 2.0)  # compiled now, and not behind the work
    behind()
    for k, p in enumerate(arrays):
        step(p, k + 1.0)
    if emulator.is_running():
        assert emulator.pending() > 100
    for k, p in enumerate(arrays):
        np.testing.assert_allclose(cp.asnumpy(p), -(k + 1.0), rtol=1e-12)


def test_options_that_change_at_each_step_while_the_gpu_is_behind(cp, behind):
    x, g = cp.zeros(16), cp.ones(16)
    opt = na.SGD([x, cp.zeros(16)], lr=1.0, groups=OWN)
    opt.step([g, g])
    behind()
    for k in range(1, 30):
        opt.lr = 2.0**k
        opt.step([g, g])
    np.testing.assert_array_equal(cp.asnumpy(x), 1.0 - 2.0**30)


@pytest.mark.parametrize("in_cycle", [False, True])
def test_pinned_memory_outlives_an_optimiser_until_its_copies_are_done(cp, behind, in_cycle):
    """The collector finalizes the objects of a cycle in any order, events among them."""

    def step():
        opt = na.SGD([cp.zeros(4), cp.zeros(4)])
        opt.step([cp.ones(4), cp.ones(4)])
        return [opt]

    step()  # compiled now, and not behind the work
    behind()
    cycle = step()
    slots = cycle[0]._backend._step.arguments._upload._slots
    watched = [weakref.ref(pinned) for pinned, _ in slots]
    del slots
    if in_cycle:
        cycle.append(cycle)
    del cycle
    gc.collect()
    assert [memory for memory in watched if memory() is not None]
    cp.cuda.Device().synchronize()
    step()
    gc.collect()
    assert not [memory for memory in watched if memory() is not None]


def test_one_optimiser_on_two_streams_that_wait_for_each_other(cp):
    """Made on a third one; each stream waits for what the one before has done."""
    x = cp.zeros(16)
    opt, g = na.Adam(x, lr=0.5, clip_norm=9.0), cp.ones(16)
    twin, other = na.Adam(np.zeros(16), lr=0.5, clip_norm=9.0), np.ones(16)
    before = cp.cuda.get_current_stream()
    streams = [cp.cuda.Stream(non_blocking=True) for _ in range(2)]
    for k in range(4):
        stream = streams[k % 2]
        stream.wait_event(before.record())
        with stream:
            opt.step(g)
        twin.step(other)
        before = stream
    before.synchronize()
    np.testing.assert_allclose(cp.asnumpy(x), twin.params, rtol=1e-14)
