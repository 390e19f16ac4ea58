"""When a run of minimize stops, in both loops: relative to the first gradient, in two norms."""

from __future__ import annotations

import numba
import numpy as np
import pytest

import numadam as na
from numadam._minimize.stopping import Tolerances
from tests.minimize.objectives import START, python_rosen, rosen, square


@numba.njit
def bowl(x, g, scale):
    """A square around 3, in units of any size."""
    f = 0.0
    for i in range(x.size):
        g[i] = 2 * scale * (x[i] - 3)
        f += scale * (x[i] - 3) ** 2
    return f


def python_bowl(x, scale):
    g = np.zeros_like(x)
    return bowl(x, g, scale), g


def run(form, scale, x0=(0.0, 1.0), **options):
    """One run of the bowl."""
    if form == "compiled":
        return na.minimize(bowl, np.array(x0), (scale,), lr=0.1, **options)
    return na.minimize(python_bowl, np.array(x0), (scale,), jac=True, lr=0.1, **options)


forms = pytest.mark.parametrize("form", ["python", "compiled"])


@forms
def test_a_flat_f_is_no_minimum(form):
    res = run(form, 1e-9)
    assert res.success
    np.testing.assert_allclose(res.x, 3.0, atol=1e-5)
    assert "below eps=1e-08" in res.message


@forms
def test_the_scale_of_f_changes_nothing(form):
    # eps is in units of the gradient: one that is lost in all of them
    one, *others = [run(form, scale, eps=1e-30) for scale in (1.0, 2.0**20, 2.0**-20, 1e6, 1e-6)]
    assert one.success
    assert 100 < one.nit < 1000
    assert {res.nit for res in others} == {one.nit}
    np.testing.assert_array_equal([res.x for res in others[:2]], [one.x] * 2)
    for k in (0, 1):
        assert others[k].message == one.message  # by how much the gradient fell


@forms
def test_a_gtol_that_is_given_is_absolute(form):
    given = run(form, 1.0, gtol=0.5)
    assert given.history["grad_norm"][-1] <= 0.5 < given.history["grad_norm"][:-1].min()
    assert given.message == "The largest component of the projected gradient is at most gtol."
    assert run(form, 1e-9, gtol=1e-6).nit == 0
    both = run(form, 1.0, gtol=1e-9, gtol_rel=0.25)
    assert both.history["grad_norm"][-1] <= 0.25 * 6.0 < both.history["grad_norm"][-2]
    assert "(gtol_rel=0.25)" in both.message
    assert both.nit == run(form, 1.0, gtol_rel=0.25).nit
    for off in ({"gtol": 0}, {"gtol_rel": 0}, {"gtol": 0, "gtol_rel": 0}):
        res = run(form, 1.0, x0=(3.0, 3.0), maxiter=5, **off)
        assert (res.nit, res.status) == (5, 1)


@forms
def test_a_gradient_of_0_stops_at_once(form):
    res = run(form, 1.0, x0=(3.0, 3.0))
    assert (res.nit, res.success) == (0, True)
    assert res.message == "The projected gradient is 0 at the start."


def test_gradients_below_eps_get_a_sentence():
    assert "eps" not in run("python", 1.0).message
    assert "a smaller eps" in run("python", 1e-12, maxiter=3).message
    res = na.minimize(python_bowl, [0.0], (1e-12,), jac=True, rule="sgd", maxiter=3)
    assert "eps" not in res.message  # it has none


def two_norm(x, g, lo=-np.inf, hi=np.inf):
    return np.linalg.norm((x - np.clip(x - g, lo, hi)).ravel().view(float))


