"""When a run of minimize stops, in both loops, in two norms, with masks; and its best iterate.

And known minima that it reaches: functions of textbooks. Fits: tests/least_squares.
"""

from __future__ import annotations

import numba
import numpy as np
import pytest

import numadam as na
from numadam._minimize import stop_tests
from numadam.schedules import Cosine
from tests.minimize.objectives import START, forms, python_rosen, run, square


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


def run_bowl(form, scale, x0=(0.0, 1.0), **options):
    """One run of the bowl."""
    fun, jac = (bowl, None) if form == "compiled" else (python_bowl, True)
    return na.minimize(fun, np.array(x0), (scale,), jac=jac, lr=0.1, **options)


of_bowl = pytest.mark.parametrize("form", ["python", "compiled"])


@of_bowl
def test_a_flat_f_is_no_minimum(form):
    res = run_bowl(form, 1e-9)
    assert res.success
    np.testing.assert_allclose(res.x, 3.0, atol=1e-5)
    assert "below eps=1e-08" in res.message


@of_bowl
def test_the_scale_of_f_changes_nothing(form):
    # eps is in units of the gradient: one that is lost in all of them
    one, *others = [
        run_bowl(form, scale, eps=1e-30) for scale in (1.0, 2.0**20, 2.0**-20, 1e6, 1e-6)
    ]
    assert one.success
    assert 100 < one.nit < 1000
    assert {res.nit for res in others} == {one.nit}
    np.testing.assert_array_equal([res.x for res in others[:2]], [one.x] * 2)
    for k in (0, 1):
        assert others[k].message == one.message  # by how much the gradient fell


@of_bowl
def test_a_gtol_that_is_given_is_absolute(form):
    given = run_bowl(form, 1.0, gtol=0.5)
    assert given.history["grad_norm"][-1] <= 0.5 < given.history["grad_norm"][:-1].min()
    assert given.message == "The largest component of the projected gradient is at most gtol."
    assert run_bowl(form, 1e-9, gtol=1e-6).nit == 0
    both = run_bowl(form, 1.0, gtol=1e-9, gtol_rel=0.25)
    assert both.history["grad_norm"][-1] <= 0.25 * 6.0 < both.history["grad_norm"][-2]
    assert "(gtol_rel=0.25)" in both.message
    assert both.nit == run_bowl(form, 1.0, gtol_rel=0.25).nit
    for off in ({"gtol": 0}, {"gtol_rel": 0}, {"gtol": 0, "gtol_rel": 0}):
        res = run_bowl(form, 1.0, x0=(3.0, 3.0), maxiter=5, **off)
        assert (res.nit, res.status) == (5, 1)


@of_bowl
def test_a_gradient_of_0_stops_at_once_and_a_bound_that_holds_the_start_is_told(form):
    held = " x0 lies on a bound in 2 of 2 elements, and the gradient holds it there."
    for x0, bounds, told in (((3.0, 3.0), None, ""), ((4.0, 3.0), (4, 5), held)):
        res = run_bowl(form, 1.0, x0=x0, bounds=bounds)
        assert (res.nit, res.success) == (0, True)
        assert res.message == "The projected gradient is 0 at the start." + told
    free = run_bowl(form, 1.0, x0=(4.0, 3.0), bounds=[(4, 5), (0, 5)])
    assert "1 of 2 elements" in free.message
    assert "bound" not in run_bowl(form, 1.0, x0=(6.0, 3.0), bounds=(4, 7), maxiter=3).message


@numba.njit
def scaled(x, g, truth, scale):
    """Squares of unknowns in units of `scale`."""
    f = 0.0
    for i in range(x.size):
        r = (x[i] - truth[i]) / scale[i]
        f += r * r
        g[i] = 2 * r / scale[i]
    return f


def python_scaled(x, truth, scale):
    """The same, of an x of any shape."""
    r = (x - truth) / scale
    return np.sum(r * r, axis=-1), 2 * r / scale


def nested_scaled(x, truth, scale):
    f, g = python_scaled(np.concatenate([x["a"], x["b"]]), truth, scale)
    return f, {"a": g[:1], "b": g[1:]}


