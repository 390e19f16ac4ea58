"""On a GPU: streams, captures, a GPU that is behind, launches, and Ctrl-C between them."""

from __future__ import annotations

import gc
import re
import signal
import weakref

import numpy as np
import pytest

import numadam as na
from tests import emulator, extras


def test_a_step_in_a_capture_is_refused(cp):
    """Each replay would repeat its t and lr."""
    p, g, m, v = cp.ones(8), cp.ones(8), cp.zeros(8), cp.zeros(8)
    opt = na.Adam(p)
    opt.step(g)
    na.adam_update(p, g, m, v, 1)
    before = [array.copy() for array in (p, m, v)]
    cp.cuda.Device().synchronize()
    with cp.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        try:
            for call in (
                lambda: opt.step(g),
                opt.reset,
                opt.snapshot,
                lambda: na.adam_update(p, g, m, v, 2),
                lambda: na.sgd_update(p[:2], g[:2]),  # compiled for no such step yet
            ):
                with pytest.raises(RuntimeError, match="a graph is being captured"):
                    call()
        finally:
            stream.end_capture()
    for array, old in zip((p, m, v), before, strict=True):
        cp.testing.assert_array_equal(array, old)
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


def test_scalars_that_change_while_the_gpu_is_behind(cp, behind):
    """They are copied later, from memory that no other optimiser, or step, must get."""
    arrays, g = [cp.zeros(16) for _ in range(100)], cp.ones(16)
    x, other = cp.zeros(16), cp.zeros(16)

    def step(p, lr):
        na.SGD([p, other], lr=lr, groups=OWN).step([g, g])

    opt = na.SGD([x, cp.zeros(16)], lr=1.0, groups=OWN)
    opt.step([g, g])
    behind()
    for k, p in enumerate(arrays):
        step(p, k + 1.0)
    if emulator.is_running():
        assert emulator.pending() > 100
    for k in range(1, 30):  # the host waits where it is four copies ahead
        opt.lr = 2.0**k
        opt.step([g, g])
    for k, p in enumerate(arrays):
        np.testing.assert_allclose(cp.asnumpy(p), -(k + 1.0), rtol=1e-12)
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


# --- launches -------------------------------------------------------------------------------------

NORMS = ["sums", "norms", "step"]
#: Options and dtype; the kernels of a step over any number of arrays, and how often the host waits.
STEPS = {
    "plain": ({}, "f4", ["step"], 0),
    "clip": ({"clip_norm": 1.0, "bounds": (0, 2), "ema": 0.9}, "f4", NORMS, 0),
    "clip each": ({"clip_array_norm": 1.0}, "f8", NORMS, 0),
    "groups": ({"groups": {"0": {"lr": 0.1}}}, "f8", ["step"], 0),
    "skip": ({"clip_norm": 1.0, "nonfinite": "skip"}, "f8", NORMS, 2),
    "raise": ({"nonfinite": "raise"}, "f8", NORMS, 2),
}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", STEPS)
def test_launches_and_waits_of_a_step(cp, name, count):
    if not emulator.is_running():
        extras.stop("gpu", "a GPU does not say what was launched: the emulator does")
    options, dtype, kernels, waits = STEPS[name]
    opt = na.Adam([cp.ones(5, dtype) for _ in range(count)], **options)
    grads = [cp.ones(5, dtype) for _ in range(count)]
    opt.step(grads)
    emulator.launches(), emulator.waits()
    opt.step(grads)
    found = (re.match(r"_ZN7numadam\d([a-z]+)B", name) for name in emulator.launches())
    launched = [match[1] if match else "CuPy's" for match in found]
    assert (launched, emulator.waits()) == (kernels, waits)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_between_launches_waits_for_the_whole_step(cp, monkeypatch):
    from numadam._cuda.launch import Launch

    params, grads = ([cp.ones(4) for _ in range(3)] for _ in range(2))
    calls, bind = [], Launch.bind

    def interrupted(*arguments):
        launch = bind(*arguments)

        def launch_and_interrupt():
            launch()
            calls.append(launch)
            if len(calls) == 1:
                signal.raise_signal(signal.SIGINT)

        return launch_and_interrupt

    monkeypatch.setattr(Launch, "bind", interrupted)
    opt = na.SGD(params, lr=1.0, clip_norm=9.0)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        opt.step(grads)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(calls) == 3
    assert opt.t == 1
    assert all((p == 0).all() for p in params)
