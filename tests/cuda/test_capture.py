"""Steps that a CUDA graph captures and replays."""

from __future__ import annotations

import math

import numpy as np
import pytest

import numadam as na

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy's scalars


def test_a_replayed_step_counts_on_and_reads_lr_anew(cupy, monkeypatch):
    """A graph launches the same kernels with the same numbers: so does this."""
    import numadam._cuda.launch as policy

    tape, launch = [], policy.Simulated.launch

    def noted(kernel, *args):
        tape.append((kernel, args))
        launch(kernel, *args)

    p, twin = cupy.ones(5, np.float32), np.ones(5, np.float32)
    g = cupy.ones(5, np.float32)
    lr = cupy.full((), 0.5, np.float32)
    opt, other = na.NAdam(p, lr, capturable=True), na.NAdam(twin, 0.5)
    opt.step(g)
    monkeypatch.setattr(policy.Simulated, "launch", noted)
    opt.step(g)
    for value, rate in ((1.0, 0.25), (-3.0, 0.125)):
        g[...], lr[...] = value, rate
        for kernel, args in tape:
            launch(kernel, *args)
    for value, rate in ((1.0, 0.5), (1.0, 0.5), (1.0, 0.25), (-3.0, 0.125)):
        other.lr = rate
        other.step(np.full(5, value, np.float32))
    np.testing.assert_array_equal(p, twin)
    assert opt.t == 4
    np.testing.assert_array_equal(opt.state["mu_product"], other.state["mu_product"])
    assert opt.lr is lr


def test_lr_of_a_captured_step_is_written_where_it_lies(cupy):
    p = cupy.zeros(2)
    opt = na.SGD(p, lr=0.5, capturable=True)
    where = opt.lr
    opt.step(cupy.ones(2))
    opt.lr = 0.25
    opt.step(cupy.ones(2))
    assert opt.lr is where
    np.testing.assert_array_equal(p, -0.75)
    with pytest.raises(ValueError, match=r"write opt\.lr = x"):
        opt.step(cupy.ones(2), lr=0.1)
    with pytest.raises(ValueError, match="lr: expected a number in"):
        opt.lr = -1.0


def test_what_a_graph_cannot_hold_is_refused_during_the_capture(cupy, monkeypatch):
    params = [cupy.ones(4), cupy.ones(3)]
    grads = [cupy.ones(4), cupy.ones(3)]
    opt = na.Adam(params, capturable=True)
    opt.step(grads)
    with monkeypatch.context() as patch:
        patch.setattr(cupy.stream, "capturing", True, raising=False)
        opt.step(grads)
        with pytest.raises(RuntimeError, match="Take one step with these arrays and options"):
            opt.step([cupy.ones(4), cupy.ones(3)])
        opt.beta1 = 0.5
        with pytest.raises(RuntimeError, match="a graph is being captured"):
            opt.step(grads)
    assert opt.t == 2


def test_other_arrays_between_do_not_reach_a_graph(cupy, monkeypatch):
    """A graph reads the table of its own step at each replay."""
    import numadam._cuda.launch as policy

    tape, launch = [], policy.Simulated.launch

    def noted(kernel, *args):
        tape.append((kernel, args))

    params = [cupy.zeros(4), cupy.zeros(3)]
    grads, others = ([cupy.full(n, value) for n in (4, 3)] for value in (1.0, 100.0))
    opt = na.SGD(params, lr=1.0, capturable=True)
    opt.step(grads)
    with monkeypatch.context() as patch:
        patch.setattr(cupy.stream, "capturing", True, raising=False)
        patch.setattr(policy.Simulated, "launch", noted)
        opt.step(grads)
    for step in (others, grads):
        opt.step(step)
        for kernel, args in tape:
            launch(kernel, *args)
    assert all((p == -104).all() for p in params)
    assert opt.t == 5


def test_a_step_whose_t_the_host_counts_is_refused_during_a_capture(cupy, monkeypatch):
    p, g = cupy.zeros(4), cupy.ones(4)
    opt = na.Adam(p)
    opt.step(g)
    before = p.copy()
    with monkeypatch.context() as patch:
        patch.setattr(cupy.stream, "capturing", True, raising=False)
        with pytest.raises(RuntimeError, match="Make the optimiser with capturable=True"):
            opt.step(g)
    assert opt.t == 1
    np.testing.assert_array_equal(p, before)


def test_pinned_memory_outlives_an_optimiser_until_its_copies_are_done(cupy, monkeypatch):
    import gc
    import weakref

    from numadam._cuda import upload as cuda_upload

    monkeypatch.setattr(cuda_upload, "_orphans", type(cuda_upload._orphans)())
    monkeypatch.setattr(cupy.cuda.Event, "done", False)
    opt = na.SGD(cupy.zeros(4), capturable=True)
    opt.step(cupy.ones(4))
    ((pinned, _),) = opt._backend._control._upload._slots
    watched = weakref.ref(pinned)
    del opt, pinned, _
    gc.collect()
    assert watched() is not None
    na.SGD(cupy.zeros(4), capturable=True).step(cupy.ones(4))
    assert watched() is not None
    monkeypatch.setattr(cupy.cuda.Event, "done", True)
    na.SGD(cupy.zeros(4), capturable=True).step(cupy.ones(4))
    gc.collect()
    assert watched() is None


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"accumulate": 2}, "accumulate"),
        ({"nonfinite": "raise"}, "nonfinite"),
        ({"nonfinite": "skip", "max_skips": 3}, "max_skips"),
        ({"sparse": "lazy"}, "sparse"),
        ({"beta1": lambda t: 0.5}, "beta1"),
    ],
)
def test_options_that_need_the_host_cannot_be_captured(cupy, options, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        na.Adam(cupy.ones(3), capturable=True, **options)


def test_capturable_is_for_the_gpu_and_lr_a_number(cupy):
    with pytest.raises(ValueError, match="capturable: is for CuPy parameters"):
        na.Adam(np.ones(3), capturable=True)
    for lr in (lambda t: 0.1, cupy.ones(3)):
        with pytest.raises(TypeError, match="lr: with capturable=True expected a number or a 0-d"):
            na.Adam(cupy.ones(3), lr, capturable=True)
    with pytest.raises(TypeError, match="lr: expected a 0-d array of float32 or float64"):
        na.Adam(cupy.ones(3), cupy.zeros((), np.int64), capturable=True)


def test_skipped_steps_are_counted_on_the_gpu(cupy):
    p = cupy.ones(3)
    opt = na.SGD(p, lr=1.0, nonfinite="skip", max_skips=1)
    bad = cupy.asarray(np.array([1.0, math.nan, 1.0]))
    opt.step(cupy.ones(3))
    opt.step(bad)
    assert (opt.t, opt.skipped) == (1, 1)
    with pytest.raises(FloatingPointError, match="2 times in a row"):
        opt.step(bad)
    opt.step(cupy.ones(3))
    assert (opt.t, opt.skipped, int(opt.state["skipped_in_a_row"])) == (2, 2, 0)
    np.testing.assert_array_equal(p, -1)
