"""On a GPU: least_squares_many, one problem a thread, with the results of the CPU."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest

import numadam as na
from tests.least_squares.models import decays

FITS = decays(40)
LOW, HIGH = [0.0, 0.8, -1.0], [1.5, 9.0, 9.0]
HELD = np.arange(120).reshape(40, 3) % 7 == 0
SIGMA = np.linspace(0.01, 0.03, 30)
#: By name x0 and options.
RUNS = {
    "plain": (FITS.x0, {}),
    "bounds": (FITS.x0, {"bounds": (LOW, HIGH)}),
    "fixed in some": (FITS.x0, {"fixed": HELD}),
    "absolute": (FITS.x0, {"absolute_sigma": True}),
    "sigma and residuals": (FITS.x0, {"sigma": SIGMA, "residuals": True}),
    "points": (FITS.x0, {"points": np.arange(40) % 28 + 3}),
}


@numba.njit
def decay(x, r, i, t, y):
    for k in range(t.size):
        r[k] = x[0] * math.exp(-x[1] * t[k]) + x[2] - y[i, k]


@numba.njit
def decay_with_j(x, r, J, t, y, row):
    for k in range(t.size):
        e = math.exp(-x[1] * t[k])
        r[k] = x[0] * e + x[2] - y[row, k]
        J[k, 0], J[k, 1], J[k, 2] = e, -x[0] * t[k] * e, 1.0


@numba.njit
def rate(x, r, i, t, y, lost):
    if i == lost and x[0] != 1.0:
        raise ValueError("lost")
    for k in range(t.size):
        r[k] = math.exp(-x[0] * t[k]) - y[i, k]


def both(cp, fun, x0, args, **options):
    """The same fits on GPU and CPU; they are on the GPU where x is."""
    on_gpu, on_cpu = (
        na.least_squares_many(fun, xp.asarray(x0), args, **options) for xp in (cp, np)
    )
    assert on_gpu.keys() == on_cpu.keys()
    for name in on_gpu.keys() - {"message"}:
        array = on_gpu[name]
        if array.dtype.kind == "f":
            assert type(array) is cp.ndarray
            on_gpu[name] = array.get()
        assert on_gpu[name].dtype == on_cpu[name].dtype
        assert on_gpu[name].shape == on_cpu[name].shape
    return on_gpu, on_cpu


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("max_nfev", [1, 3, 6, None])
def test_every_iteration_is_as_on_the_cpu(cp, name, max_nfev):
    x0, options = RUNS[name]
    args = FITS.t, FITS.y
    on_gpu, on_cpu = both(cp, decay, x0, args, m=30, max_nfev=max_nfev, **options)
    for entry in ("status", "success", "nfev", "njev"):
        np.testing.assert_array_equal(on_gpu[entry], on_cpu[entry])
    assert on_gpu.message == on_cpu.message
    near = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(on_gpu.x, on_cpu.x, **near)
    np.testing.assert_allclose(on_gpu.cost, on_cpu.cost, **near)
    np.testing.assert_allclose(on_gpu.optimality, on_cpu.optimality, rtol=1e-9, atol=1e-11)
    for entry in ("cov", "stderr"):
        np.testing.assert_allclose(on_gpu[entry], on_cpu[entry], rtol=1e-9)
    for entry in on_gpu.keys() & {"residuals", "jacobian", "agreed"}:
        np.testing.assert_allclose(on_gpu[entry], on_cpu[entry], **near)


def test_several_starts(cp):
    """Which of equal starts has the lowest cost is a matter of rounding."""
    x0 = np.stack([FITS.x0, FITS.x0 + 0.5])
    on_gpu, on_cpu = both(cp, decay, x0, (FITS.t, FITS.y), m=30)
    for entry in ("success", "nfev", "njev", "agreed"):
        np.testing.assert_array_equal(on_gpu[entry], on_cpu[entry])
    assert (abs(on_gpu.x - on_cpu.x) < 1e-6 * on_cpu.stderr).all()
    np.testing.assert_allclose(on_gpu.cost, on_cpu.cost, rtol=1e-12)


def test_float32_and_a_hand_written_j_of_shared_data(cp):
    wide = na.least_squares_many(decay, FITS.x0, (FITS.t, FITS.y), m=30)
    args = FITS.t.astype("f4"), FITS.y.astype("f4"), 7
    x0 = cp.asarray(FITS.x0[:5].astype("f4"))
    result = na.least_squares_many(decay_with_j, x0, args, m=30, jac=True)
    assert result.success.all()
    assert result.x.dtype == np.float32
    assert (abs(result.x.get() - wide.x[7]) < 0.01 * wide.stderr[7]).all()
    np.testing.assert_allclose(result.stderr.get(), wide.stderr[[7] * 5], rtol=1e-3)


def test_differences_and_an_exception(cp, monkeypatch):
    """An exception on a GPU says nothing; the result has what was finished before."""
    monkeypatch.setattr("numadam._least_squares.device._MOST_PROBLEMS", 8)
    t, x0 = np.linspace(0, 3, 20), np.ones((30, 1))
    y = np.exp(-np.linspace(0.5, 3, 30)[:, None] * t)
    y += 0.01 * np.random.default_rng(0).normal(size=y.shape)
    how = {"m": 20, "jac": "differences"}
    on_gpu, on_cpu = both(cp, rate, x0, (t, y, -1), **how)
    np.testing.assert_array_equal(on_gpu.status, on_cpu.status)
    assert (abs(on_gpu.x - on_cpu.x) < 1e-6 * on_cpu.stderr).all()
    np.testing.assert_allclose(on_gpu.stderr, on_cpu.stderr, rtol=1e-5)
    with pytest.raises(RuntimeError, match=r"fun: raised .* in problem 19.* on the CPU") as caught:
        na.least_squares_many(rate, cp.asarray(x0), (t, y, 19), **how)
    result = caught.value.numadam_result
    assert result.success[:16].all()
    assert (result.status[[19, *range(24, 30)]] == -1).all()
    with pytest.raises(RuntimeError, match=r"fun: raised .* in problem 0"):
        na.least_squares_many(rate, cp.full((3, 1), 2.0), (t, y, 0), **how)


def test_an_interrupt_comes_between_launches(cp, monkeypatch):
    from numadam._least_squares import device

    monkeypatch.setattr(device, "_MOST_PROBLEMS", 16)
    whole, advance = device.DeviceFits, device.DeviceFits.advance

    def advance_once(fits):
        if fits.done:
            raise KeyboardInterrupt
        advance(fits)

    monkeypatch.setattr(whole, "advance", advance_once)
    with pytest.raises(KeyboardInterrupt) as caught:
        na.least_squares_many(decay, cp.asarray(FITS.x0), (FITS.t, FITS.y), m=30)
    result = caught.value.numadam_result
    assert result.success[:16].all()
    assert (result.status[16:] == -1).all()
    assert "24 of 40: interrupted." in result.message
    cp.testing.assert_array_equal(result.x[16:], FITS.x0[16:])


def test_what_does_not_fit_is_refused(cp):
    args, x0 = (FITS.t, FITS.y), cp.asarray(FITS.x0)
    with pytest.raises(ValueError, match=r"m: fun wrote 30 residuals, m is 29: r\[0\] to r\[29\]"):
        na.least_squares_many(decay, x0, args, m=29)
    with pytest.raises(ValueError, match="m: fun wrote 30 residuals, m is 31, in the first 40"):
        na.least_squares_many(decay, x0, args, m=31)
    with pytest.raises(TypeError, match="fun: it has no exact derivative, because of"):
        na.least_squares_many(numba.njit(lambda x, r: r.fill(x[0])), x0, m=30)
    with pytest.raises(TypeError, match=r"fun: does not compile for a GPU as .*no array can be"):
        na.least_squares_many(numba.njit(no_array), x0, m=30, jac="differences")
    with pytest.raises(TypeError, match="fun: expected a function compiled by Numba"):
        na.least_squares_many(decay.py_func, x0, args, m=30)


def no_array(x, r):
    r[:] = np.ones(30) * x[0]
