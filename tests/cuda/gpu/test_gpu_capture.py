"""On a GPU: streams, graphs, and a GPU that is behind."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from tests import emulator

pytestmark = pytest.mark.gpu


def test_runs_on_the_current_stream_and_does_not_wait(cp):
    p, g = cp.zeros(1_000_000, np.float32), cp.ones(1_000_000, np.float32)
    opt = na.Adam(p)
    stream = cp.cuda.Stream(non_blocking=True)
    cp.cuda.get_current_stream().synchronize()
    with stream:
        for _ in range(5):
            opt.step(g)
    stream.synchronize()
    assert opt.t == 5
    np.testing.assert_allclose(cp.asnumpy(p[:3]), -5e-3, rtol=1e-5)


def test_a_captured_step_is_replayed(cp):
    x, twin = cp.zeros(1_000, np.float32), cp.zeros(1_000, np.float32)
    g, stream = cp.ones(1_000, np.float32), cp.cuda.Stream(non_blocking=True)
    opt, other = (
        na.NAdam(x, 0.1, clip_norm=2.0, capturable=True),
        na.NAdam(twin, 0.1, clip_norm=2.0),
    )
    cp.cuda.Device().synchronize()
    with stream:
        opt.step(g)
        stream.begin_capture()
        opt.step(g)
        graph = stream.end_capture()
        for _ in range(5):
            graph.launch()
        opt.lr = 0.05
        graph.launch()
    stream.synchronize()
    for k in range(7):
        other.lr = 0.1 if k < 6 else 0.05
        other.step(g)
    assert opt.t == 7
    assert bool((x == twin).all())


def test_a_capture_that_would_need_the_host_is_refused(cp):
    x, g = cp.zeros(8), cp.ones(8)
    opt, stream = na.Adam(x, capturable=True), cp.cuda.Stream(non_blocking=True)
    cp.cuda.Device().synchronize()
    with stream:
        opt.step(g)
        opt.beta1 = 0.5
        stream.begin_capture()
        try:
            with pytest.raises(RuntimeError, match="a graph is being captured"):
                opt.step(g)
        finally:
            stream.end_capture()


def test_a_capture_of_a_step_that_the_host_counts_is_refused(cp):
    x, g = cp.zeros(8), cp.ones(8)
    opt, stream = na.Adam(x), cp.cuda.Stream(non_blocking=True)
    cp.cuda.Device().synchronize()
    with stream:
        opt.step(g)
        stream.begin_capture()
        try:
            with pytest.raises(RuntimeError, match="capturable=True"):
                opt.step(g)
        finally:
            stream.end_capture()
    assert opt.t == 1


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
