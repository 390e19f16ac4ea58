"""check_grad: right gradients are accepted, whatever x0 and fun are; nothing is changed."""

from __future__ import annotations

import numba
import numpy as np
import optree
import pytest
from scipy.optimize import rosen as rosenbrock
from scipy.optimize import rosen_der

import numadam as na
from numadam._minimize.gradient import probes
from tests.minimize.gradients import RIGHT, changed, logarithms, narrow, valley, waves
from tests.minimize.objectives import START, Counted, rosen, square


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_right_gradients_are_accepted_and_a_factor_is_found_in_each(name, dtype):
    fun, x0 = RIGHT[name]
    x0 = x0 if dtype == "float64" else narrow(x0)
    check = na.check_grad(fun, x0, jac=True)
    assert check.ok, check
    assert (check.status, check.wrong) == ("right", ())
    assert check
    assert check.max_error <= check.tolerance
    assert check.message.startswith("The gradient is right in ")
    doubled = changed(fun, lambda g: optree.tree_map(lambda leaf: 2 * leaf, g))
    check = na.check_grad(doubled, x0, jac=True)
    assert check.status == "wrong"
    assert "it is 2.00" in check.message or "it is 1.99" in check.message


def test_fields_of_the_result():
    check = na.check_grad(changed(square, lambda g: 1.5 * g), np.arange(3.0), jac=True)
    assert not check
    assert check.worst in ("x0[1]", "x0[2]")
    assert check.value == pytest.approx(1.5 * check.difference)
    assert 0 < check.difference_error < 1e-6
    assert check.max_error == pytest.approx(1 / 3, rel=1e-4)
    assert check.tolerance == 1e-4
    assert check.wrong == ("x0[1]", "x0[2]")  # at 0 both are 0
    assert check.checked == 3
    assert repr(check).replace("\n", " ") == check.message


def test_tolerance_decides():
    slightly = changed(square, lambda g: 1.001 * g)
    assert na.check_grad(slightly, np.arange(1.0, 4.0), jac=True).status == "wrong"
    assert na.check_grad(slightly, np.arange(1.0, 4.0), jac=True, tolerance=0.01).ok


def test_x0_stays_and_calls_are_counted():
    x0 = {"w": np.arange(4.0), "b": np.ones((2, 2))}
    before = optree.tree_map(np.copy, x0)
    calls = []

    def greedy(x):
        calls.append(1)
        f = float(np.sum(x["w"] ** 2) + np.sum(x["b"] ** 3))
        g = {"w": 2 * x["w"], "b": 3 * x["b"] ** 2}
        x["w"][:] = np.nan  # of a copy
        return f, g

    check = na.check_grad(greedy, x0, jac=True)
    assert check.ok
    assert check.nfev == len(calls)
    for name, array in before.items():
        np.testing.assert_array_equal(x0[name], array)


def test_a_gradient_of_its_own_arguments_lists_and_whole_numbers():
    assert na.check_grad(rosenbrock, START, jac=rosen_der).ok
    check = na.check_grad(rosenbrock, START, jac=lambda x: -rosen_der(x))
    assert "it has the wrong sign" in check.message
    assert na.check_grad(square, [3, 4, 5], (np.array([1.0, 2.0, 3.0]),), jac=True).ok
    assert na.check_grad(square, [3, 4, 5], 2.0, jac=True).ok


@numba.njit
def pair(x, a):
    return a * np.sum(x**3), 3 * a * x**2


@numba.njit
def wrong_rosen(x, g):
    f = rosen(x, g)
    g[1] *= -1.0
    return f


@numba.njit
def numbered(x, g, i, data):
    g[:] = 2 * (x - data[i])
    return np.sum((x - data[i]) ** 2)


@numba.njit
def height(x):
    return np.sum(x**2)


@numba.njit("f8(f8[::1], f8[::1])")
def signed(x, g):
    g[0] = 2 * x[0]
    return x[0] ** 2


@numba.njit
def writes_into_x(x, g):
    x[0], g[0] = 0.0, 1.0
    return x[0]


def test_compiled_objectives_in_each_form():
    assert na.check_grad(rosen, START).ok
    assert na.check_grad(rosen, START, jac=True).ok
    assert na.check_grad(pair, np.ones(3), (2.0,), jac=True).ok
    assert na.check_grad(pair, np.ones((2, 2)), (2.0,), jac=True).ok
    assert na.check_grad(height, np.ones(3), jac=lambda x: 2 * x).ok
    assert na.check_grad(signed, np.ones(1)).ok
    # of many problems: one of them
    assert na.check_grad(numbered, np.zeros(2), (1, np.arange(6.0).reshape(3, 2))).ok
    assert na.check_grad(rosen, START.astype("f4")).ok
    check = na.check_grad(wrong_rosen, START)
    assert check.wrong == ("x0[1]",)
    with pytest.raises(TypeError, match="fun: writes into x"):
        na.check_grad(writes_into_x, START)


def cubic(x):
    return float(np.sum(x * x * x + x)), 3 * x * x + 1


