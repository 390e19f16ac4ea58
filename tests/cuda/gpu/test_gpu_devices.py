"""On two GPUs: arrays of one of them while the other is current."""

from __future__ import annotations

import numba
import numpy as np
import pytest

import numadam as na


@pytest.fixture
def second(cp):
    """The second GPU; the first one stays current."""
    if cp.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("the machine has one GPU")
    yield cp.cuda.Device(1)
    assert cp.cuda.runtime.getDevice() == 0


def test_a_step_takes_place_where_its_arrays_are(cp, second):
    with second:
        x, g = cp.ones(1_000, np.float32), cp.ones(1_000, np.float32)
    opt = na.Adam(x, lr=0.1, clip_norm=1.0)
    for _ in range(2):
        opt.step(g)
    assert opt.t == 2
    assert opt.grad_norm == pytest.approx(1_000**0.5, rel=1e-15)
    np.testing.assert_allclose(cp.asnumpy(x), 0.8, rtol=1e-5)


def test_many_arrays_whose_steps_the_gpu_counts(cp, second):
    with second:
        x, g = ({"a": cp.ones(1_000), "b": cp.ones(10)} for _ in range(2))
    opt = na.Adam(x, lr=0.1, amsgrad=True, capturable=True)
    for _ in range(2):
        opt.step(g)
    assert opt.t == 2
    np.testing.assert_allclose(cp.asnumpy(x["b"]), 0.8)


def test_arrays_of_two_gpus_are_refused(cp, second):
    with second:
        g = cp.ones(3)
    x = cp.ones(3)
    with pytest.raises(ValueError, match="grads: is on GPU 1, but params is on GPU 0"):
        na.SGD(x).step(g)
    assert bool((x == 1).all())


@numba.njit
def square(x, g):
    f = 0.0
    for i in range(x.size):
        f += x[i] * x[i]
        g[i] += 2 * x[i]
    return f


def test_many_problems(cp, second):
    with second:
        result = na.minimize_many(square, cp.ones((5, 3)), lr=0.1, maxiter=50)
    assert result.x.device.id == 1
    assert float(cp.asnumpy(result.fun).max()) < 0.1
