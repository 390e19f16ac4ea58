"""Many problems on a GPU, in the simulator: one a thread, as on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import Bounds

import numadam as na
from tests.cuda.many_problems import STARTS, assert_alike, both, pair, parabola, rosen


def test_each_problem_has_its_own_stop(cupy):
    on_gpu, on_cpu = both(cupy, rosen, STARTS, lr=0.02, gtol=1.0, maxiter=300)
    assert len(set(on_cpu.nit)) > 2
    assert type(on_gpu.x) is cupy.ndarray
    assert_alike(on_gpu, on_cpu, rtol=1e-12)


def test_relative_stops_in_the_2_norm(cupy):
    options = {"gtol_rel": 1e-2, "norm": 2, "xtol": 1e-9, "lr": 0.02, "maxiter": 300}
    on_gpu, on_cpu = both(cupy, rosen, STARTS * np.arange(1, 6)[:, None], **options)
    assert len(set(on_cpu.nit)) > 2
    assert_alike(on_gpu, on_cpu, rtol=1e-12)
    assert on_gpu.message == on_cpu.message


def test_data_by_index_float32_and_a_shared_schedule(cupy):
    targets = np.arange(10, dtype=np.float32).reshape(5, 2)
    options = {"lr": na.schedules.Cosine(0.5, steps=60), "maxiter": 60, "rule": "nadam"}
    args = (targets, np.float32(0.5))
    on_gpu, on_cpu = both(cupy, parabola, np.zeros((5, 2), np.float32), args, **options)
    assert on_gpu.x.dtype == np.float32
    assert_alike(on_gpu, on_cpu, rtol=1e-5)


@pytest.mark.parametrize("bounds", [Bounds(-0.5, 0.4), Bounds([-1, 0.1], [0.4, 0.3])])
def test_bounds_hold(cupy, bounds):
    on_gpu, on_cpu = both(cupy, rosen, STARTS, lr=0.05, bounds=bounds, maxiter=150, ftol=1e-9)
    assert_alike(on_gpu, on_cpu, rtol=1e-12)
    assert (on_gpu.x <= np.broadcast_to(bounds.ub, (5, 2))).all()


def test_lr_of_each_problem_and_returned_gradients(cupy):
    options = {"lr": np.geomspace(0.01, 0.3, 5), "jac": True, "maxiter": 40, "xtol": 1e-9}
    on_gpu, on_cpu = both(cupy, pair, STARTS, **options)
    assert_alike(on_gpu, on_cpu, rtol=1e-9)


def test_maxiter_0_only_looks(cupy):
    on_gpu = na.minimize_many(rosen, cupy.asarray(STARTS), maxiter=0)
    np.testing.assert_array_equal(on_gpu.nit, 0)
    np.testing.assert_array_equal(on_gpu.status, 1)
    np.testing.assert_array_equal(np.asarray(on_gpu.x), STARTS)


def test_a_norm_over_problems_is_refused(cupy):
    with pytest.raises(ValueError, match="clip_norm: not offered"):
        na.minimize_many(rosen, cupy.asarray(STARTS), clip_norm=1.0)
