"""Compiled objectives of every kind, in the loops of one problem, of many, and of lanes."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest

import numadam as na
from tests.minimize.objectives import assert_alone
from tests.processes import python

START, MANY = np.array([2.0, -1.0]), np.tile([2.0, -1.0], (60, 1))
ROWS = np.array([(0.5, 1.0), (0.25, 2.0)], [("low", "f8"), ("high", "f8")])
TIMES = np.linspace(0.0, 1.0, 5)


@numba.njit
def bowl(x, g, center):
    """What the others compute, each in its own way."""
    for k in range(x.size):
        g[k] = x[k] - center
    return 0.5 * np.sum((x - center) ** 2)


@numba.njit
def with_default(x, g, center=0.5):
    return bowl(x, g, center)


@numba.njit("float64(float64[:], float64[:], float64)")
def eager(x, g, center):
    for k in range(x.size):
        g[k] = x[k] - center
    return 0.5 * np.sum((x - center) ** 2)


@numba.njit
def in_float32(x, g, center):
    return np.float32(bowl(x, g, center))


@numba.njit
def whole(x, g, center):
    return int(bowl(x, g, center))


@numba.njit
def whether(x, g, center):
    return bowl(x, g, center) > 1.0


@numba.njit
def pair(x, center):
    return 0.5 * np.sum((x - center) ** 2), x - center


@numba.njit
def pair_of_float32(x, center):
    return np.float32(0.5 * np.sum((x - center) ** 2)), (x - center).astype(np.float32)


@numba.njit
def of_array(x, g, centers):
    return bowl(x, g, centers[0])


@numba.njit
def of_tuple(x, g, centers):
    return bowl(x, g, centers[0] + centers[1][0])


@numba.njit
def of_records(x, g, rows):
    return bowl(x, g, rows[0]["low"])


@numba.njit
def of_text(x, g, name):
    return bowl(x, g, 0.5 if name == "half" else 0.0)


@numba.njit
def of_function(x, g, quarter, function, more):
    return bowl(x, g, function(quarter) * more[1](more[0]))


@numba.njit(parallel=True)
def in_threads(x, g, center):
    total = 0.0
    for k in numba.prange(x.size):
        g[k] = x[k] - center
        total += 0.5 * (x[k] - center) ** 2
    return total


@numba.njit
def asks_python(x, g, center):
    with numba.objmode(shift="float64"):
        shift = float(str(center))
    return bowl(x, g, shift)


@numba.njit(cache=True)
def kept(x, g, center):
    return bowl(x, g, center)


@numba.njit(boundscheck=True, fastmath=False, error_model="python")
def with_options(x, g, center):
    return bowl(x, g, center)


def closure(center):
    @numba.njit
    def fun(x, g):
        return bowl(x, g, center)

    return fun


@numba.njit
def double(a):
    return 2.0 * a


READ_ONLY = np.array([0.5, 7.0])
READ_ONLY.flags.writeable = False

KINDS = {
    "default": (with_default, ()),
    "eager": (eager, (0.5,)),
    "float32": (in_float32, (0.5,)),
    "whole number": (whole, (0.5,)),
    "bool": (whether, (0.5,)),
    "pair": (pair, (0.5,)),
    "pair of float32": (pair_of_float32, (0.5,)),
    "read-only": (of_array, (READ_ONLY,)),
    "strided": (of_array, (np.array([0.5, 9.0, 9.0])[::2],)),
    "two axes": (of_array, (np.array([[0.5], [1.0]]).T[0],)),
    "not aligned": (of_array, (np.zeros(17, "i1")[1:].view("f8") + [0.5, 0.0],)),
    "tuple": (of_tuple, ((0.25, (0.25,)),)),
    "records": (of_records, (ROWS,)),
    "text": (of_text, ("half",)),
    "function": (of_function, (0.25, double, (0.5, double))),
    "parallel": (in_threads, (0.5,)),
    "objmode": (asks_python, (0.5,)),
    "cache": (kept, (0.5,)),
    "options": (with_options, (0.5,)),
    "closure": (closure(0.5), ()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_objectives_of_every_kind_are_taken(kind):
    fun, args = KINDS[kind]
    jac = True if kind.startswith("pair") else None
    run = {"jac": jac, "lr": 0.1, "maxiter": 20, "gtol": 0.0}
    one = na.minimize(fun, START, args, **run)
    known = na.minimize(bowl, START, (0.5,), **run | {"jac": None})
    exact = kind not in ("float32", "whole number", "bool", "parallel", "pair of float32")
    if exact:
        np.testing.assert_array_equal(one.x_last, known.x_last)
        assert one.fun == known.fun
    else:
        np.testing.assert_allclose(one.x_last, known.x_last, rtol=1e-5)
    if kind == "default":  # of many, it could be the number of the problem
        return
    many = na.minimize_many(fun, MANY, args, **run)
    assert_alone(many, 7, one)
    few = na.minimize_many(fun, MANY[:3], args, **run)
    assert_alone(few, 2, one)


@numba.njit
def numbered(x, g, i, centers):
    return bowl(x, g, centers[i])


@pytest.mark.parametrize("problems", [3, 60])
def test_the_number_of_a_problem(problems):
    centers = np.linspace(-1.0, 1.0, problems)
    many = na.minimize_many(numbered, MANY[:problems], (centers,), lr=0.1, maxiter=20)
    for k in (0, problems - 1):
        assert_alone(many, k, na.minimize(bowl, START, (centers[k],), lr=0.1, maxiter=20))


# --- exceptions ----------------------------------------------------------------------------------


class Far(Exception):
    pass


@numba.njit
def raises_values(x, g, end):
    if x[0] > end:
        raise ValueError("beyond", x[0])
    g[0] = -1.0
    return -x[0]


@numba.njit
def raises_own(x, g, end):
    if x[0] > end:
        raise Far
    g[0] = -1.0
    return -x[0]


@numba.njit
def raises_in_python(x, g, end):
    if x[0] > end:
        with numba.objmode():
            int("no number")
    g[0] = -1.0
    return -x[0]


@numba.njit
def other_shape(x, end):
    if x[0] > end:
        return -x[0], np.zeros(3)
    return -x[0], -np.ones(1)


RAISING = [
    (raises_values, ValueError, r"\('beyond', 0\.59"),
    (raises_own, Far, None),
    (raises_in_python, ValueError, "invalid literal"),
    (other_shape, ValueError, r"fun: the gradient that it returns has shape \(3,\), x has \(1,\)"),
]


@pytest.mark.parametrize(("fun", "error", "says"), RAISING, ids=range(len(RAISING)))
def test_an_exception_of_the_objective_is_raised_as_it_is(fun, error, says):
    run = {"lr": 0.1, "maxiter": 20, "jac": True if fun is other_shape else None}
    with pytest.raises(error, match=says) as caught:
        na.minimize(fun, np.zeros(1), (0.5,), **run)
    assert caught.value.numadam_result.nit == 6
    for problems in (2, 60):
        with pytest.raises(error, match=says) as caught:
            na.minimize_many(fun, np.zeros((problems, 1)), (0.5,), **run)
        assert "numadam: in problem 0." in caught.value.__notes__
        assert caught.value.numadam_result.status.tolist().count(-1) > 0


def test_a_division_by_zero_gives_infinity_unless_it_was_asked_to_raise():
    @numba.njit
    def fun(x, g):
        g[0] = 1.0
        return 1.0 / x[0]

    assert na.minimize(fun, np.zeros(1), maxiter=0).fun == math.inf
    raises = numba.njit(error_model="python")(fun.py_func)
    with pytest.raises(ZeroDivisionError):
        na.minimize(raises, np.zeros(1), maxiter=0)


# --- what is compiled when -----------------------------------------------------------------------


def test_an_eager_objective_that_writes_into_x_is_refused():
    @numba.njit("float64(float64[:], float64[:])")
    def fun(x, g):
        x[0] = g[0] = 1.0
        return x[0]

    with pytest.raises(TypeError, match=r"fun: writes into x.*the gradient goes into g"):
        na.minimize(fun, np.zeros(1))


CODE = """
    import numba
    from numba.core import event
    compiled = []
    class Compiles(event.Listener):
        def on_start(self, found):
            compiled.append(found.data["dispatcher"].py_func.__name__)
        def on_end(self, found):
            pass
    event.register("numba:compile", Compiles())
    @numba.njit
    def square(x, g, a):
        g[0] = 2.0 * (x[0] - a[0])
        return (x[0] - a[0]) ** 2
    for a in (np.zeros(1), np.zeros(1, "f4"), np.zeros((1, 1))[0]):
        na.minimize(square, np.ones(1), (a,), maxiter=3)
    print(compiled.count("iterate"), compiled.count("drive"))
"""


def test_loops_know_no_types_of_args_and_a_second_process_compiles_none(tmp_path):
    found = [python(CODE, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    assert found == ["1 2", "0 2"]
