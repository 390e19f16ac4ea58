"""Box bounds: what is projected, what is masked, what stays inside, and what is refused."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import Bounds

import numadam as na
from numadam._settings import bounds as bd
from tests.bits import assert_same_bits
from tests.reference_options import Steps
from tests.runs import neutral
from tests.trees import relaxed, tree_leaves

INF = math.inf
STORAGES = ["float64", "float32", "float16", ml_dtypes.bfloat16]


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
        ((0, 1, 2), ValueError, "bounds: has no entry 'b' for params['b']"),
        ((math.inf, None), ValueError, "bounds: no finite float64 lies between"),
        ((None, np.array(-math.inf)), ValueError, "bounds: no finite float64 lies between"),
        ((1.0, 0.0), ValueError, "bounds: lo is above hi of params['b']: 1.0 > 0.0."),
        ((math.nan, 1.0), ValueError, "bounds[0]: is NaN"),
        ((0.0, np.array([1.0, np.nan])), ValueError, "bounds[1]: is NaN"),
        ({"w": [(0, 1), (0, 1)]}, ValueError, "bounds: has no entry 'b'"),
        ({"w": [(0, 1)], "b": None}, ValueError, "bounds['w']: has no entry 1"),
        ({"w": [(0, 1), (0, 1)], "b": None, "c": None}, ValueError, "bounds: has an entry 'c'"),
        ({"w": [None] * 3, "b": None}, ValueError, "bounds['w']: has an entry 2"),
        (
            {"w": (np.zeros(7), None), "b": None},
            ValueError,
            "bounds['w'][0]: expected a number, or",
        ),
        ({"w": None, "b": "ab"}, TypeError, "bounds['b']: expected a pair"),
        ({"w": None, "b": (0, "1")}, (TypeError, ValueError), "bounds['b']"),
        ({"w": None, "b": 1}, TypeError, "bounds['b']: expected a pair"),
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


@pytest.mark.parametrize("storage", STORAGES, ids=lambda s: np.dtype(s).name)
def test_bounds_round_towards_the_inside(storage):
    """0.1 and 0.7 are no numbers of the dtype: nothing of it may lie outside of them."""
    storage = np.dtype(storage)
    for low in (0.1, -0.1, 1e-6, -1e-6, 1.0, -1e39, -INF, 0.0):
        inside = bd.inward(low, storage, INF, np.dtype("f8"))
        assert float(inside) >= low
        with np.errstate(over="ignore"):
            below = np.nextafter(inside.astype(storage), storage.type(-INF))
        assert low == -INF or float(below) < low
        mirrored = bd.inward(-low, storage, -INF, np.dtype("f8"))
        assert float(mirrored) == -float(inside)


def test_bounds_beyond_the_range_of_the_dtype_are_open_or_refused():
    p = np.ones(2, np.float16)
    na.Adam(p, bounds=(-1e5, 1e5))
    assert p.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"^bounds: no finite float16 lies between"):
        na.Adam(p, bounds=(1e5, None))
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


def test_moments_at_an_active_bound_decay():
    """x came with momentum: it is clamped, and the moments forget the way."""
    p = np.array([0.15])
    opt = na.Adam(p, lr=0.1, bounds=(0.0, None))
    for _ in range(2):
        opt.step(np.ones(1))
    assert p[0] == 0
    m, v = float(opt.state["m"][0]), float(opt.state["v"][0])
    for k in range(1, 6):
        opt.step(np.ones(1))
        assert opt.state["m"][0] == pytest.approx(m * 0.9**k, rel=1e-14)
        assert opt.state["v"][0] == pytest.approx(v * 0.999**k, rel=1e-14)
        assert p[0] == 0


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


def test_both_bounds_at_once_fix_a_parameter():
    p = np.array([5.0, 5.0])
    opt = na.Adam(p, lr=0.5, bounds=(2.0, 2.0))
    for g in (1.0, -1.0, -3.0):
        opt.step(np.full(2, g))
    assert p.tolist() == [2.0, 2.0]
    assert (opt.state["v"] == 0).all()


def test_zeros_of_both_signs_are_the_same_bound():
    p = np.array([-0.0, 0.0])
    opt = na.Adam(p, lr=0.1, bounds=(0.0, None))
    opt.step(np.ones(2))
    assert (p == 0).all()
    assert (opt.state["m"] == 0).all()


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


def test_minimum_on_the_boundary_is_found():
    target = np.array([-2.0, 0.3, 5.0])
    p = np.array([0.9, 0.9, 0.1])
    opt = na.Adam(p, lr=0.05, bounds=(0.0, 1.0))
    for _ in range(500):
        opt.step(2 * (p - target))
    np.testing.assert_allclose(p, [0.0, 0.3, 1.0], atol=1e-6)


ends = st.sampled_from([None, -INF, -1.0, -0.3, 0.0, 0.0, 0.25, 1.0, INF])
pairs = st.tuples(ends, ends).filter(
    lambda pair: None in pair or (pair[0] <= pair[1] and pair[0] < INF and pair[1] > -INF)
)


@relaxed
@given(pairs=st.lists(pairs, min_size=1, max_size=6), seed=st.integers(0, 99))
def test_any_box_against_the_reference(pairs, seed):
    """Never outside, and the reference's numbers; one array of bounds has the bits of scalars."""
    rng = np.random.default_rng(seed)
    n = len(pairs)
    lo = np.array([-INF if lo is None else lo for lo, _ in pairs])
    hi = np.array([INF if hi is None else hi for _, hi in pairs])
    lo, hi = np.where(lo == INF, 0.0, lo), np.where(hi == -INF, 0.0, hi)
    start, *calls = rng.integers(-4, 5, (8, n)) / 4  # often exactly on a bound
    opt = na.Adam(start.copy(), **neutral(start, bounds=Bounds(lo, hi), maximize=True))
    ref = Steps([start], lr=0.1, bounds=[(lo, hi)], maximize=True)
    for g in calls:
        for _ in range(2):
            opt.step(g)
        ref.step([g])
        assert ((opt.params >= lo) & (opt.params <= hi)).all()
        np.testing.assert_allclose(opt.params, ref.p[0], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(opt.state["m"], ref.m[0], rtol=1e-12, atol=1e-13)


def test_scalars_and_arrays_have_the_same_bits():
    """Each array its own pair of numbers: rows of the control block, or arrays beside others."""
    rng = np.random.default_rng(1)
    start = [rng.standard_normal((3, 5)), rng.standard_normal(9), rng.standard_normal(4)]
    calls = [[rng.standard_normal(p.shape) for p in start] for _ in range(6)]
    pairs = [(-0.5, 0.5), (None, 0.1), None]
    by_number = na.Adam([p.copy() for p in start], 0.1, bounds=pairs)
    arrays = [(np.full((3, 5), -0.5), 0.5), (None, np.full(9, 0.1)), (None, None)]
    by_array = na.Adam(start, **neutral(start, bounds=arrays, accumulate=2))
    for grads in calls:
        by_number.step(grads)
        by_array.step(grads)
        by_array.flush()
    for name in ("m", "v"):
        for one, other in zip(by_number.state[name], by_array.state[name], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-15)
    for one, other in zip(by_number.params, by_array.params, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-16)


def test_frozen_arrays_are_not_projected_and_need_no_bounds():
    params = {"a": np.array([5.0]), "b": np.array([5.0])}
    opt = na.Adam(params, bounds={"a": (0.0, 1.0)}, groups={"b": {"frozen": True}})
    opt.step({"a": np.ones(1), "b": None})
    assert params["b"][0] == 5.0
    assert params["a"][0] < 1.0


def test_bounds_as_given_are_readable():
    opt = na.Adam(np.ones(2), bounds=(0, None))
    assert opt.bounds == (0, None)
    assert "bounds=(0, None)" in repr(opt)
    assert_same_bits(opt.params, np.ones(2))