@forms
def test_the_2_norm(form):
    fun, jac = (rosen, None) if form == "compiled" else (python_rosen, True)
    seen = []
    options = {"jac": jac, "lr": 0.02, "norm": 2, "bounds": [(-2, 0.5), (-2, 2)]}
    res = na.minimize(fun, START, callback=lambda x: seen.append(x), gtol=0.3, **options)
    norms = [two_norm(x, python_rosen(x)[1], [-2, -2], [0.5, 2]) for x in (START, *seen)]
    np.testing.assert_allclose(res.history["grad_norm"], norms, rtol=1e-13)
    assert norms[-1] <= 0.3 < min(norms[:-1])
    assert res.message == "The 2-norm of the projected gradient is at most gtol."
    seen.clear()
    na.minimize(fun, START, callback=lambda x: seen.append(x), gtol=0, xtol=1e-3, **options)
    path = np.array([START, *seen])
    moved = np.linalg.norm(np.diff(path, axis=0), axis=1)
    limit = 1e-3 * np.maximum(np.linalg.norm(path[1:], axis=1), 1)
    assert moved[-1] <= limit[-1]
    assert (moved[:-1] > limit[:-1]).all()
    options["norm"] = np.inf
    assert na.minimize(fun, START, gtol=0, xtol=1e-3, **options).nit != len(seen)


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1.0, 1e200])
def test_the_2_norm_neither_overflows_nor_underflows(size):
    res = na.minimize(lambda x: (0.0, size * x), np.array([3.0, 4.0]), jac=True, norm=2, maxiter=0)
    assert res.status == 1
    assert res.grad_norm == pytest.approx(5 * size, rel=1e-14)


def test_each_tolerance_switches_its_test_on():
    assert not Tolerances.read(0, 0, 0, 0, 2).any
    assert not Tolerances.read(0, None, None, None, np.inf).any
    for k in range(4):
        given = [None] * 4
        given[0] = given[1] = 0
        given[k] = 1e-300
        found = Tolerances.read(*given, 2)
        assert found.any
        assert (found.gtol, found.gtol_rel, found.ftol, found.xtol)[k] == 1e-300
        assert sum(found.limits) + found.gtol_rel == 1e-300
    default = Tolerances.read(None, None, 0, 0, np.inf)
    assert (default.gtol, default.gtol_rel, default.norm) == (0.0, 1e-6, np.inf)
    for bad in (1, "2", None, True, [2], 2.5, np.nan):
        with pytest.raises(ValueError, match=r"^norm: expected numpy.inf or 2, got "):
            Tolerances.read(0, 0, 0, 0, bad)


def test_which_limit_of_the_gradient_held_is_said():
    both = Tolerances.read(0.5, 0.25, None, None, np.inf)
    largest = "The largest component of the projected gradient is at most gtol."
    assert both.gradient_message(0.5, 2.0) == largest
    assert both.gradient_message(0.25, 2.0) == largest
    assert both._replace(norm=2.0).gradient_message(0.5, 2.0) == largest.replace(
        "largest component", "2-norm"
    )
    of_first = "The gradient is 0.2 of the first (gtol_rel=0.25)."
    assert both.gradient_message(0.6, 3.0) == of_first
    relative = both._replace(gtol=0.0)
    assert relative.gradient_message(0.2, 1.0) == of_first
    assert relative.gradient_message(0.0, 0.0) == "The projected gradient is 0 at the start."


def test_the_norm_may_be_a_number_of_numpys():
    for norm in (np.int64(2), np.float64(2)):
        assert na.minimize(python_rosen, START, jac=True, norm=norm, maxiter=0).state["norm"] == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_2_norm_of_what_is_not_finite(bad):
    res = na.minimize(lambda x: (0.0, np.array([1.0, bad])), np.ones(2), jac=True, norm=2)
    assert (res.nit, res.status) == (0, 3)


