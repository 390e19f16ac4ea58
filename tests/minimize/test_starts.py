"""Starts of every kind: lists, whole numbers, labelled and lazy arrays; and units, refused."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from tests.trees import tree_map


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
    def same(one, other):
        assert one.dtype == np.float64
        np.testing.assert_array_equal(one, other)
        return 0

    tree_map(same, na.minimize(still, x0, jac=True, maxiter=0).x, start)


def test_an_optimiser_changes_arrays_in_place_so_it_takes_none():
    for x, says in (
        (np.array([1, 2, 3]), r"^params: .* got int64. Use .astype\(numpy.float64\)"),
        ([1, 2, 3], r"^params\[0\]: .*A list of numbers is one array: numpy.array\(x, dtype=float"),
        ({"w": [1.0]}, r"^params\['w'\]\[0\]: .*A list of numbers is one array"),
    ):
        with pytest.raises(TypeError, match=says):
            na.Adam(x)


class Labelled:
    """An array of pandas, xarray or dask: NumPy can copy it, but it is no array of NumPy's."""

    def __init__(self, values, **notes):
        self.values = values
        vars(self).update(notes)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype)


@pytest.mark.parametrize("nested", [False, True])
def test_labelled_arrays_are_copied(nested):
    x0 = Labelled([1.0, 2.0], units="m")  # a note, as xarray has it

    def fun(x):
        assert type(x) is np.ndarray
        return bowl(x)

    if nested:
        res = na.minimize(lambda x: (fun(x["a"])[0], {"a": fun(x["a"])[1]}), {"a": x0}, jac=True,
                          lr=0.1)  # fmt: skip
        x = res.x["a"]
    else:
        res = na.minimize(fun, x0, jac=True, lr=0.1)
        x = res.x
    assert res.success
    assert type(x) is np.ndarray
    np.testing.assert_allclose(x, 3.0, atol=1e-4)
    assert x0.values == [1.0, 2.0]


def test_many_starts_of_a_labelled_array():
    rows = na.minimize_many(
        lambda X: (np.sum(X**2, axis=1), 2 * X), Labelled([[1, 2], [3, 4]]), jac=True, lr=0.1
    )
    np.testing.assert_allclose(rows.x, 0.0, atol=1e-4)


@pytest.mark.parametrize("values", [["a"], [None], [True]])
def test_labelled_arrays_of_no_numbers_are_refused(values):
    with pytest.raises(TypeError, match=r"^x0: expected float32, float64"):
        na.minimize(bowl, Labelled(values), jac=True)


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
