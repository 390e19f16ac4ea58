"""Runs that go on from the state of an earlier one."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import numadam as na
from tests.minimize.compared import assert_same_end
from tests.minimize.objectives import START, forms, python_rosen, run, square


@forms
def test_a_saved_run_is_not_written_to(fun):
    half = run(fun, lr=0.02, maxiter=40)
    saved = copy.deepcopy(half.state)
    for _ in range(2):
        rest = run(fun, half.x, lr=0.02, maxiter=40, state=half.state)
        for name, value in saved.items():
            np.testing.assert_array_equal(half.state[name], value)
        assert rest.fun == python_rosen(rest.x)[0]


@forms
def test_no_best_is_carried_on_where_none_is_tracked(fun):
    half = run(fun, lr=0.02, maxiter=40)
    rest = run(fun, half.x, lr=1.0, maxiter=3, state=half.state, track_best=False)
    assert rest.fun == rest.fun_last > half.fun
    assert "fun" not in rest.state


@forms
def test_a_best_outside_of_new_bounds_is_forgotten(fun):
    half = run(fun, lr=0.02, maxiter=40)
    rest = run(fun, half.x, maxiter=3, state=half.state, bounds=[(2, 3), (2, 3)])
    assert ((rest.x >= 2) & (rest.x <= 3)).all()


@forms
def test_who_watches_a_resumed_run_sees_new_iterates_only(fun, capsys):
    half, seen = run(fun, maxiter=5), []
    run(
        fun, half.x, maxiter=3, state=half.state, progress=True,
        callback=lambda intermediate_result: seen.append(intermediate_result.nit),
    )  # fmt: skip
    assert seen == [6, 7, 8]
    assert "3/3" in capsys.readouterr().err


@forms
def test_a_plateau_in_two_pieces_is_that_of_the_whole(fun):
    def plateau():
        return na.schedules.ReduceOnPlateau(0.5, factor=0.5, patience=2)

    whole, pieces = plateau(), plateau()
    a = run(fun, lr=whole, maxiter=60)
    half = run(fun, lr=pieces, maxiter=25)
    b = run(fun, half.x, lr=pieces, maxiter=35, state=half.state)
    np.testing.assert_array_equal(a.x_last, b.x_last)
    assert whole == pieces


RESUMED = {
    "cosine": {"amsgrad": True, "lr": na.schedules.Cosine(0.5, steps=100)},
    "nadam": {"rule": "nadam", "lr": 0.02, "beta1": lambda t: 0.9 - 1e-4 * t},
}


@forms
@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("start", ["x", "x_last"])
def test_a_run_goes_on_as_if_it_had_never_stopped(fun, name, start):
    whole = run(fun, maxiter=100, **RESUMED[name])
    x, state = START, None
    for maxiter in (1, 39, 0, 60):
        part = run(fun, x, maxiter=maxiter, state=state, **RESUMED[name])
        x, state = part[start], part.state
    assert part.nit == 100
    assert part.message == whole.message
    assert_same_end(part, whole)


@forms
def test_the_first_gradient_is_that_of_the_first_run(fun):
    options = {"lr": 0.02, "gtol_rel": 1e-3}
    whole = run(fun, **options)
    half = run(fun, maxiter=200, **options)
    rest = run(fun, half.x, state=half.state, **options)
    assert (rest.nit, rest.message) == (whole.nit, whole.message)
    assert whole.state["first_grad_norm"] == abs(python_rosen(START)[1]).max()
    with pytest.raises(ValueError, match=r"norm: .* first gradient in norm=inf, got norm=2"):
        run(fun, half.x, state=half.state, norm=2, **options)
    euclidean = run(fun, half.x, state=half.state, norm=2, lr=0.02, gtol=1e-9, maxiter=3)
    gradient = python_rosen(half.x_last)[1]
    assert euclidean.state["norm"] == 2
    assert euclidean.state["first_grad_norm"] == pytest.approx(np.linalg.norm(gradient))


@forms
def test_a_state_from_a_file_goes_on(fun, tmp_path):
    state = run(fun, maxiter=5, lr=1.0).state  # lr is too large: x0 is the best
    np.savez(tmp_path / "state.npz", **state)
    with np.load(tmp_path / "state.npz") as loaded:
        res = run(fun, maxiter=1, state=dict(loaded), lr=1.0)
    whole = run(fun, maxiter=6, lr=1.0)
    assert (type(res.fun), res.fun, res.grad_norm) == (float, whole.fun, whole.grad_norm)
    np.testing.assert_array_equal(res.x, whole.x)


def test_a_new_objective_has_a_best_iterate_of_its_own():
    state = na.minimize(square, START, (0.0,), jac=True, maxiter=30).state
    run = {"jac": True, "maxiter": 30, "state": state}
    del state["x"], state["first_grad_norm"]
    res = na.minimize(square, START, (9.0,), **run)
    assert res.fun == square(res.x, 9.0)[0]


def test_nested_arrays_go_on():
    def fun(x):
        f, g = python_rosen(x["a"])
        return f, {"a": g, "b": [2 * x["b"][0]]}

    start = {"a": START, "b": [np.ones((2, 2))]}
    options = {"jac": True, "lr": 0.3, "norm": 2}
    whole = na.minimize(fun, start, maxiter=60, **options)
    half = na.minimize(fun, start, maxiter=25, **options)
    rest = na.minimize(fun, half.x, maxiter=35, state=half.state, **options)
    for name in ("x", "jac", "x_last"):
        np.testing.assert_array_equal(rest[name]["a"], whole[name]["a"])
        np.testing.assert_array_equal(rest[name]["b"][0], whole[name]["b"][0])
    assert (rest.fun, rest.grad_norm) == (whole.fun, whole.grad_norm)
    assert rest.state["first_grad_norm"] == whole.state["first_grad_norm"]


@pytest.mark.parametrize("name", ["x", "jac", "x_last"])
def test_arrays_of_another_kind_are_refused(name):
    half = na.minimize(square, np.ones(2), jac=True, maxiter=3)
    for wrong in (np.zeros(3), np.zeros(2, int), [1.0, 2.0]):
        with pytest.raises(ValueError, match=rf"state\['{name}'\]: expected the shapes and dtypes"):
            na.minimize(square, np.ones(2), jac=True, state={**half.state, name: wrong})
    for x0 in (np.ones(1), np.ones(2, np.float32), {"x": np.ones(2)}):
        with pytest.raises(ValueError, match=r"state\['x_last'\]"):
            na.minimize(square, x0, jac=True, state=half.state)
    with pytest.raises(TypeError, match=r"state=result.state"):
        na.minimize(square, np.ones(2), jac=True, state=half)


def test_the_state_of_an_optimiser_goes_on_from_x0():
    opt = na.Adam(np.ones(3), lr=0.1)
    opt.step(np.ones(3))
    res = na.minimize(square, np.full(3, 5.0), jac=True, lr=0.1, state=opt.state, maxiter=0)
    np.testing.assert_array_equal(res.x, 5.0)
    assert res.nit == 1
