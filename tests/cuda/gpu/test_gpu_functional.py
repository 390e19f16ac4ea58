"""On a GPU: `adam_update` and its like."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import numadam as na
from tests.cuda.cuda_cases import gradients


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_updates_give_the_bits_of_the_classes(cp, dtype):
    grads = [cp.asarray(g) for g in gradients((4, 3), dtype, 3)]

    def zeros():
        return cp.zeros((4, 3), dtype)

    p, m, v, vmax, twin = (zeros() for _ in range(5))
    opt = na.Adam(twin, amsgrad=True)
    for t, g in enumerate(grads, 1):
        na.adam_update(p, g, m, v, t, vmax=vmax)
        opt.step(g)
    cp.testing.assert_array_equal(p, twin)
    cp.testing.assert_array_equal(vmax, opt.state["vmax"])
    p, m, v, twin = (zeros() for _ in range(4))
    opt = na.NAdam(twin)  # with a running product
    for t, g in enumerate(grads, 1):
        na.nadam_update(p, g, m, v, t)
        opt.step(g)
    cp.testing.assert_array_equal(p, twin)


@pytest.mark.parametrize("options", [{"clip_norm": 0.5}, {"bounds": (0, 1.2)}, {"like": "torch"}])
def test_updates_take_the_shared_options(cp, options):
    g, p, twin = cp.asarray(np.array([3.0, -4.0])), cp.ones(2), cp.ones(2)
    m, v = cp.zeros(2), cp.zeros(2)
    opt = na.Adam(twin, weight_decay=0.1, **options)
    for t in (1, 2, 3):
        na.adam_update(p, g, m, v, t, weight_decay=0.1, **options)
        opt.step(g)
    cp.testing.assert_array_equal(p, twin)


def test_out_and_updates_without_the_parameters(cp):
    g, out, wanted = cp.asarray(np.array([3.0, -4.0])), cp.zeros(2), cp.zeros(2)
    p, m, v, other_m, other_v = cp.ones(2), *(cp.zeros(2) for _ in range(4))
    for t in (1, 2):
        na.adam_update(None, g, m, v, t, out=out)
        na.adam_update(p, g, other_m, other_v, t, out=wanted)
        cp.testing.assert_array_equal(out, wanted)
    assert (p == 1).all()
    np.testing.assert_allclose(cp.asnumpy(out), [-1e-3, 1e-3], rtol=1e-6)
    with pytest.raises(ValueError, match=r"^p: weight_decay=0\.1 needs the parameters"):
        na.adam_update(None, g, m, v, 3, out=out, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"^m: expected shape \(2,\) like g, got"):
        na.adam_update(None, g, cp.zeros(3), v, 3, out=out)


def test_refusals_name_the_arguments(cp):
    p, g, m = (cp.zeros(3) for _ in range(3))
    with pytest.raises(TypeError, match="v: expected a CuPy array, got None"):
        na.adam_update(p, g, m, None, 1)
    with pytest.raises(ValueError, match=r"g: expected shape \(3,\) like p, got \(4,\)"):
        na.adam_update(p, cp.zeros(4), m, cp.zeros(3), 1)
    with pytest.raises(ValueError, match="shares memory"):
        na.adam_update(p, g, m, m, 1)
    assert not p.any()


def test_memory_of_an_update_belongs_to_a_stream(cp, monkeypatch):
    """The stream of a thread has one number in all threads, and memory in each."""
    from numadam._cuda import step as functional

    made, make = [], functional.CudaStep

    def noted(*given, **options):
        made.append(given)
        return make(*given, **options)

    monkeypatch.setattr(functional, "CudaStep", noted)
    functional._made.cache_clear()
    p, g = cp.zeros(3), cp.ones(3)
    cp.cuda.Device().synchronize()

    def step(stream):
        with stream:
            na.sgd_update(p, g, lr=1.0)
            stream.synchronize()

    def in_a_thread(stream):
        thread = threading.Thread(target=step, args=[stream])
        thread.start()
        thread.join()

    counts, other = [], cp.cuda.Stream(non_blocking=True)
    for stream in (cp.cuda.Stream.null, other, cp.cuda.Stream.ptds):
        for call in (step, step, in_a_thread):
            call(stream)
            counts.append(len(made))
    assert counts == [1, 1, 1, 2, 2, 2, 3, 3, 4]
    assert (p == -9).all()


def test_an_update_is_refused_during_a_capture(cp):
    """Each replay would repeat its t and lr."""
    p, g, m, v = cp.ones(4), cp.ones(4), cp.zeros(4), cp.zeros(4)
    na.adam_update(p, g, m, v, 1)
    before = [array.copy() for array in (p, m, v)]
    cp.cuda.Device().synchronize()
    with cp.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        try:
            text = r"update: .* at each replay t and lr "
            with pytest.raises(RuntimeError, match=text):
                na.adam_update(p, g, m, v, 2)
            with pytest.raises(RuntimeError, match="a graph is being captured"):
                na.sgd_update(p[:2], g[:2])  # compiled for no such step yet
        finally:
            stream.end_capture()
    for array, old in zip((p, m, v), before, strict=True):
        cp.testing.assert_array_equal(array, old)
