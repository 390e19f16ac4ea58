"""Box bounds: how they are written, what is projected and masked, what stays inside."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import Bounds

import numadam as na
from tests.reference_options import Steps
from tests.runs import neutral
from tests.trees import relaxed, tree_leaves

INF = math.inf


# --- at construction -----------------------------------------------------------------------------


def test_parameters_outside_are_projected_when_the_optimiser_is_made():
    p = np.array([-3.0, 0.5, 7.0, np.nan])
    na.Adam(p, bounds=(0.0, 1.0))
    np.testing.assert_array_equal(p, [0.0, 0.5, 1.0, np.nan])


def boxed(bounds):
    """Parameters -3 ... 3 in a nesting, after an optimiser with these bounds was made."""
    params = {
        "w": [np.linspace(-3, 3, 7), np.linspace(-3, 3, 6).reshape(2, 3)],
        "b": np.array(-3.0),
    }
    assert na.Adam(params, bounds=bounds).params is params
    return [a.min() for a in tree_leaves(params)], [a.max() for a in tree_leaves(params)]


def test_bounds_may_be_nested_as_the_parameters_are():
    array = np.linspace(-1.0, 0.0, 7)
    assert boxed((-1, 2.0)) == ([-1, -1, -1], [2, 2, -1])
    assert boxed(None) == boxed((None, None)) == ([-3, -3, -3], [3, 3, -3])
    assert boxed({"w": (-1, None), "b": (None, 2)}) == ([-1, -1, -3], [3, 3, -3])
    assert boxed({"w": [(-1, 1), None], "b": None}) == ([-1, -3, -3], [1, 3, -3])
    assert boxed({"w": [(array, 1), (-INF, INF)], "b": [0, 5]}) == ([-1, -3, 0], [1, 3, 0])
    rows = np.array([[0.0], [1.0]])
    assert boxed({"w": [None, (rows, rows + 1)], "b": None}) == ([-3, 0, -3], [3, 2, -3])


def test_bounds_of_each_kind_inside_a_nesting():
    kinds = {"w": [[(0, k + 1) for k in range(7)], Bounds(0, 1)], "b": [(0, 5)]}
    assert boxed(kinds) == ([0, 0, 0], [3, 1, 0])
    assert (
        boxed(Bounds(-1, 2))
        == boxed(np.array([-1, 2]))
        == boxed({"w": Bounds(-1, 2), "b": (-1, 2)})
    )
    assert na.minimize(lambda x: (0.0, x), [np.ones(2), np.ones(1)], jac=True, maxiter=0,
                       bounds=[(2, 3), Bounds(4, 5)]).x[1] == 4  # fmt: skip


@pytest.mark.parametrize(
    ("bounds", "error", "says"),
    [
        (3.0, ValueError, "bounds: has no entry 'b' for params['b']"),
        ((math.inf, None), ValueError, "bounds: no finite float64 lies between"),
        ((1.0, 0.0), ValueError, "bounds: lo is above hi of params['b']: 1.0 > 0.0."),
        ((math.nan, 1.0), ValueError, "bounds[0]: is NaN"),
        ((0.0, 10**400), ValueError, "bounds[1]: 10000000000000000000... is beyond"),
        ((0.0, np.array([1.0, np.nan])), ValueError, "bounds[1]: is NaN"),
        ({"w": [(0, 1), (0, 1)]}, ValueError, "bounds: has no entry 'b'"),
        ({"w": [(0, 1)], "b": None}, ValueError, "bounds['w']: has no entry 1"),
        ({"w": [(0, 1), (0, 1)], "b": None, "c": None}, ValueError, "bounds: has an entry 'c'"),
        (
            {"w": (np.zeros(7), None), "b": None},
            ValueError,
            "bounds['w'][0]: expected a number, or",
        ),
        ({"w": None, "b": "ab"}, TypeError, "bounds['b']: expected a pair"),
        ({"w": None, "b": (0, "1")}, (TypeError, ValueError), "bounds['b']"),
    ],
    ids=str,
)
def test_bad_bounds_are_refused(bounds, error, says):
    params = {"w": [np.full(7, 9.0), np.full((2, 3), 9.0)], "b": np.array(9.0)}
    with pytest.raises(error) as caught:
        na.Adam(params, bounds=bounds)
    assert str(caught.value).startswith(says), caught.value
    assert all((a == 9).all() for a in tree_leaves(params))


def test_complex_numbers_have_no_bounds():
    with pytest.raises(ValueError, match=r"^bounds: complex numbers have no order"):
        na.Adam(np.ones(2, complex), bounds=(0, 1))


# --- rounding into the dtype ---------------------------------------------------------------------


def test_bounds_beyond_the_range_of_the_dtype_are_open_or_refused():
    p = np.ones(2, np.float32)
    na.Adam(p, bounds=(-1e39, 1e39))
    assert p.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"^bounds: no finite float32 lies between"):
        na.Adam(p, bounds=(1e39, None))
    assert p.tolist() == [1.0, 1.0]


def test_a_box_without_a_number_of_the_dtype_holds_its_nearest():
    p = np.array([0.0, 0.3], np.float32)
    opt = na.Adam(p, **neutral(p, bounds=(np.float64(0.1), np.full(2, 0.1)), decoupled=True))
    assert p.tolist() == [np.float32(0.1)] * 2
    for _ in range(4):
        opt.step(np.ones(2, "f4"))
    assert p.tolist() == [np.float32(0.1)] * 2


def test_float32_parameters_stay_within_float64_bounds():
    rng = np.random.default_rng(0)
    lo, hi = -0.1, 0.7
    p = rng.standard_normal(200).astype("f4")
    opt = na.Adam(p, **neutral(p, bounds=(np.full(200, lo), hi), decoupled=True))
    for _ in range(20):
        opt.step(rng.standard_normal(200).astype("f4"))
        assert p.astype(float).min() >= lo
        assert p.astype(float).max() <= hi
    assert (p == p.min()).sum() > 5


# --- steps ---------------------------------------------------------------------------------------


def test_a_parameter_at_its_bound_does_not_wind_up():
    """Pushed out for long, it leaves at the first gradient that points in (pints#1469 did not)."""
    p = np.zeros(2)
    opt = na.Adam(p, lr=0.1, bounds=(0.0, 1.0))
    free = na.Adam(np.zeros(2), lr=0.1)
    for _ in range(50):
        opt.step(np.array([1.0, 1.0]))
        free.step(np.array([1.0, 1.0]))
    assert p.tolist() == [0.0, 0.0]
    assert (opt.state["m"] == 0).all()
    assert (opt.state["v"] == 0).all()
    assert (free.state["m"] > 0.9).all()
    opt.step(np.array([-1.0, 1.0]))
    assert p[0] > 0.05
    assert p[1] == 0


@pytest.mark.parametrize("decoupled", [False, True], ids=["l2", "decoupled"])
def test_decay_does_not_move_a_clamped_parameter(decoupled):
    """It pulls towards 0, which lies outside: the bound holds. Below 0 it pulls inwards."""
    p = np.array([1.0, -1.0, 3.0])
    bounds = (np.array([1.0, -1.0, 2.5]), np.array([2.0, 0.0, 3.0]))
    opt = na.Adam(p, **neutral(p, bounds=bounds, weight_decay=0.1, decoupled=decoupled))
    for _ in range(4):
        opt.step(np.zeros(3))
    assert p[0] == 1.0
    assert -1.0 < p[1] < 0.0
    assert 2.5 <= p[2] < 3.0


def test_nan_stays_nan():
    p = np.array([np.nan, 0.5])
    opt = na.Adam(p, lr=0.1, bounds=(0.0, 1.0))
    opt.step(np.array([1.0, np.nan]))
    assert np.isnan(p).all()


def test_directions_end_within_the_bounds():
    p = np.array([0.02, 0.5, 0.97])
    opt = na.Adam(p, lr=0.1, bounds=(0.0, 1.0))
    out = np.full(3, 7.0)
    opt.step(np.array([1.0, 1.0, -1.0]), out=out)
    assert p.tolist() == [0.02, 0.5, 0.97]
    np.testing.assert_allclose(p + out, [0.0, 0.4, 1.0], rtol=1e-7, atol=1e-16)
    assert out[0] == -0.02


def test_other_parameters_of_one_call_are_brought_in_by_the_step():
    opt = na.Adam(np.zeros(3), lr=0.1, bounds=(0.0, 1.0))
    other = np.array([-5.0, 0.5, 5.0])
    opt.step(np.array([1.0, 1.0, 1.0]), params=other)
    np.testing.assert_allclose(other, [0.0, 0.4, 1.0], rtol=1e-7)


ends = st.sampled_from([None, -INF, -1.0, -0.3, 0.0, 0.0, 0.25, 1.0, INF])
pairs = st.tuples(ends, ends).filter(
    lambda pair: None in pair or (pair[0] <= pair[1] and pair[0] < INF and pair[1] > -INF)
)


@relaxed
@given(pairs=st.lists(pairs, min_size=1, max_size=6), seed=st.integers(0, 99))
def test_any_box_against_the_reference(pairs, seed):
    """Never outside, and the reference's numbers; one array of bounds has the bits of scalars."""
    rng = np.random.default_rng(seed)
    pairs = [*pairs, (-0.5, 0.25), (0.0, 1.0)]  # so that the loop is always that of arrays
    n = len(pairs)
    lo = np.array([-INF if lo is None else lo for lo, _ in pairs])
    hi = np.array([INF if hi is None else hi for _, hi in pairs])
    lo, hi = np.where(lo == INF, 0.0, lo), np.where(hi == -INF, 0.0, hi)
    start, *calls = rng.integers(-4, 5, (8, n)) / 4  # often exactly on a bound
    opt = na.Adam(start.copy(), **neutral(start, bounds=Bounds(lo, hi)))
    ref = Steps([start], lr=0.1, bounds=[(lo, hi)])
    for g in calls:
        opt.step(g)
        ref.step([g])
        assert ((opt.params >= lo) & (opt.params <= hi)).all()
        np.testing.assert_allclose(opt.params, ref.p[0], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(opt.state["m"], ref.m[0], rtol=1e-12, atol=1e-13)


def test_frozen_arrays_are_not_projected_and_need_no_bounds():
    params = {"a": np.array([5.0]), "b": np.array([5.0])}
    opt = na.Adam(params, bounds={"a": (0.0, 1.0)}, groups={"b": {"frozen": True}})
    opt.step({"a": np.ones(1), "b": None})
    assert params["b"][0] == 5.0
    assert params["a"][0] < 1.0


# --- one grammar for the classes and the functions ------------------------------------------------


LOW, HIGH = np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])
TWO = np.array([0.0, 2.0]), np.array([1.0, 3.0])
#: bounds, the shape of x, and the box that they mean
GRAMMAR = [
    ((0, 1), (2,), (0, 1)),
    ((None, 1), (2,), (-INF, 1)),
    (np.array([0, 1]), (2,), (0, 1)),
    ([(0, 1), (2, 3)], (2,), TWO),
    ([(None, 1), (2, None)], (2,), ([-INF, 2], [1, INF])),
    (np.array([(0, 1), (2, 3)]), (2,), TWO),
    (Bounds(*TWO), (2,), TWO),
    (Bounds(ub=3), (2,), (-INF, 3)),
    ((0, TWO[1]), (2,), (0, TWO[1])),
    ((TWO[0], None), (2,), (TWO[0], INF)),
    ((LOW, HIGH), (3,), (LOW, HIGH)),
    ((LOW, HIGH), (2, 3), (LOW, HIGH)),
    (TWO, (3, 2), TWO),
    ((0, 1), (1,), (0, 1)),
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
    (([0, 0, 0], [1, 1, 1]), (3,), r"expected 3 pairs \(lo, hi\), .*, got 2. .* NumPy"),
    (np.array([LOW, HIGH]), (3,), r"expected 3 pairs .* got shape \(2, 3\)"),
    ([(0, 1)], (3,), "expected 3 pairs .* got 1"),
    ([(0, 1), (2, "3")], (2,), r"bounds\[1\]: expected a pair \(lo, hi\) of numbers, got"),
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


def test_a_tuple_of_two_arrays_is_low_and_high_in_the_classes():
    """At every length, two elements too; the functions, which read as SciPy does, refuse these."""
    p, nested = np.full(2, 9.0), {"a": np.full(2, -9.0)}
    na.Adam(p, bounds=TWO)
    na.Adam(nested, bounds={"a": TWO})
    assert (p.tolist(), nested["a"].tolist()) == (TWO[1].tolist(), TWO[0].tolist())
    for minimize, x0 in ((na.minimize, np.ones(2)), (na.minimize_many, np.ones((3, 2)))):
        with pytest.raises(ValueError, match="two arrays of two numbers"):
            minimize(lambda x: (x.sum(-1), 0 * x), x0, jac=True, bounds=TWO)