#: A width in metres and a temperature, whose first gradients differ by 2e-9; and the like.
UNITS = [((2e-6, 310.0), (1e-6, 100.0)), ((3e9, 5.0), (1e9, 1e-3)), ((1.0, 2.0), (1e-12, 1e12))]


@pytest.mark.parametrize(("truth", "scale"), UNITS, ids=range(len(UNITS)))
@pytest.mark.parametrize("lr", ["auto", 0.01, 1.0, "each"])
def test_no_unknown_keeps_its_gradient_where_a_run_has_stopped(truth, scale, lr):
    """The norm is that of the steepest unknown alone, which may be at rest long before."""
    truth, scale = np.array(truth), np.array(scale)
    x0, own = truth - 0.8 * scale, {"lr": 0.05 * scale if lr == "each" else lr, "maxiter": 3000}
    found = na.minimize(scaled, x0, (truth, scale), **own)
    plain = na.minimize(python_scaled, x0, (truth, scale), jac=True, **own)
    assert (plain.nit, plain.message) == (found.nit, found.message)
    if lr != "each":
        start = {"a": x0[:1], "b": x0[1:]}
        nested = na.minimize(nested_scaled, start, (truth, scale), jac=True, **own)
        assert (nested.nit, nested.message) == (found.nit, found.message)
    if found.success:
        assert (abs(found.jac) <= 1e-3 * 1.6 / scale).all()
        np.testing.assert_allclose((found.x - truth) / scale, 0, atol=1e-3)
    else:
        assert found.status == 1
        assert lr != "each" or scale.max() > 1e10  # whose gradient is far below eps


@pytest.mark.parametrize("lr", [1e-8, 3e-8])
def test_a_bound_nearby_hides_no_gradient(lr):
    """The projected gradient of 1e9 is the way to the bound there, 1e-9: nothing beside another."""
    truth, scale = np.array([1e-9, 0.0]), np.array([1e-9, 1.0])
    run = {"lr": [lr, 0.05], "bounds": [(0.0, None), (None, None)], "maxiter": 2000}
    x0 = np.array([0.5e-9, 1.0])
    one = na.minimize(scaled, x0, (truth, scale), **run)
    many = na.minimize_many(python_scaled, x0[None], (truth, scale), jac=True, **run)
    assert one.nit == many.nit[0]
    for found in (one, many):
        gone = abs(found.x_last - truth) / scale
        assert (gone <= 2e-2).all() or not np.all(found.success)
    held = {"lr": 0.05, "bounds": [(0.5e-9, None), (0.2, None)]}
    assert na.minimize(scaled, [0.8e-9, 1.0], (-truth, scale), **held).success


@pytest.mark.parametrize("count", [3, 100])
def test_rows_stop_as_each_alone_where_scales_differ(count):
    """In lanes too, where a problem that stops makes room for another one."""
    truth, scale = (np.array(one) for one in UNITS[0])
    x0 = truth + scale * np.random.default_rng(0).normal(size=(count, 2))
    run = {"lr": 0.1, "maxiter": 1500}
    many = na.minimize_many(scaled, x0, (truth, scale), **run)
    plain = na.minimize_many(python_scaled, x0, (truth, scale), jac=True, **run)
    np.testing.assert_array_equal(many.nit, plain.nit)
    assert many.success.sum() > 0
    assert len(set(many.nit)) > 1
    for k in (0, 1, count - 1):
        one = na.minimize(scaled, x0[k], (truth, scale), **run)
        assert (one.nit, one.success) == (many.nit[k], many.success[k])
    np.testing.assert_allclose((many.x - truth)[many.success] / scale, 0, atol=5e-3)


@of_bowl
def test_an_unknown_without_a_gradient_holds_nothing_up(form):
    """Nor one whose gradient is 0 at x0 alone, or a rounding there that stays as small."""
    alone = run_bowl(form, 1.0, x0=(0.0,)).nit
    assert run_bowl(form, 1.0, x0=(0.0, 3.0)).nit == alone

    def symmetric(x):
        g = np.array([2 * x[0] - 6 + x[1], x[0] + 2 * x[1]])
        return x[0] ** 2 - 6 * x[0] + x[0] * x[1] + x[1] ** 2, g

    for start in ((0.0, 0.0), (0.0, 1e-16)):
        res = na.minimize(symmetric, start, jac=True, lr=0.1)
        assert res.success
        np.testing.assert_allclose(res.x, [4.0, -2.0], atol=1e-4)