@pytest.mark.parametrize("x0", [[0.0, 0.5, 2.0], [1e-9, 1.0, 1.0 + 1e-7], [-1.0, 0.5, 3.0]])
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_no_step_leaves_the_bounds(x0, dtype):
    fun = Counted(cubic)
    check = na.check_grad(fun, np.array(x0, dtype), jac=True, bounds=(0.0, 2.0))
    assert check.ok, check
    assert 0.0 <= np.min(fun.seen) <= np.max(fun.seen) <= 2.0


def test_directions_stay_in_the_bounds_too():
    fun, x0 = Counted(cubic), np.tile([0.0, 1.0, 2.0, 0.5], 50)
    box = [(0.0, 2.0)] * 199 + [(0.5, 0.5)]
    check = na.check_grad(fun, x0, jac=True, bounds=box, elements=5, directions=5)
    assert check.ok, check
    assert check.checked == 10
    assert 0.0 <= np.min(fun.seen) <= np.max(fun.seen) <= 2.0
    assert (np.array(fun.seen)[:, -1] == 0.5).all()


def test_a_function_that_ends_at_0():
    with np.errstate(all="ignore"):
        check = na.check_grad(logarithms, np.array([1e-8, 1.0]), jac=True)
    assert check.ok, check
    assert na.check_grad(logarithms, np.array([1e-8, 1.0]), jac=True, bounds=(1e-8, None)).ok


def test_large_x_costs_a_bounded_number_of_calls():
    x0 = np.linspace(-1, 1, 30_000).reshape(100, 300)
    check = na.check_grad(square, x0, jac=True)
    assert check.ok
    assert check.checked == 50
    assert check.nfev < 400
    assert na.check_grad(square, x0, jac=True, elements=7, directions=0).checked == 7
    assert na.check_grad(square, x0, jac=True, elements=0, directions=3).checked == 3


def test_rng_chooses():
    x0 = np.ones(1000)

    def worst(rng):
        fun = Counted(square)
        na.check_grad(fun, x0, jac=True, elements=3, directions=0, rng=rng)
        moved = [np.flatnonzero(x != 1.0) for x in fun.seen]
        return {int(places[0]) for places in moved if len(places) == 1}

    assert len(worst(0)) == 3
    assert worst(0) == worst(0) != worst(1)


def test_directions_see_what_elements_miss():
    def one_wrong(x):
        f, g = square(x)
        g[777] += 100.0
        return f, g

    x0 = np.ones(1000)
    check = na.check_grad(one_wrong, x0, jac=True, elements=3)
    assert check.status == "wrong"
    assert check.wrong[0].startswith("random direction")
    assert "wrong in 10 of 10 random directions" in check.message


def test_each_step_is_tried_where_none_is_good():
    rng = np.random.default_rng(0)
    check = na.check_grad(lambda x: (float(rng.standard_normal()), x), np.ones(1), jac=True)
    eps = np.finfo(float).eps
    steps = probes.steps(eps) + probes.steps(eps, probes.LONG_MULTIPLES)
    assert check.nfev == 4 + 4 * len(steps)


#: arguments, options, the error and its text
REFUSED = [
    ((rosenbrock, START), {}, TypeError, "there is no gradient to check"),
    ((rosenbrock, START), {"jac": "2-point"}, TypeError, "got '2-point': there is no gradient"),
    ((rosenbrock, rosen_der, START), {}, TypeError, r"write check_grad\(fun, x0, jac=grad\)"),
    ((valley, START), {"elements": 0}, ValueError, "elements: 0, and no directions"),
    ((valley, START), {"elements": -1}, ValueError, "^elements"),
    ((square, np.ones(2)), {"rng": "a"}, TypeError, r"rng: .* numpy\.random\.Generator, got 'a'"),
    ((square, np.ones(2)), {"rng": -1}, ValueError, r"rng: .* numpy\.random\.Generator, got -1"),
    ((valley, START), {"tolerance": 0}, ValueError, "tolerance: .* positive number, got 0"),
    ((valley, START), {"tolerance": "a"}, ValueError, "tolerance: .* positive number, got 'a'"),
    ((valley, {}), {}, ValueError, "x0: holds no array"),
    ((valley, START), {"bounds": (1, 1)}, ValueError, "x0: has no number that the bounds leave"),
    (
        (lambda x: (0.0, np.zeros(3)), START),
        {},
        ValueError,
        r"fun: its gradient has shape \(3,\), expected \(2,\)",
    ),
    ((rosen, {"a": START}), {"jac": None}, TypeError, "a compiled fun takes one NumPy array"),
    ((valley, START), {"jac": rosen_der}, TypeError, "Pass jac=True if fun returns"),
    ((waves, [np.zeros(2), np.zeros(2, "f4")]), {}, TypeError, "One optimiser holds one dtype"),
]


@pytest.mark.parametrize(("args", "options", "error", "says"), REFUSED, ids=range(len(REFUSED)))
def test_refusals(args, options, error, says):
    jac = {} if args[0] is rosenbrock else {"jac": True}
    with pytest.raises(error, match=says):
        na.check_grad(*args, **(jac | options))
