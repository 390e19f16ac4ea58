"""The functional API on CuPy arrays, in Numba's simulator."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from tests.cuda.cuda_cases import gradients


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functional_updates_match_the_classes(cupy, dtype):
    grads = [cupy.asarray(g) for g in gradients((4, 3), dtype, 3)]

    def zeros():
        return cupy.zeros((4, 3), dtype)

    p, m, v, vmax = zeros(), zeros(), zeros(), zeros()
    twin = zeros()
    opt = na.Adam(twin, amsgrad=True)
    for t, g in enumerate(grads, 1):
        na.adam_update(p, g, m, v, t, vmax=vmax)
        opt.step(g)
    np.testing.assert_array_equal(p, twin)
    np.testing.assert_array_equal(vmax, opt.state["vmax"])
    p, v, twin = zeros(), zeros(), zeros()
    na.rmsprop_update(p, grads[0], v)
    na.RMSprop(twin).step(grads[0])
    np.testing.assert_array_equal(p, twin)
    p, out = zeros(), zeros()
    na.sgd_update(p, grads[0], lr=0.5, out=out)
    assert (p == 0).all()
    np.testing.assert_array_equal(out, -0.5 * grads[0])


def test_functional_update_names_its_arguments(cupy):
    p, g, m = (cupy.zeros(3) for _ in range(3))
    with pytest.raises(TypeError, match="v: expected a CuPy array, got None"):
        na.adam_update(p, g, m, None, 1)
    with pytest.raises(ValueError, match=r"g: expected shape \(3,\) like p, got \(4,\)"):
        na.adam_update(p, cupy.zeros(4), m, cupy.zeros(3), 1)
    with pytest.raises(ValueError, match="shares memory"):
        na.adam_update(p, g, m, m, 1)
    assert not p.any()


@pytest.mark.parametrize("options", [{"clip_norm": 0.5}, {"bounds": (0, 1.2)}, {"like": "torch"}])
def test_functional_updates_take_the_shared_options(cupy, options):
    g = cupy.asarray(np.array([3.0, -4.0]))
    p, m, v = cupy.ones(2), cupy.zeros(2), cupy.zeros(2)
    twin = cupy.ones(2)
    opt = na.Adam(twin, weight_decay=0.1, **options)
    for t in (1, 2, 3):
        na.adam_update(p, g, m, v, t, weight_decay=0.1, **options)
        opt.step(g)
    np.testing.assert_array_equal(p, twin)


def test_functional_updates_without_the_parameters(cupy):
    g, out, expected = cupy.asarray(np.array([3.0, -4.0])), cupy.zeros(2), cupy.zeros(2)
    m, v, other_m, other_v = (cupy.zeros(2) for _ in range(4))
    for t in (1, 2):
        na.adam_update(None, g, m, v, t, out=out)
        na.adam_update(cupy.ones(2), g, other_m, other_v, t, out=expected)
        np.testing.assert_array_equal(out, expected)
    with pytest.raises(ValueError, match=r"^p: weight_decay=0\.1 needs the parameters"):
        na.adam_update(None, g, m, v, 3, out=out, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"^m: expected shape \(2,\) like g, got"):
        na.adam_update(None, g, cupy.zeros(3), v, 3, out=out)


def test_functional_updates_of_complex_and_short_numbers(cupy):
    p, g = cupy.zeros(3, np.complex64), cupy.asarray(np.array([1, 1j, 3 - 4j], np.complex64))
    m, v = cupy.zeros(3, np.complex64), cupy.zeros(3, np.float32)
    na.adam_update(p, g, m, v, 1, lr=0.1, like="optax")
    np.testing.assert_allclose(p, -0.1 * g / abs(g), rtol=1e-5)
    half = cupy.ones(3, np.float16)
    na.sgd_update(half, cupy.ones(3, np.float16), lr=0.25)
    np.testing.assert_array_equal(half, 0.75)


def test_functional_updates_of_running_products(cupy):
    p, m, v, twin = cupy.ones(2), cupy.zeros(2), cupy.zeros(2), cupy.ones(2)
    opt = na.NAdam(twin)
    for t in (1, 2, 3):
        na.nadam_update(p, cupy.ones(2), m, v, t)
        opt.step(cupy.ones(2))
    np.testing.assert_array_equal(p, twin)


def test_numbers_of_a_step_are_apart_where_streams_are(cupy, monkeypatch):
    """All threads call their own default stream by one number."""
    import threading

    from numadam._cuda import functional as cuda_update

    made, make = [], cuda_update.make_parts

    def noted(*given, **options):
        made.append(given)
        return make(*given, **options)

    monkeypatch.setattr(cuda_update, "make_parts", noted)
    cuda_update._parts.cache_clear()

    def step():
        na.sgd_update(cupy.zeros(3), cupy.ones(3))

    def in_a_thread():
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()

    step()
    in_a_thread()
    assert len(made) == 1
    monkeypatch.setattr(cupy.stream, "ptr", 2, raising=False)
    step()
    step()
    assert len(made) == 2
    in_a_thread()
    assert len(made) == 3


def test_a_functional_update_is_refused_during_a_capture(cupy, monkeypatch):
    """Each replay would repeat its t and lr."""
    p, g, m, v = cupy.ones(4), cupy.ones(4), cupy.zeros(4), cupy.zeros(4)
    na.adam_update(p, g, m, v, 1)
    before = [np.array(a) for a in (p, m, v)]
    with monkeypatch.context() as patch:
        patch.setattr(cupy.stream, "capturing", True)
        with pytest.raises(
            RuntimeError, match=r"update: .* at each replay t and lr .* capturable=True"
        ):
            na.adam_update(p, g, m, v, 2)
        with pytest.raises(RuntimeError, match="a graph is being captured"):
            na.sgd_update(p[:2], g[:2])  # compiled for no such step yet
    for array, was in zip((p, m, v), before, strict=True):
        np.testing.assert_array_equal(array, was)
