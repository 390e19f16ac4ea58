"""Starts of every kind: lists, whole numbers, labelled and lazy arrays; and units, refused."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from numadam._minimize import arguments
from tests.trees import Pair, tree_map


def still(x):
    """An f whose gradient is 0, for any nesting."""
    return 0.0, tree_map(np.zeros_like, x)


def bowl(x):
    return float(np.sum((x - 3) ** 2)), 2 * (x - 3)


WHOLE = [
    (np.array([1, 2, 3]), np.array([1.0, 2.0, 3.0])),
    (np.array([1, 2], np.uint8), np.array([1.0, 2.0])),
    ([1, 2, 3], np.array([1.0, 2.0, 3.0])),
    ((1, 2.5), np.array([1.0, 2.5])),
    ([[1, 2], [3, 4]], np.array([[1.0, 2.0], [3.0, 4.0]])),
    (3, np.array(3.0)),
    (np.int32(3), np.array(3.0)),
    ({"a": np.array([1, 2]), "b": 1}, {"a": np.array([1.0, 2.0]), "b": np.array(1.0)}),
    ([np.array([1, 2]), np.ones(2)], [np.array([1.0, 2.0]), np.ones(2)]),
]


@pytest.mark.parametrize(("x0", "start"), WHOLE, ids=range(len(WHOLE)))
def test_whole_numbers_become_float64(x0, start):
    def same(leaf, other):
        assert (leaf.dtype, leaf.shape) == (np.float64, other.shape)
        np.testing.assert_array_equal(leaf, other)
        return 0

    tree_map(same, na.minimize(still, x0, jac=True, maxiter=0).x, start)


def test_starts_are_copied_to_arrays_of_their_own():
    a = np.asfortranarray(np.ones((2, 3)))
    copied = arguments.own_copy(a)
    assert copied.flags.c_contiguous
    assert not np.shares_memory(copied, a)
    pair = arguments.own_copy(Pair(a, [1, 2.5]))
    assert type(pair) is Pair
    np.testing.assert_array_equal(pair.first, a)
    assert arguments.own_copy([a, {"w": np.float32(2)}])[1]["w"].dtype == np.float32
    assert not np.shares_memory(arguments.copy_tree({"a": a})["a"], a)
    assert not np.shares_memory(arguments.copy_tree(a), a)


OPTIMISER = [
    (np.array([1, 2, 3]), r"^params: .* got int64. Use .astype\(numpy.float64\)"),
    ([1, 2, 3], r"^params\[0\]: .*A list of numbers is one array: numpy.array\(x, dtype=float"),
    ({"w": [1.0]}, r"^params\['w'\]\[0\]: .*A list of numbers is one array"),
]


@pytest.mark.parametrize(("x", "says"), OPTIMISER, ids=range(3))
def test_an_optimiser_changes_arrays_in_place_so_it_takes_none(x, says):
    with pytest.raises(TypeError, match=says):
        na.Adam(x)


class Labelled:
    """An array of pandas, xarray or dask: NumPy can copy it, but it is no array of NumPy's."""

    def __init__(self, values, **notes):
        self.values = values
        vars(self).update(notes)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype)


def test_labelled_arrays_are_copied():
    x0 = Labelled([1.0, 2.0], units="m")  # a note, as xarray has it
    run = {"jac": True, "maxiter": 0}
    for x in (
        na.minimize(still, x0, **run).x,
        na.minimize(still, {"a": x0}, **run).x["a"],
        na.minimize_many(lambda x: (np.zeros(1), 0 * x), Labelled([[1, 2]]), **run).x[0],
    ):
        assert type(x) is np.ndarray
        np.testing.assert_array_equal(x, x0.values)
    assert x0.values == [1.0, 2.0]


REFUSED = [
    (None, TypeError, r"^x0: expected a start, got None"),
    ({"a": None}, TypeError, r"^x0\['a'\]: expected a start, got None"),
    ([np.ones(2), "b"], TypeError, r"^x0\[1\]: expected a NumPy or CuPy array, got str"),
    ([[1.0], [1.0, 2.0]], ValueError, r"^x0: .*inhomogeneous"),
    (np.ones(2, np.float16), TypeError, r"^x0: expected float32.*got float16"),
    ({"a": np.ones(2, bool)}, TypeError, r"^x0\['a'\]: expected float32.*got bool"),
    *((Labelled([value]), TypeError, r"^x0: expected float32") for value in ("a", None, True)),
]


@pytest.mark.parametrize(("x0", "error", "says"), REFUSED, ids=range(len(REFUSED)))
def test_starts_that_are_refused(x0, error, says):
    with pytest.raises(error, match=says):
        na.minimize(bowl, x0, jac=True)


# --- units ---------------------------------------------------------------------------------------


class Quantity(np.ndarray):
    """An array of astropy or unyt: NumPy's, with a unit besides."""

    unit = None
    value = property(lambda self: self.view(np.ndarray))

    def __array_finalize__(self, other):
        self.unit = getattr(other, "unit", None)


class Measured(Labelled):
    """An array of pint: a proxy of NumPy's."""

    units = property(lambda self: "metre")
    magnitude = property(lambda self: self.values)
    dtype = property(lambda self: self.values.dtype)

    @property
    def __array_interface__(self):
        return self.values.__array_interface__


def astropys(values):
    quantity = np.array(values, float).view(Quantity)
    quantity.unit = "m"
    return quantity


def pints(values):
    return Measured(np.array(values, float))


@pytest.mark.parametrize(
    ("kind", "says"), [(astropys, "unit, m, .* pass x.value"), (pints, "metre, .* x.magnitude")]
)
def test_units_are_refused_and_never_dropped(kind, says):
    x, g, v = np.ones(2), np.ones(2), kind([1.0, 2.0])
    opt = na.SGD(x)
    for name, call in {
        r"grads: ": lambda: opt.step(v),
        r"out: ": lambda: opt.step(g, out=v),
        r"params: ": lambda: na.SGD(v),
        r"params\['w'\]: ": lambda: na.SGD({"w": v}),
        r"g: ": lambda: na.sgd_update(x, v),
        r"bounds\[0\]: ": lambda: na.SGD(x, bounds=(v, None)),
        r"bounds: ": lambda: na.SGD(x, bounds=kind([[0.0, 1.0], [0.0, 2.0]])),
        r"x0: ": lambda: na.minimize(bowl, v, jac=True),
        r"x0\['w'\]: ": lambda: na.minimize(bowl, {"w": v}, jac=True),
        r"fun: its gradient: ": lambda: na.minimize(lambda x: (0.0, v), x, jac=True),
        r"jac: the gradient: ": lambda: na.minimize(lambda x: 0.0, x, jac=lambda x: v),
        r"fun: f ": lambda: na.minimize(lambda x: (kind(1.0), x), x, jac=True),
    }.items():
        with pytest.raises(TypeError, match=f"(?s)^{name}.*{says}"):
            call()
    with pytest.raises(TypeError, match=r"^lr: expected a number"):
        na.SGD(x, lr=v)
    with pytest.raises(TypeError, match=r"^lr: expected"):
        na.minimize_many(bowl, np.ones((2, 3)), jac=True, lr=v)
    np.testing.assert_array_equal(x, 1.0)


def test_a_quantity_without_a_unit_is_an_array():
    opt = na.SGD(np.ones(2), lr=1.0)
    opt.step(np.ones(2).view(Quantity))
    np.testing.assert_array_equal(opt.params, 0.0)