@pytest.mark.parametrize("jac", [None, True])
def test_a_run_of_unlike_scales_goes_on_with_the_same_bits(jac, tmp_path):
    truth, scale = (np.array(one) for one in UNITS[0])
    fun, run = (python_scaled if jac else scaled), {"jac": jac, "lr": 0.1}
    x0 = truth - 0.3 * scale
    whole = na.minimize(fun, x0, (truth, scale), **run)
    assert whole.success
    for first in (0, 1, 40):
        half = na.minimize(fun, x0, (truth, scale), maxiter=first, **run)
        rest = na.minimize(fun, x0, (truth, scale), state=half.state, **run)
        assert (rest.nit, rest.message) == (whole.nit, whole.message)
        np.testing.assert_array_equal(rest.x_last, whole.x_last)
        for maxiter in (first, 10_000):
            path = tmp_path / f"{first}.run"
            kept = na.minimize(fun, x0, (truth, scale), maxiter=maxiter, checkpoint=path, **run)
        np.testing.assert_array_equal(kept.x_last, whole.x_last)
        assert kept.nit == whole.nit


def test_problems_of_which_most_elements_do_nothing_are_asked_about():
    """As x0 is transposed: two problems of 50 elements, where 50 of two were meant."""

    def fun(x):
        g = np.zeros_like(x)
        g[:, 0], g[:, 1] = 2 * x[:, 0], 2
        return x[:, 0] ** 2 + 2 * x[:, 1], g

    message = na.minimize_many(fun, np.ones((2, 50)), jac=True, maxiter=2).message
    asked = "The gradient is 0 in 48 of 50 elements of every problem: is x0 (problems, elements)?"
    assert message.endswith(asked)
    for shape in ((50, 2), (1, 50)):
        assert "is x0" not in na.minimize_many(fun, np.ones(shape), jac=True, maxiter=2).message


def two_norm(x, g, lo=-np.inf, hi=np.inf):
    return np.linalg.norm((x - np.clip(x - g, lo, hi)).ravel().view(float))


@forms
def test_the_2_norm(fun):
    seen = []
    options = {"lr": 0.02, "norm": 2, "bounds": [(-2, 0.5), (-2, 2)]}
    res = run(fun, callback=seen.append, gtol=0.3, **options)
    norms = [two_norm(x, python_rosen(x)[1], [-2, -2], [0.5, 2]) for x in (START, *seen)]
    np.testing.assert_allclose(res.history["grad_norm"], norms, rtol=1e-13)
    assert norms[-1] <= 0.3 < min(norms[:-1])
    assert res.message == "The 2-norm of the projected gradient is at most gtol."
    seen.clear()
    stopped = run(fun, callback=seen.append, gtol=0, xtol=1e-3, **options)
    path = np.array([START, *seen])
    moved = np.linalg.norm(np.diff(path, axis=0), axis=1)
    limit = 1e-3 * np.maximum(np.linalg.norm(path[1:], axis=1), 1)
    assert moved[-1] <= limit[-1]
    assert (moved[:-1] > limit[:-1]).all()
    assert "xtol" in stopped.message
    options["norm"] = np.inf
    assert run(fun, gtol=0, xtol=1e-3, **options).nit != len(seen)


