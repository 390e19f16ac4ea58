"""minimize_many: the gradient test of each problem, relative and absolute, in both norms."""

from __future__ import annotations

import numba
import numpy as np
import pytest

import numadam as na
from tests.minimize.compared import assert_alone, assert_same_problems

RNG = np.random.default_rng(5)
STARTS = RNG.uniform(0.2, 1.0, (40, 3))
#: powers of 2 change no digit
SCALES = 2.0 ** np.arange(-60, 60, 3)


@numba.njit
def bowl(x, g, i, scale):
    f = 0.0
    for k in range(x.size):
        g[k] = scale[i] * (k + 1) * x[k]
        f += scale[i] * (k + 1) * x[k] * x[k] / 2
    return f


@numba.njit
def complex_bowl(x, g, i, scale):
    f = 0.0
    for k in range(x.size):
        g[k] = scale[i] * (k + 1) * x[k]
        f += scale[i] * (k + 1) * (x[k].real * x[k].real + x[k].imag * x[k].imag) / 2
    return f


class Rows:
    """The same in Python, which records the gradients of each row."""

    def __init__(self, scale):
        self.scale, self.seen = scale, [[] for _ in scale]

    def __call__(self, x, rows):
        f, g = np.zeros(len(x)), np.zeros_like(x)
        for j, i in enumerate(rows):
            f[j] = bowl(x[j], g[j], i, self.scale)
            self.seen[i].append(g[j].copy())
        return f, g


def test_the_default_stop_does_not_depend_on_the_scale_of_f():
    res = na.minimize_many(bowl, np.tile(STARTS[0], (40, 1)), (SCALES,), lr=0.02, eps=0.0)
    assert res.success.all()
    assert len(set(res.nit.tolist())) == 1
    assert 100 < res.nit[0] < 10_000
    for k in range(40):
        np.testing.assert_array_equal(res.x[k], res.x[0])


STOPS = [
    ({}, 1e-6, 0.0, np.inf),
    ({"gtol_rel": 1e-3, "gtol": 1e-2}, 1e-3, 1e-2, np.inf),
    ({"gtol_rel": 1e-3, "norm": 2}, 1e-3, 0.0, 2),
    ({"gtol": 1e-2, "norm": 2}, 0.0, 1e-2, 2),
]


@pytest.mark.parametrize(("options", "relative", "absolute", "norm"), STOPS, ids=range(len(STOPS)))
def test_each_problem_stops_at_its_own_gradient(options, relative, absolute, norm):
    scale = np.geomspace(1e-3, 1e3, 40)
    rows = Rows(scale)
    options = {"lr": 0.02, "eps": 1e-30, **options}
    res = na.minimize_many(rows, STARTS, jac=True, **options)
    compiled = na.minimize_many(bowl, STARTS, (scale,), **options)
    assert_same_problems(res, compiled)
    assert res.success.all()
    assert len(set(res.nit.tolist())) > 3
    for k, seen in enumerate(rows.seen):
        sizes = np.linalg.norm(seen, norm, axis=1)
        limit = max(absolute, relative * sizes[0])
        assert len(seen) == res.nit[k] + 1
        assert sizes[-1] <= limit * (1 + 1e-14)
        assert (sizes[:-1] > limit * (1 - 1e-14)).all()


@pytest.mark.parametrize(
    ("x0", "fun"), [(STARTS, bowl), (STARTS[:5], bowl), (STARTS + 1j * STARTS[::-1], complex_bowl)]
)
def test_the_2_norm_has_the_bits_of_one_problem(x0, fun):
    scale = np.geomspace(1e-150, 1e150, 40)
    options = {"lr": 0.02, "eps": 0.0, "norm": 2, "xtol": 1e-4, "gtol_rel": 1e-2}
    res = na.minimize_many(fun, x0, (scale,), **options)
    assert res.success.all()
    for k in range(0, len(x0), 7):

        def alone(x, g, k=k):
            return fun(x, g, k, scale)

        one = na.minimize(numba.njit(alone), x0[k], **options)
        assert_alone(res, k, one)
        size = np.sqrt(np.sum(abs(res.jac[k] / scale[k]) ** 2)) * scale[k]
        np.testing.assert_allclose(res.grad_norm[k], size, rtol=1e-14)
    for steep in (1e-200, 1e200):  # squares underflow and overflow
        at_start = na.minimize_many(fun, x0, (np.full(40, steep),), maxiter=0, **options)
        whole = np.sqrt(np.sum(abs(at_start.jac / steep) ** 2, axis=1)) * steep
        np.testing.assert_allclose(at_start.grad_norm, whole, rtol=1e-14)


def test_a_first_gradient_of_zero_is_a_success_and_gtol_0_switches_off():
    x0 = np.zeros((30, 3))
    x0[3] = 1.0
    res = na.minimize_many(bowl, x0, (np.ones(30),), maxiter=7)
    assert (res.nit[np.arange(30) != 3] == 0).all()
    assert res.success.sum() == 29
    res = na.minimize_many(bowl, x0, (np.ones(30),), maxiter=7, gtol=0)
    assert (res.nit == 7).all()
    assert not res.success.any()


def test_the_message_says_how_the_gradients_fell():
    x0 = np.tile(STARTS[0], (30, 1))
    x0[:4] = 0.0
    scale = np.ones(30)
    scale[4:9] = 1e-5
    res = na.minimize_many(bowl, x0, (scale,), gtol=1e-4, gtol_rel=1e-2, lr=0.02)
    fell = res.grad_norm[9:].max() / (np.arange(1, 4) * STARTS[0]).max()
    assert (
        "9 of 30: The largest component of the projected gradient is at most gtol." in res.message
    )
    assert f"21 of 30: The gradient is {fell:.2g} of the first (gtol_rel=0.01)." in res.message
    res = na.minimize_many(bowl, x0, (scale * 1e-6,), maxiter=5, eps=1e-8)
    assert "4 of 30: The projected gradient is 0 at the start." in res.message
    assert "26 of 30: The number of iterations" in res.message
    assert "5 of 30: The gradient is below eps=1e-08, where steps are shorter" in res.message


def test_problems_without_a_number_and_without_elements():
    lost = na.minimize_many(
        lambda x: np.full(len(x), np.nan), np.zeros((2, 2)), jac=lambda x: np.ones_like(x)
    )
    assert "fun: none is finite" in repr(lost)
    assert not lost.success.any()
    empty = na.minimize_many(lambda x: (x.sum(axis=1), x), np.zeros((3, 0)), jac=True, norm=2)
    assert empty.success.all()
    assert empty.grad_norm.tolist() == [0, 0, 0]
