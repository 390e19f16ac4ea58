"""What surrounds a program: no console, its `numpy.seterr`, Numba's switches."""

from __future__ import annotations

import copy
import pickle
import sys

import numba
import numpy as np
import pytest

import numadam as na
from numadam import schedules as sc
from tests import extras
from tests.minimize.objectives import rosen
from tests.processes import python


@numba.njit
def line(x, r, d):
    for k in range(3):
        r[k] = x[0] + x[1] * k - d[k]


def square(x):
    return float(x @ x), 2 * x


# --- no console ----------------------------------------------------------------------------------


RUNS = {
    "minimize": lambda **how: na.minimize(square, np.ones(3), jac=True, lr=0.1, **how),
    "compiled": lambda **how: na.minimize(rosen, np.zeros(2), maxiter=20, **how),
    "minimize_many": lambda **how: na.minimize_many(
        lambda X: ((X**2).sum(axis=1), 2 * X), np.ones((2, 3)), jac=True, maxiter=20, **how
    ),
    "least_squares_many": lambda **how: na.least_squares_many(
        line, np.zeros((2, 2)), (np.arange(3.0),), m=3, **how
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_without_a_console_there_is_no_bar_and_the_same_result(name, monkeypatch, capsys):
    run = RUNS[name]
    right = run()
    monkeypatch.setattr(sys, "stderr", None)
    found = run(progress=True)
    np.testing.assert_array_equal(found.x, right.x)
    assert found.message == right.message
    monkeypatch.undo()
    assert capsys.readouterr().out == ""


class Gone:
    """The stderr of a terminal that is closed after so many texts."""

    def __init__(self, texts):
        self.texts = texts

    def write(self, text):
        self.texts -= 1
        if self.texts < 0:
            raise OSError(5, "Input/output error")
        return len(text)

    def flush(self):
        if self.texts < 0:
            raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("texts", [0, 1, 2, 5])
def test_a_run_outlives_its_terminal(texts, monkeypatch):
    run = RUNS["minimize"]
    right = run()
    monkeypatch.setattr(sys, "stderr", Gone(texts))
    found = run(progress=True)
    monkeypatch.undo()
    np.testing.assert_array_equal(found.x, right.x)


# --- numpy.seterr --------------------------------------------------------------------------------


def rounded(dtype, *values):
    with np.errstate(all="ignore"):
        return np.array(values).astype(dtype)


TINY, LARGE = 5e-324, 1.7e308
BOXES = [
    (0.0, 1.0), (0, 0), (-0.0, None), (None, 0.0), (1e-46, 1e39), (-1e-320, 1e-320), (TINY, None),
    (-LARGE, LARGE), [(0, 1), (None, 1e-46), (-LARGE, LARGE)], (np.array([0.0, 1e-320, 1.0]), None),
    (np.longdouble(0), np.finfo(np.longdouble).max),
]  # fmt: skip


@pytest.fixture
def raising():
    with np.errstate(all="raise"):
        yield


@pytest.mark.usefixtures("raising")
@pytest.mark.parametrize("dtype", ["float32", extras.sweep("float64")])
@pytest.mark.parametrize("bounds", BOXES, ids=range(len(BOXES)))
def test_bounds_are_rounded_without_an_error_of_the_programs(bounds, dtype):
    x = rounded(dtype, 1e-42, 1.0, 1e30)
    na.Adam(x.copy(), bounds=bounds).step(np.ones(3, dtype))
    na.minimize(lambda x: (1.0, 0 * x + 1), x, jac=True, bounds=bounds, maxiter=2)
    many = np.array([x, x])
    na.minimize_many(
        lambda X: (np.zeros(len(X)), 0 * X + 1), many, jac=True, bounds=bounds, maxiter=2
    )


@pytest.mark.usefixtures("raising")
@pytest.mark.parametrize("dtype", ["float32", extras.sweep("float64")])
def test_numbers_are_rounded_to_arrays_without_an_error_of_the_programs(dtype, tmp_path):
    x, g = rounded(dtype, 1e-30, 1.0, 1e-40), rounded(dtype, 1e-30, 1e30, 1e-40)
    for lr in (1e-320, 1e300, np.full(3, 1e-320), np.full(3, 1e300), sc.Cosine(1e-320, 10)):
        opt = na.Adam(x.copy(), lr=lr, weight_decay=1e-320, clip_norm=1e-320, ema=1e-320, eps=1e-46)
        for _ in range(3):
            opt.step(g)
        opt.reset()
        opt.restore(opt.snapshot())
        opt.save(tmp_path / f"{dtype}.npz")
        opt.load(tmp_path / f"{dtype}.npz")
        pickle.loads(pickle.dumps(copy.deepcopy(opt)))
        opt.t = 2**53 - 2
        opt.step(g)
    scalar = np.ones((), dtype)
    na.SGD(scalar).step(1e-300)


#: Gradients that the library rounds, squares and subtracts.
GRADIENTS = [(1.0, 1e-30, 1e-200), (1e300, 1e-60, 1e-200), (TINY, LARGE, 0.0)]


@pytest.mark.usefixtures("raising")
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("norm", [np.inf, 2])
def test_runs_raise_no_error_of_their_own_arithmetic(gradient, norm):
    g = np.array(gradient)
    x0 = rounded("float32", 3e38, 1e-40, -3e38)
    for bounds in (None, (-3e38, 3e38)):
        options = {"jac": True, "maxiter": 4, "bounds": bounds, "norm": norm}
        na.minimize(lambda x: (1.0, g), x0, **options, callback=na.History())
        na.minimize(lambda x: (1.0, g), x0, **options, ftol=1e-3, xtol=1e-3)
        na.minimize_many(lambda X: (np.ones(2), np.array([g, g])), np.array([x0, x0]), **options)
        na.minimize(lambda x: (1.0, {"a": g, "b": g}), {"a": x0, "b": x0}, **options, xtol=1e-3)


# --- Numba's switches ----------------------------------------------------------------------------


DISABLED = """
import numpy as np
import numadam as na

try:
    na.rule("Plain", lambda p, g, h: h.step * g, lambda c, q, lr, t: dict(step=lr))
except RuntimeError as error:
    print(error)
"""


def test_a_rule_says_that_numba_is_switched_off(tmp_path):
    shown = python(DISABLED, cwd=tmp_path, NUMBA_DISABLE_JIT="1")
    assert shown.startswith("NUMBA_DISABLE_JIT is set, but numadam's loops exist only compil")
