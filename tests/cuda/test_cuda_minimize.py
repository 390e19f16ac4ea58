"""minimize on CuPy arrays, in the simulator: the numbers of the CPU, and few looks."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na

TARGET = np.array([1.0, -2.0, 3.0])


def square(x):
    """F as an array of its library: it is read only where the loop looks."""
    d = x - TARGET.astype(x.dtype)
    return np.sum(abs(d) ** 2).reshape(()), 2 * d


def both(cupy, x0, fun=square, **options):
    def on_gpu(x):
        assert type(x) is cupy.ndarray
        f, g = fun(np.asarray(x))
        return cupy.asarray(f), cupy.asarray(g)

    return (
        na.minimize(on_gpu, cupy.asarray(x0), jac=True, **options),
        na.minimize(fun, x0, jac=True, **options),
    )


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.1},
        {"lr": 0.1, "bounds": (-1, 2)},
        {"lr": 0.1, "bounds": [(0, 1), (None, -3), (2, 9)], "gtol": 0, "ftol": 1e-9},
        {"lr": na.schedules.Cosine(0.5, steps=80), "gtol": 0, "xtol": 1e-3, "maxiter": 80},
        {"lr": 0.1, "bounds": (-1, 2), "gtol_rel": 1e-2, "xtol": 1e-9, "norm": 2},
    ],
    ids=range(5),
)
def test_as_on_the_cpu(cupy, options):
    on_gpu, on_cpu = both(cupy, np.zeros(3), check_every=10, **options)
    assert type(on_gpu.x) is type(on_gpu.x_last) is cupy.ndarray
    assert (on_gpu.nit, on_gpu.status) == (on_cpu.nit, on_cpu.status)
    np.testing.assert_allclose(np.asarray(on_gpu.x), on_cpu.x, rtol=1e-12, atol=1e-12)
    assert on_gpu.fun == pytest.approx(on_cpu.fun, rel=1e-9, abs=1e-15)
    assert isinstance(on_gpu.fun, float)


def test_it_looks_every_20_iterations(cupy):
    on_gpu, _ = both(cupy, np.zeros(3), lr=0.1, maxiter=50, gtol=0)
    np.testing.assert_array_equal(on_gpu.history["nit"], [0, 20, 40, 50])


def test_complex_and_float32(cupy):
    for x0 in (np.zeros(3, np.complex128), np.zeros(3, np.float32)):
        on_gpu, on_cpu = both(cupy, x0, lr=0.1, maxiter=30)
        assert on_gpu.x.dtype == x0.dtype
        np.testing.assert_allclose(np.asarray(on_gpu.x), on_cpu.x, rtol=1e-5, atol=1e-6)


def test_a_run_goes_on(cupy):
    options = {"lr": 0.1, "gtol": 0}
    half, _ = both(cupy, np.zeros(3), maxiter=10, **options)
    whole, _ = both(cupy, np.zeros(3), maxiter=25, **options)

    def fun(x):
        f, g = square(np.asarray(x))
        return cupy.asarray(f), cupy.asarray(g)

    rest = na.minimize(fun, half.x, jac=True, maxiter=15, state=half.state, **options)
    for name in ("x", "x_last", "jac"):
        np.testing.assert_array_equal(np.asarray(rest[name]), np.asarray(whole[name]))
    assert rest.nit == 25


def test_what_does_not_fit_is_refused(cupy):
    import numba

    x0 = cupy.zeros(2)
    with pytest.raises(TypeError, match="finite differences are formed on NumPy"):
        na.minimize(lambda x: 0.0, x0)
    with pytest.raises(TypeError, match="compiled fun takes one NumPy array"):
        na.minimize(numba.njit(lambda x, g: 0.0), x0)
    with pytest.raises(TypeError, match="expected a CuPy array"):
        na.minimize(lambda x: (0.0, np.zeros(2)), x0, jac=True)


def test_rows_on_the_device(cupy):
    def fun(x):
        return cupy.asarray(np.sum((x - 1) ** 2, axis=1)), cupy.asarray(2 * (x - 1))

    starts = np.arange(6.0).reshape(3, 2)
    on_gpu = na.minimize_many(fun, cupy.asarray(starts), jac=True, lr=0.1, check_every=5)
    on_cpu = na.minimize_many(
        lambda x: (np.sum((x - 1) ** 2, axis=1), 2 * (x - 1)), starts, jac=True, lr=0.1,
        check_every=5,
    )  # fmt: skip
    np.testing.assert_array_equal(on_gpu.nit, on_cpu.nit)
    np.testing.assert_allclose(np.asarray(on_gpu.x), on_cpu.x, rtol=1e-12)


def test_only_rows_that_run_are_evaluated_on_the_device(cupy):
    scale, seen = np.array([0.1, 1.0, 10.0]), []

    def fun(x, rows):
        assert type(x) is cupy.ndarray
        assert rows.dtype == np.int64
        seen.append(len(rows))
        a, x = scale[np.asarray(rows)], np.asarray(x)
        return cupy.asarray(a * np.sum(x * x, axis=1)), cupy.asarray(2 * a[:, None] * x)

    def on_host(x, rows):
        return scale[rows] * np.sum(x * x, axis=1), 2 * scale[rows, None] * x

    options = {"jac": True, "lr": 0.1, "check_every": 5, "gtol": 1e-2, "norm": 2}
    on_gpu = na.minimize_many(fun, cupy.ones((3, 2)), **options)
    on_cpu = na.minimize_many(on_host, np.ones((3, 2)), **options)
    assert on_gpu.nfev == on_cpu.nfev == sum(seen) == (on_cpu.nit + 1).sum()
    assert set(seen) > {1, 3}
    for name in ("x", "fun", "jac", "grad_norm", "x_last", "fun_last"):
        np.testing.assert_allclose(np.asarray(on_gpu[name]), on_cpu[name], rtol=1e-12)


@pytest.mark.parametrize("check_every", [1, 20])
def test_a_history_of_cupy_arrays(cupy, check_every):
    gpu, cpu = na.History(), na.History(check_every)

    def on_gpu(x):
        f, g = square(np.asarray(x))
        return cupy.asarray(f), cupy.asarray(g)

    options = {"jac": True, "lr": 0.1, "maxiter": 40, "gtol": 0}
    start = cupy.asarray(np.zeros(3))
    na.minimize(on_gpu, start, callback=gpu, check_every=check_every, **options)
    na.minimize(square, np.zeros(3), callback=cpu, **options)
    for name in ("t", "f", "grad_norm", "param_norm", "lr"):
        np.testing.assert_allclose(gpu[name], cpu[name], rtol=1e-9, err_msg=name)
    unseen = np.isnan(gpu["step_norm"])
    assert unseen.all() if check_every > 1 else unseen.sum() == 1  # the iterate before was not seen
