"""A blurred photograph, and `minimize` with bounds finds what it shows: 512 x 512 unknowns."""

from typing import NamedTuple

import numpy as np
import pytest
import pywt
from scipy import fft

import numadam as na
from numadam.schedules import Cosine

STEPS = 200
LR = Cosine(0.05, steps=STEPS)
NOISE = 3e-4


class Photograph(NamedTuple):
    """The object, its image through the lens, and the lens as factors of its Fourier series."""

    truth: np.ndarray
    seen: np.ndarray
    lens: np.ndarray

    def misfit(self, x):
        """Half the sum of squares, and its gradient."""
        off = fft.irfft2(self.lens * fft.rfft2(x), x.shape) - self.seen
        return 0.5 * np.vdot(off, off), fft.irfft2(self.lens * fft.rfft2(off), x.shape)

    def claimed(self, x):
        """The misfit, of an x that is never negative."""
        assert x.min() >= 0
        assert x.dtype == self.seen.dtype
        return self.misfit(x)

    def distance(self, x):
        return np.linalg.norm(x - self.truth)


@pytest.fixture(scope="module", params=["float32", "float64"])
def photograph(request):
    truth = pywt.data.camera() / 255.0
    n = len(truth)
    away = np.minimum(np.arange(n), n - np.arange(n))
    spread = np.exp(-np.hypot(away[:, None], away) / 1.5)  # symmetric: its factors are real
    lens = fft.rfft2(spread / spread.sum()).real
    noise = NOISE * np.random.default_rng(0).standard_normal(truth.shape)
    seen = fft.irfft2(lens * fft.rfft2(truth), truth.shape) + noise
    return Photograph(truth, seen.astype(request.param), lens.astype(request.param))


@pytest.fixture(scope="module")
def found(photograph):
    return na.minimize(
        photograph.claimed, photograph.seen, jac=True, bounds=(0, None), lr=LR, maxiter=STEPS
    )


def test_the_gradient_is_right(photograph):
    if photograph.seen.dtype == np.float32:
        pytest.skip("differences of float32 say little")
    rng = np.random.default_rng(1)
    x, d = rng.random(photograph.seen.shape), 1e-3 * rng.standard_normal(photograph.seen.shape)
    (above, _), (below, _) = photograph.misfit(x + d), photograph.misfit(x - d)
    slope = np.vdot(photograph.misfit(x)[1], 2 * d)
    assert above - below == pytest.approx(slope, rel=1e-9)  # a quadratic: no error but rounding


def test_the_photograph_gets_sharp(photograph, found):
    at_start = photograph.misfit(photograph.seen)[0]
    assert found.fun < at_start / 2_000
    assert found.fun < 1.5 * 0.5 * NOISE**2 * found.x.size  # little more than the noise
    assert photograph.distance(found.x) < 0.25 * photograph.distance(photograph.seen)
    assert (found.status, found.nit, found.nfev) == (1, STEPS, STEPS + 1)


def test_bounds_hold_where_they_matter(photograph, found):
    assert found.x.min() == 0.0
    free = na.minimize(photograph.misfit, photograph.seen, jac=True, lr=LR, maxiter=50)
    assert free.x.min() < -0.01


def test_the_result_is_of_one_x(photograph, found):
    f, g = photograph.misfit(found.x)
    assert found.x.dtype == found.jac.dtype == photograph.seen.dtype
    assert found.fun == f
    np.testing.assert_array_equal(found.jac, g)
    assert found.grad_norm == np.abs(np.minimum(g, found.x)).max()
    assert found.fun == found.history["fun"].min()
    assert photograph.misfit(found.x_last)[0] == found.fun_last


def test_it_goes_on_as_if_it_had_never_stopped(photograph, found):
    given = {"jac": True, "bounds": (0, None), "lr": LR}
    half = na.minimize(photograph.misfit, photograph.seen, maxiter=STEPS // 2, **given)
    rest = na.minimize(photograph.misfit, half.x, maxiter=STEPS // 2, state=half.state, **given)
    np.testing.assert_array_equal(rest.x, found.x)
    np.testing.assert_array_equal(rest.x_last, found.x_last)
    assert (rest.fun, rest.fun_last, rest.nit) == (found.fun, found.fun_last, found.nit)