@of_bowl
def test_ftol_holds_where_it_says(form):
    res = run_bowl(form, 1.0, gtol=0, ftol=1e-4)
    assert res.success
    assert "ftol" in res.message
    f = res.history["fun"]
    change = abs(np.diff(f)) / np.maximum(np.maximum(f[1:], f[:-1]), 1)
    assert change[-1] <= 1e-4 < change[:-1].min()
    assert run_bowl(form, 1e-9, gtol=0, ftol=1e-4).nit == 1  # x0 has none before it


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1.0, 1e200])
def test_the_2_norm_neither_overflows_nor_underflows(size):
    res = na.minimize(lambda x: (0.0, size * x), np.array([3.0, 4.0]), jac=True, norm=2, maxiter=0)
    assert res.status == 1
    assert res.grad_norm == pytest.approx(5 * size, rel=1e-14)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_in_both_norms(bad):
    for norm in (2, np.inf):
        res = na.minimize(lambda x: (0.0, np.array([1.0, bad])), np.ones(2), jac=True, norm=norm)
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
def test_the_result_is_the_best_iterate(fun):
    seen = [START]
    options = {"lr": 0.5, "maxiter": 30}
    res = run(fun, callback=seen.append, **options)
    fs = [python_rosen(x)[0] for x in seen]
    best = int(np.argmin(fs))
    assert 0 < best < 30
    f, g = python_rosen(seen[best])
    np.testing.assert_array_equal(res.x, seen[best])
    np.testing.assert_array_equal(res.jac, g)
    assert (res.fun, res.grad_norm) == (f, abs(g).max())
    np.testing.assert_array_equal(res.x_last, seen[-1])
    assert res.fun_last == fs[-1]
    for off in (False, 0, np.False_):
        last = run(fun, track_best=off, **options)
        np.testing.assert_array_equal(last.x, seen[-1])
        np.testing.assert_array_equal(last.jac, python_rosen(seen[-1])[1])
        assert last.fun == last.fun_last == fs[-1]
    res.x[:] = res.jac[:] = np.nan  # its own arrays
    assert np.isfinite(res.state["x"]).all()
    assert np.isfinite(res.x_last).all()


@pytest.mark.parametrize("n", [2, 20_000])
@pytest.mark.parametrize("how", ["buffer", "view", "kept"])
def test_the_best_gradient_is_a_copy(how, n):
    buffer, kept = np.zeros(n), []

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
        for gradient in kept:
            gradient[:] = np.nan
    buffer[:] = np.nan
    np.testing.assert_array_equal(res.jac, 2 * (res.x - 1))
    np.testing.assert_array_equal(res.state["jac"], res.jac)


# --- known minima: functions of textbooks ---------------------------------------------------------


def test_the_best_of_nested_arrays():
    def fun(x):
        f, g = square(x["a"], 1.0)
        return f, {"a": g}

    res = na.minimize(fun, {"a": np.zeros(2)}, jac=True, lr=0.6, maxiter=9)
    assert res.fun < res.fun_last
    assert res.fun == square(res.x["a"], 1.0)[0]
    np.testing.assert_array_equal(res.jac["a"], square(res.x["a"], 1.0)[1])


@numba.njit
def rosenbrock(x, g):
    """The chained one, of any size: 0 at (1, ..., 1)."""
    f = 0.0
    for i in range(x.size - 1):
        d, e = x[i + 1] - x[i] * x[i], 1.0 - x[i]
        f += 100.0 * d * d + e * e
        g[i] -= 400.0 * x[i] * d + 2.0 * e
        g[i + 1] += 200.0 * d
    return f


def python_rosenbrock(x):
    g = np.zeros_like(x)
    return rosenbrock(x, g), g


@pytest.mark.parametrize(("fun", "jac"), [(rosenbrock, None), (python_rosenbrock, True)])
def test_a_known_minimum_is_reached(fun, jac):
    lr = Cosine(0.1, steps=10_000)
    res = na.minimize(fun, np.tile([-1.2, 1.0], 5), jac=jac, lr=lr, gtol=1e-6, maxiter=10_000)
    assert res.success
    assert res.nit <= 3_500
    np.testing.assert_allclose(res.x, 1.0, atol=5e-6)
    assert res.nfev == res.njev == res.nit + 1
    assert res.history["grad_norm"][-1] <= 1e-6
    np.testing.assert_array_equal(res.history["nit"], np.arange(res.nit + 1))
    # of the step that led to each x
    np.testing.assert_array_equal(res.history["lr"][1:], [lr(t) for t in range(res.nit)])


def test_gradients_at_bounds_of_several_arrays():
    x, g = np.meshgrid([0.0, 0.25, 1.0], [-2.0, -0.125, 0.0, 0.5, np.nan])
    box = 0.0, 1.0
    np.testing.assert_array_equal(stop_tests.projected(np, x, g, box), x - np.clip(x - g, *box))
    held = np.where(x == 0.0, np.fmin(g, 0.0), np.where(x == 1.0, np.fmax(g, 0.0), g))
    held = np.where(np.isnan(g), g, held)
    np.testing.assert_array_equal(stop_tests.released(np, x, g, box), held)
