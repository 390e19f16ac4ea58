"""Runs that go on from the state of an earlier one."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import numadam as na
from tests.minimize.objectives import START, python_rosen, rosen, square


@pytest.mark.parametrize("fun", [rosen, python_rosen], ids=["compiled", "python"])
def test_a_saved_run_is_not_written_to(fun):
    jac = None if fun is rosen else True
    half = na.minimize(fun, START, jac=jac, lr=0.02, maxiter=40)
    saved = copy.deepcopy(half.state)
    for _ in range(2):
        rest = na.minimize(fun, half.x, jac=jac, lr=0.02, maxiter=40, state=half.state)
        for name, value in saved.items():
            np.testing.assert_array_equal(half.state[name], value)
        assert rest.fun_best == python_rosen(rest.x_best)[0]


def test_no_best_is_carried_on_where_none_is_tracked():
    half = na.minimize(python_rosen, START, jac=True, lr=0.02, maxiter=40)
    rest = na.minimize(
        python_rosen, half.x, jac=True, lr=1.0, maxiter=3, state=half.state, track_best=False
    )
    assert rest.fun_best == rest.fun
    assert "fun_best" not in rest.state


@pytest.mark.parametrize("fun", [rosen, python_rosen], ids=["compiled", "python"])
def test_a_best_outside_of_new_bounds_is_forgotten(fun):
    jac, bounds = None if fun is rosen else True, [(2, 3), (2, 3)]
    half = na.minimize(fun, START, jac=jac, lr=0.02, maxiter=40)
    rest = na.minimize(fun, half.x, jac=jac, maxiter=3, state=half.state, bounds=bounds)
    assert ((rest.x_best >= 2) & (rest.x_best <= 3)).all()


@pytest.mark.parametrize("fun", [rosen, python_rosen], ids=["compiled", "python"])
def test_who_watches_a_resumed_run_sees_new_iterates_only(fun, capsys):
    jac = None if fun is rosen else True
    half = na.minimize(fun, START, jac=jac, maxiter=5)
    seen = []
    na.minimize(
        fun, half.x, jac=jac, maxiter=3, state=half.state, progress=True,
        callback=lambda intermediate_result: seen.append(intermediate_result.nit),
    )  # fmt: skip
    assert seen == [6, 7, 8]
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize("fun", [rosen, python_rosen], ids=["compiled", "python"])
def test_a_plateau_in_two_pieces_is_that_of_the_whole(fun):
    def plateau():
        return na.schedules.ReduceOnPlateau(0.5, factor=0.5, patience=2)

    jac, whole, pieces = None if fun is rosen else True, plateau(), plateau()
    a = na.minimize(fun, START, jac=jac, lr=whole, maxiter=60)
    half = na.minimize(fun, START, jac=jac, lr=pieces, maxiter=25)
    b = na.minimize(fun, half.x, jac=jac, lr=pieces, maxiter=35, state=half.state)
    np.testing.assert_array_equal(a.x, b.x)
    assert whole == pieces


def test_a_whole_result_is_no_state():
    res = na.minimize(square, np.ones(2), jac=True, maxiter=2)
    with pytest.raises(TypeError, match=r"state=result.state"):
        na.minimize(square, np.ones(2), jac=True, state=res)


def test_a_run_goes_on_as_if_it_had_never_stopped():
    options = {"jac": True, "lr": na.schedules.Cosine(0.05, steps=100), "amsgrad": True}
    whole = na.minimize(python_rosen, START, maxiter=100, **options)
    half = na.minimize(python_rosen, START, maxiter=40, **options)
    rest = na.minimize(python_rosen, half.x, maxiter=60, state=half.state, **options)
    np.testing.assert_array_equal(rest.x, whole.x)
    assert rest.nit == 100
    assert rest.fun_best == whole.fun_best
    np.testing.assert_array_equal(rest.x_best, whole.x_best)
    for name in ("m", "v", "vmax"):
        np.testing.assert_array_equal(rest.state[name], whole.state[name])
