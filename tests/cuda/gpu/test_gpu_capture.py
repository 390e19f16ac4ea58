"""On a GPU: streams, graphs, and a GPU that is behind."""

from __future__ import annotations

import contextlib
import gc
import weakref

import numpy as np
import pytest

import numadam as na
from tests import emulator


@contextlib.contextmanager
def captured(stream):
    """A capture that ends in any case; the list gets its graph."""
    graphs = []
    stream.begin_capture()
    try:
        yield graphs
    finally:
        graphs.append(stream.end_capture())


def test_a_replayed_step_counts_on_and_reads_lr_anew(cp):
    x, twin = cp.ones(5, np.float32), np.ones(5, np.float32)
    cp.cuda.Device().synchronize()
    with cp.cuda.Stream(non_blocking=True) as stream:
        g, lr = cp.ones(5, np.float32), cp.full((), 0.5, np.float32)
        opt = na.NAdam(x, lr, clip_norm=2.0, capturable=True)
        other = na.NAdam(twin, 0.5, clip_norm=2.0)
        opt.step(g)
        with captured(stream) as graphs:
            opt.step(g)
        for value, rate in ((1.0, 0.5), (1.0, 0.25), (-3.0, 0.125)):
            g[...], lr[...] = value, rate
            graphs[0].launch()
    for value, rate in ((1.0, 0.5), (1.0, 0.5), (1.0, 0.25), (-3.0, 0.125)):
        other.lr = rate
        other.step(np.full(5, value, np.float32))
    stream.synchronize()
    np.testing.assert_allclose(cp.asnumpy(x), twin, rtol=1e-6)
    assert opt.t == 4
    np.testing.assert_allclose(opt.state["mu_product"], other.state["mu_product"], rtol=1e-15)
    assert opt.lr is lr


def test_lr_of_a_captured_step_is_written_where_it_lies(cp):
    p = cp.zeros(2)
    opt = na.SGD(p, lr=0.5, capturable=True)
    where = opt.lr
    opt.step(cp.ones(2))
    opt.lr = 0.25
    opt.step(cp.ones(2))
    assert opt.lr is where
    assert (p == -0.75).all()
    with pytest.raises(ValueError, match=r"write opt\.lr = x"):
        opt.step(cp.ones(2), lr=0.1)
    with pytest.raises(ValueError, match="lr: expected a number in"):
        opt.lr = -1.0


def test_what_a_graph_cannot_hold_is_refused_during_the_capture(cp):
    cp.cuda.Device().synchronize()
    with cp.cuda.Stream(non_blocking=True) as stream:
        params, grads, others = ([cp.ones(4), cp.ones(3)] for _ in range(3))
        opt = na.Adam(params, capturable=True)
        by_host = na.Adam(cp.ones(8))
        g = cp.ones(8)
        opt.step(grads)
        by_host.step(g)
        with captured(stream) as graphs:
            opt.step(grads)
            with pytest.raises(RuntimeError, match="Take one step with these arrays and options"):
                opt.step(others)
            opt.beta1 = 0.5
            with pytest.raises(RuntimeError, match="a graph is being captured"):
                opt.step(grads)
            with pytest.raises(RuntimeError, match="Make the optimiser with capturable=True"):
                by_host.step(g)
        assert (opt.t, by_host.t) == (1, 1)
        graphs[0].launch()
        assert opt.t == 2


def test_capturable_is_for_the_gpu_and_lr_a_number(cp):
    with pytest.raises(ValueError, match="capturable: is for CuPy parameters"):
        na.Adam(np.ones(3), capturable=True)
    for lr in (lambda t: 0.1, cp.ones(3)):
        with pytest.raises(TypeError, match="lr: with capturable=True expected a number or a 0-d"):
            na.Adam(cp.ones(3), lr, capturable=True)
    with pytest.raises(TypeError, match="lr: expected a 0-d array of float32 or float64"):
        na.Adam(cp.ones(3), cp.zeros((), np.int64), capturable=True)


def test_other_arrays_between_do_not_reach_a_graph(cp):
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        params = [cp.zeros(4), cp.zeros(3)]
        grads, others = ([cp.full(n, value) for n in (4, 3)] for value in (1.0, 100.0))
        opt = na.SGD(params, lr=1.0, capturable=True)
        opt.step(grads)
        stream.begin_capture()
        opt.step(grads)
        graph = stream.end_capture()
        for step in (others, grads):
            opt.step(step)
            graph.launch()
        assert opt.t == 5
        assert all(bool((p == -104).all()) for p in params)


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


def test_optimisers_made_and_left_while_the_gpu_is_behind(cp, behind):
    """Each one's options are copied later, from memory that the next one must not get.

    Where the host counts t they are numbers of a launch, and not copied.
    """
    arrays, g = [cp.zeros(16) for _ in range(100)], cp.ones(16)

    def step(p, scale):
        na.SGD(p, lr=1.0, loss_scale=scale, capturable=True).step(g)

    step(cp.zeros(16), 2.0)  # compiled now, and not behind the work
    behind()
    for k, p in enumerate(arrays):
        step(p, 1.0 / (k + 1))
    if emulator.is_running():
        assert emulator.pending() > 100
    for k, p in enumerate(arrays):
        np.testing.assert_allclose(cp.asnumpy(p), -(k + 1.0), rtol=1e-12)


def test_options_that_change_at_each_step_while_the_gpu_is_behind(cp, behind):
    x, g = cp.zeros(16), cp.ones(16)
    opt = na.SGD(x, lr=1.0, loss_scale=1.0, capturable=True)
    opt.step(g)
    behind()
    for k in range(1, 30):
        opt.loss_scale = 0.5**k
        opt.step(g)
    np.testing.assert_array_equal(cp.asnumpy(x), 1.0 - 2.0**30)


@pytest.mark.parametrize("in_cycle", [False, True])
def test_pinned_memory_outlives_an_optimiser_until_its_copies_are_done(cp, behind, in_cycle):
    """The collector finalizes the objects of a cycle in any order, events among them."""

    def step():
        opt = na.SGD(cp.zeros(4), capturable=True)
        opt.step(cp.ones(4))
        return [opt]

    step()  # compiled now, and not behind the work
    behind()
    cycle = step()
    watched = [weakref.ref(pinned) for pinned, _ in cycle[0]._backend._step.control._upload._slots]
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
