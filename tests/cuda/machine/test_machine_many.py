"""Many problems, and the user's own kernels, as compiled code in the PTX machine."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest
from scipy.optimize import Bounds

import numadam as na
from tests.cuda.machine import machine_kernels
from tests.cuda.many_problems import STARTS, assert_alike, both, own_steps, pair, parabola, rosen

sweep = pytest.mark.sweep


@numba.njit
def pair_of_numbers(x):
    return x[0] * x[0] + x[1] * x[1], (2 * x[0], 2 * x[1])


@sweep
def test_each_problem_has_its_own_stop(machine):
    on_gpu, on_cpu = both(machine, rosen, STARTS, lr=0.02, gtol=1.0, maxiter=300)
    assert len(set(on_cpu.nit)) > 2
    assert_alike(on_gpu, on_cpu, rtol=1e-12)


def test_data_by_index_float32_and_a_shared_schedule(machine):
    targets = np.arange(10, dtype=np.float32).reshape(5, 2)
    options = {"lr": na.schedules.Cosine(0.5, steps=60), "maxiter": 60, "rule": "nadam"}
    starts, args = np.zeros((5, 2), np.float32), (targets, np.float32(0.5))
    assert_alike(*both(machine, parabola, starts, args, **options), rtol=1e-5)


@sweep
@pytest.mark.parametrize("bounds", [Bounds(-0.5, 0.4), Bounds([-1, 0.1], [0.4, 0.3])])
def test_bounds_hold(machine, bounds):
    found = both(machine, rosen, STARTS, lr=0.05, bounds=bounds, maxiter=150, ftol=1e-9)
    assert_alike(*found, rtol=1e-12)


@sweep
def test_returned_gradients_are_tuples(machine):
    """A kernel can make no array; the CPU takes nothing else."""
    options = {"lr": np.geomspace(0.01, 0.3, 5), "jac": True, "maxiter": 40, "xtol": 1e-9}
    on_gpu = na.minimize_many(pair_of_numbers, machine.asarray(STARTS), **options)
    assert_alike(on_gpu, na.minimize_many(pair, STARTS, **options), rtol=1e-9)


def test_an_objective_that_makes_an_array_is_refused(machine):
    with pytest.raises(TypeError, match="fun: does not compile for a GPU, where no array can be"):
        na.minimize_many(pair, machine.asarray(STARTS), jac=True)


def test_a_function_of_numpy_that_numba_lacks_there_is_named(machine):
    @numba.njit
    def decay(x, g):
        g[0] = -np.exp(-x[0])
        return np.exp(-x[0])

    with pytest.raises(TypeError, match=r"Numba knows no numpy\.exp.*functions of math"):
        na.minimize_many(decay, machine.asarray(STARTS))


@sweep
def test_functions_of_math_work_on_both(machine):
    @numba.njit
    def decay(x, g):
        low = math.exp(-x[0]) + math.sqrt(1 + x[1] * x[1]) + abs(x[1])
        g[0] = 1 - math.exp(-x[0])
        g[1] = x[1] / math.sqrt(1 + x[1] * x[1]) + (1 if x[1] > 0 else -1)
        return low + x[0]

    found = both(machine, decay, STARTS, lr=0.05, maxiter=30)
    assert_alike(*found, rtol=1e-12)


@sweep
def test_updates_of_local_arrays_in_a_kernel(machine):
    start = np.random.default_rng(3).standard_normal((5, 4))
    p = machine.asarray(start)
    machine_kernels.run(own_steps, 2, 3, (machine_kernels.view(p), np.int64(10)))
    opt = na.Adam(start, lr=0.1)
    for _ in range(10):
        opt.step(2 * start)
    np.testing.assert_allclose(p, start, rtol=1e-13)
