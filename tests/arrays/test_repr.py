"""Optimisers, states, results and schedules as they are shown in a terminal and in a notebook."""

import pickle
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import numadam as na
from numadam._arrays import formatting


class Cells(HTMLParser):
    """The texts of the cells of a table, and whether its tags are closed."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.open, self.rows = [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def cells(thing):
    page = thing._repr_html_()
    assert set(re.findall(r"[a-z-]*color[a-z-]*: *[^;\"]*", page)) == {
        "color: inherit"
    }  # dark pages
    assert "http" not in page
    return {row[0]: row[1:] for row in Cells(page).rows}


def paraboloid(x):
    return np.sum((x - 1) ** 2), 2 * (x - 1)


def paraboloids(x):
    return np.sum((x - 1) ** 2, axis=1), 2 * (x - 1)


def test_an_optimiser_names_its_arrays_and_what_is_unusual():
    params = {"w": np.zeros((40, 30)), "b": np.zeros(30)}
    opt = na.Adam(params, lr=na.schedules.Constant(0.1), beta2=0.99)
    assert repr(opt) == (
        "Adam(lr=Constant(value=0.1), beta2=0.99, t=0; 2 arrays, 1,230 float64, cpu)"
    )
    shown = cells(opt)
    assert shown["params"] == ["2 arrays, 1,230 float64, cpu"]
    assert shown["state"] == ["m, v (19.7 kB)"]
    assert shown["t"] == ["0"]
    assert shown["beta2"] == ["0.99"]
    assert "beta1" not in shown


def test_a_long_option_is_a_few_words():
    shown = repr(na.Adam(np.zeros(1000), lr=np.full(1000, 0.1)))
    assert shown.startswith("Adam(lr=float64 array of shape (1000,), t=0; ")
    assert len(shown) < 100
    bounded = na.Adam(np.ones(3), bounds=(np.zeros(3), None))
    assert "(lr=0.001, bounds=(array([0., 0., 0.]), None), t=0" in repr(bounded)


class Doubly(na.Adam):
    """A user's class with a default of its own."""

    def __init__(self, params, lr=0.5, **options):
        super().__init__(params, lr, **options)


@pytest.mark.parametrize(
    ("kind", "size", "options", "shown"),
    [
        (Doubly, 2, {}, "Doubly(lr=0.5, t=0; 1 array, 2 float64, cpu)"),
        (na.Adam, 0, {}, "Adam(lr=0.001, t=0; 1 array, 0 float64, cpu)"),
        (na.SGD, 3, {"like": "keras"}, "SGD(lr=0.01, decoupled=True, like='keras', t=0; 1 array"),
    ],
)
def test_an_optimiser_shows_class_and_options(kind, size, options, shown):
    assert repr(kind(np.zeros(size), **options)).startswith(shown)


def test_the_state():
    opt = na.Adam({"<b>": np.zeros(3)})
    opt.step({"<b>": np.ones(3)})
    assert "m, v" in repr(opt.state)
    assert "t=1" in repr(opt.state)
    shown = cells(opt.state)
    assert shown == {
        "t": ["1"],
        "m": ["1 array, 3 float64, cpu"],
        "v": ["1 array, 3 float64, cpu"],
    }


def test_a_result_is_short_and_still_scipys():
    from scipy.optimize import OptimizeResult

    res = na.minimize(paraboloid, np.zeros(1000), jac=True, lr=0.1, maxiter=50)
    text = repr(res)
    assert isinstance(res, OptimizeResult)
    assert text.splitlines()[0] == "   message: The number of iterations has reached maxiter."
    assert len(text) < 1500
    assert "51 iterations of nit, fun, grad_norm, lr" in text
    assert "to go on from nit=50" in text
    assert set(res) == set(res.keys())
    shown = cells(res)
    assert list(shown)[:3] == ["message", "success", "status"]
    assert shown["x"] == ["float64 array of shape (1000,)"]
    again = pickle.loads(pickle.dumps(res))
    assert repr(again) == text
    np.testing.assert_array_equal(again.x, res.x)


def test_many_results_are_counts():
    starts = np.ones((200_000, 1))
    starts[::4] = 0.0
    starts[5] = np.nan
    res = na.minimize_many(paraboloids, starts, jac=True, lr=0.1, maxiter=1)
    shown = cells(res)
    assert shown["success"] == ["149,999 of 200,000"]
    assert shown["status 0"] == ["149,999: a stop test held"]
    assert shown["status 1"] == ["50,000: maxiter was reached"]
    assert shown["status 2"] == ["1: f is not finite"]
    assert shown["fun"] == ["0 to 0.81, median 0; 1 not finite"]
    assert len(repr(res)) < 600
    assert "149,999 of 200,000" in repr(res)


def test_names_are_escaped():
    page = formatting.table("<i>", [("<script>", "a & b")], ("<h>",))
    assert "<script>" not in page
    assert Cells(page).rows == [["<h>"], ["<script>", "a & b"]]