def test_the_2_norm_of_nested_and_complex_arrays():
    x0 = {"w": np.ones((2, 3)) * 2, "b": [np.full(2, 1 + 2j), np.zeros(0, complex)]}
    x0["w"] = x0["w"].astype(complex)

    def fun(x):
        f = float(np.sum(abs(x["w"]) ** 2) + np.sum(abs(x["b"][0]) ** 2))
        return f, {"w": 2 * x["w"], "b": [2 * leaf for leaf in x["b"]]}

    res = na.minimize(fun, x0, jac=True, lr=0.05, norm=2, gtol_rel=0.1)
    first = np.sqrt(6 * 16 + 2 * 20)
    assert res.state["first_grad_norm"] == pytest.approx(first, rel=1e-14)
    parts = np.concatenate([2 * res.x["w"].ravel(), 2 * res.x["b"][0]])
    assert res.grad_norm == pytest.approx(np.linalg.norm(parts), rel=1e-14)
    assert res.grad_norm <= 0.1 * first < res.history["grad_norm"][-2]


@forms
def test_the_result_is_the_best_iterate(form):
    fun, jac = (rosen, None) if form == "compiled" else (python_rosen, True)
    seen = [START]
    options = {"jac": jac, "lr": 0.5, "maxiter": 30}
    res = na.minimize(fun, START, callback=lambda x: seen.append(x), **options)
    fs = [python_rosen(x)[0] for x in seen]
    best = int(np.argmin(fs))
    assert 0 < best < 30
    f, g = python_rosen(seen[best])
    np.testing.assert_array_equal(res.x, seen[best])
    np.testing.assert_array_equal(res.jac, g)
    assert (res.fun, res.grad_norm) == (f, abs(g).max())
    np.testing.assert_array_equal(res.x_last, seen[-1])
    assert res.fun_last == fs[-1]
    last = na.minimize(fun, START, track_best=False, **options)
    np.testing.assert_array_equal(last.x, seen[-1])
    np.testing.assert_array_equal(last.jac, python_rosen(seen[-1])[1])
    assert last.fun == last.fun_last == fs[-1]
    res.x[:] = res.jac[:] = np.nan  # its own arrays
    assert np.isfinite(res.state["x"]).all()
    assert np.isfinite(res.x_last).all()


@forms
@pytest.mark.parametrize("off", [0, np.False_])
def test_another_false_is_false(form, off):
    fun, jac = (rosen, None) if form == "compiled" else (python_rosen, True)
    res = na.minimize(fun, START, jac=jac, lr=1.0, maxiter=5, track_best=off)
    np.testing.assert_array_equal(res.x, res.x_last)
    assert res.fun == res.fun_last


def test_a_gradient_array_that_fun_fills_again_is_copied():
    g = np.zeros(2)

    def fun(x):
        g[:] = 0
        return rosen(x, g), g

    res = na.minimize(fun, START, jac=True, lr=0.5, maxiter=30)
    assert res.fun < res.fun_last
    np.testing.assert_array_equal(res.jac, python_rosen(res.x)[1])


@pytest.mark.parametrize("how", ["buffer", "view", "kept"])
def test_the_best_gradient_is_a_copy(how):
    n, kept = 20_000, []
    buffer = np.zeros(n)

    def fun(x):
        g = 2 * (x - 1)
        if how == "kept":
            kept.append(g)
        else:
            buffer[:] = g
            g = buffer if how == "buffer" else buffer[:]
        return float((x - 1) @ (x - 1)), g

    res = na.minimize(fun, np.zeros(n), jac=True, lr=0.6, maxiter=9)
    assert res.fun < res.fun_last
    if how == "kept":
        for one in kept:
            one[:] = np.nan
    buffer[:] = np.nan
    np.testing.assert_array_equal(res.jac, 2 * (res.x - 1))
    np.testing.assert_array_equal(res.state["jac"], res.jac)


def test_the_best_of_nested_arrays():
    def fun(x):
        f, g = square(x["a"], 1.0)
        return f, {"a": g}

    res = na.minimize(fun, {"a": np.zeros(2)}, jac=True, lr=0.6, maxiter=9)
    assert res.fun < res.fun_last
    assert res.fun == square(res.x["a"], 1.0)[0]
    np.testing.assert_array_equal(res.jac["a"], square(res.x["a"], 1.0)[1])
