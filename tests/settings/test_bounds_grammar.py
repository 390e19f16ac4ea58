"""Bounds as SciPy's users write them: one grammar for the classes and the functions."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from scipy.optimize import Bounds

import numadam as na

INF = math.inf
LOW, HIGH = np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])
TWO = np.array([0.0, 2.0]), np.array([1.0, 3.0])
#: bounds, the shape of x, and the box that they mean
GRAMMAR = [
    ((0, 1), (2,), (0, 1)),
    ((None, 1), (2,), (-INF, 1)),
    (np.array([0, 1]), (2,), (0, 1)),
    ([(0, 1), (2, 3)], (2,), TWO),
    (((0, 1), (2, 3)), (2,), TWO),
    ([(None, 1), (2, None)], (2,), ([-INF, 2], [1, INF])),
    (np.array([(0, 1), (2, 3)]), (2,), TWO),
    ([np.array([0, 1]), (2, 3)], (2,), TWO),
    (Bounds(*TWO), (2,), TWO),
    (Bounds(ub=3), (2,), (-INF, 3)),
    ((0, TWO[1]), (2,), (0, TWO[1])),
    ((TWO[0], None), (2,), (TWO[0], INF)),
    ((LOW, HIGH), (3,), (LOW, HIGH)),
    ([LOW, HIGH], (3,), (LOW, HIGH)),
    ((LOW, HIGH), (2, 3), (LOW, HIGH)),
    (TWO, (3, 2), TWO),
    ((0, 1), (1,), (0, 1)),
    ([(0, 1)], (1,), (0, 1)),
    ([(0, 1)], (), (0, 1)),
    ((np.float32(0), np.array(1)), (), (0, 1)),
    (Bounds(0, 1), (), (0, 1)),
    ([(k, k + 1) for k in range(6)], (2, 3), ([[0, 1, 2], [3, 4, 5]], [[1, 2, 3], [4, 5, 6]])),
    (np.moveaxis([LOW, HIGH], 0, -1)[None], (1, 3), (LOW, HIGH)),
    ([], (0,), (0, 1)),
]  # fmt: skip


def pushed(bounds, start):
    """Where the class and both functions move a start to, which have to agree."""
    p = start.copy()
    na.Adam(p, bounds=bounds)
    one = na.minimize(lambda x: (0.0, 0 * x), start, jac=True, bounds=bounds, maxiter=0)
    np.testing.assert_array_equal(one.x, p)
    if start.ndim:
        many = na.minimize_many(
            lambda X: (np.zeros(3), 0 * X), np.array([start] * 3), jac=True, bounds=bounds,
            maxiter=0,
        )  # fmt: skip
        np.testing.assert_array_equal(many.x, [p] * 3)
    return p


@pytest.mark.parametrize(("bounds", "shape", "box"), GRAMMAR, ids=range(len(GRAMMAR)))
def test_classes_and_functions_read_the_same_box(bounds, shape, box):
    for start in (-9.0, 9.0):
        x = np.full(shape, start)
        np.testing.assert_array_equal(pushed(bounds, x), np.clip(x, *box))


NO_BOX = [
    (list(TWO), (2,), "two arrays of two numbers .* low and high, or a pair for each element"),
    (list(TWO), (2, 1), "two arrays of two numbers"),
    (([0, 0, 0], [1, 1, 1]), (3,), r"expected 3 pairs \(lo, hi\), .*, got 2. .* NumPy"),
    (np.array([LOW, HIGH]), (3,), r"expected 3 pairs .* got shape \(2, 3\)"),
    ([(0, 1)], (3,), "expected 3 pairs .* got 1"),
    ([(0, 1), (2, "3")], (2,), r"bounds\[1\]: expected a pair \(lo, hi\) of numbers, got"),
    ([(0, 1), (2, LOW)], (2,), r"bounds\[1\]: expected a pair"),
    ([(0, 1), (2, np.nan)], (2,), r"bounds\[1\]\[1\]: is NaN"),
    (Bounds(0, np.nan), (2,), "bounds.ub: is NaN"),
    ([(0, 1), (3, 2)], (2,), r"lo is above hi of element .*1\] of .*: 3.0 > 2.0"),
    ({"a": (0, 1)}, (2,), "expected a pair"),
    ((np.ma.ones(3), None), (3,), r"bounds\[0\]: .* masked array"),
]  # fmt: skip


@pytest.mark.parametrize(("bounds", "shape", "says"), NO_BOX, ids=range(len(NO_BOX)))
def test_classes_and_functions_refuse_the_same(bounds, shape, says):
    x = np.zeros(shape)
    with pytest.raises((ValueError, TypeError), match=says):
        na.Adam(x, bounds=bounds)
    with pytest.raises((ValueError, TypeError), match=says):
        na.minimize(lambda x: (0.0, 0 * x), x, jac=True, bounds=bounds)
    with pytest.raises((ValueError, TypeError), match=says):
        na.minimize_many(lambda X: (np.zeros(3), 0 * X), np.zeros((3, *shape)), bounds=bounds)


def test_a_tuple_of_two_arrays_is_low_and_high_in_the_classes():
    """At every length, two elements too; the functions, which read as SciPy does, refuse these."""
    p, nested = np.full(2, 9.0), {"a": np.full(2, -9.0)}
    na.Adam(p, bounds=TWO)
    na.Adam(nested, bounds={"a": TWO})
    assert (p.tolist(), nested["a"].tolist()) == (TWO[1].tolist(), TWO[0].tolist())
    for minimize, x0 in ((na.minimize, np.ones(2)), (na.minimize_many, np.ones((3, 2)))):
        with pytest.raises(ValueError, match="two arrays of two numbers"):
            minimize(lambda x: (x.sum(-1), 0 * x), x0, jac=True, bounds=TWO)


def test_bounds_that_the_caller_changes_later():
    """A copy of the optimiser reads them again; an iterator gives them only once."""
    box = Bounds(0, 1)
    box.lb, box.ub = np.zeros(3), np.ones(3)  # SciPy's own may be views that are not to be written
    for bounds in (box, zip(box.lb, box.ub, strict=True)):
        opt = na.Adam(np.ones(3), bounds=bounds)
        box.ub[:] = 0.5
        assert (copy.deepcopy(opt).params == 1).all()
        box.ub[:] = 1.0


def test_update_functions_take_two_numbers():
    p, m, v = np.full(2, 9.0), np.zeros(2), np.zeros(2)
    na.adam_update(p, np.ones(2), m, v, 1, bounds=[None, np.float64(2)])
    assert (p == 2).all()
    for bounds, says in [
        ([(0, 1), (0, 1)], r"expected a pair \(lo, hi\) of numbers"),
        (Bounds(0, 1), r"expected a pair \(lo, hi\) of numbers"),
        ((0, "1"), r"expected a pair \(lo, hi\) of numbers"),
        ((np.zeros(2), 1), "bounds are two numbers here; arrays of them need"),
        ((0, np.array([1.0])), "bounds are two numbers here; arrays of them need"),
        ((3, 2), "lo is above hi of p: 3.0 > 2.0"),
    ]:
        with pytest.raises((TypeError, ValueError), match=rf"^\w+: {says}"):
            na.adam_update(p, np.ones(2), m, v, 2, bounds=bounds)
    with pytest.raises(ValueError, match=r"^bounds\[1\]: is NaN"):
        na.adam_update(p, np.ones(2), m, v, 2, bounds=(0, math.nan))
    assert (p == 2).all()
