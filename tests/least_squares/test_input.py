"""What least_squares_many takes, refuses and shows."""

from __future__ import annotations

import numba
import numpy as np
import pytest

import numadam as na
from tests.least_squares.models import decay, decay_with_j, decays
from tests.processes import python

FITS = decays(20)
ARGS = FITS.t, FITS.y


@numba.njit
def plain(x, r):
    r[0], r[1] = x[0] - 1.0, x[1] - 2.0


@numba.njit
def plain_with_j(x, r, J):
    r[0], r[1] = x[0] - 1.0, x[1] - 2.0
    J[0, 0] = J[1, 1] = 1.0


@numba.njit
def numbered(x, r, i):
    r[0], r[1] = x[0] - 1.0, x[1] - 2.0 * i


@numba.njit
def whole(x, r, J, i):
    """Written by arrays, with J of the shape that SciPy has."""
    r[:] = x - np.array([1.0, 2.0])
    J[:, :] = np.eye(2)
    if J.shape != (2, 2) or r.shape != (2,):
        raise ValueError("shape")


@pytest.mark.parametrize(
    ("fun", "jac"), [(plain, None), (plain_with_j, True), (numbered, False), (whole, True)]
)
def test_forms(fun, jac):
    res = na.least_squares_many(fun, np.zeros((2, 2)), m=2, jac=jac)
    np.testing.assert_allclose(res.x[1], [1.0, 2.0], atol=1e-7)


@numba.njit
def reads_only_t(x, r, t):
    r = t * x[0]  # noqa: F841  # what is refused


@numba.njit
def returns_another_r(x, r, t):
    r = t * x
    return r


@numba.njit
def without_j(x, r, J, t):
    r[0] = t * x[0]


@numba.njit
def changes_x(x, r, t):
    x[0] = 1.0
    r[0] = t * x[0]


@numba.njit
def returns(x, t):
    return t * x


@numba.njit
def with_default(x, r, i=0, t=1.0):
    r[0] = t * x[0]


@numba.njit
def with_text(x, r, t):
    r[0] = x[0]


def _python(x, r, t):
    r[0] = t * x[0]


START = np.zeros((3, 1))
REFUSED = {
    "python": (TypeError, "compiled by Numba", (_python, START, (1.0,)), {}),
    "one row": (ValueError, r"x0\[None\]", (decay, np.zeros(3), ARGS), {}),
    "no unknown": (ValueError, "problems, n", (decay, np.zeros((3, 0)), ARGS), {}),
    "complex": (TypeError, "complex128", (decay, np.zeros((3, 2), complex), ARGS), {}),
    "r is not read": (TypeError, "writes no residuals", (reads_only_t, START, (1.0,)), {}),
    "r is another": (TypeError, "writes no residuals", (returns_another_r, START, (1.0,)), {}),
    "J is not read": (TypeError, "no derivatives", (without_j, START, (1.0,)), {"jac": True}),
    "x is changed": (TypeError, "x is read-only", (changes_x, START, (1.0,)), {}),
    "returns": (TypeError, r"fun\(x, r, i, \*args\)", (returns, START, (1.0,)), {}),
    "defaults": (TypeError, "without defaults", (with_default, START, (1.0,)), {}),
    "jac": (TypeError, "jac: expected True", (decay, FITS.x0, ARGS), {"jac": "2-point"}),
    "jac of 1": (TypeError, "jac: expected True", (decay, FITS.x0, ARGS), {"jac": 1}),
    "jac of NumPy": (TypeError, "jac: .*True", (decay, FITS.x0, ARGS), {"jac": np.True_}),
    "jac of an array": (TypeError, "jac: .*True", (decay, FITS.x0, ARGS), {"jac": np.ones(2)}),
    "no J": (TypeError, r"as fun\(x, r, J, \*args\)", (decay, FITS.x0, ARGS), {"jac": True}),
    "m": (ValueError, "m: expected", (decay, FITS.x0, ARGS), {"m": 0}),
    "m of a float": (TypeError, "Write 30", (decay, FITS.x0, ARGS), {"m": 30.0}),
    "list": (TypeError, "args: expected a tuple", (decay, FITS.x0, [*ARGS]), {}),
    "text": (TypeError, r"args\[0\]", (with_text, START, (object(),)), {}),
    "ftol": (ValueError, "ftol: expected at least 2.2e-16", (decay, FITS.x0, ARGS), {"ftol": 0}),
    "xtol": (ValueError, "xtol", (decay, FITS.x0, ARGS), {"xtol": 1e-17}),
    "gtol": (TypeError, "gtol: expected a number", (decay, FITS.x0, ARGS), {"gtol": None}),
    "max_nfev": (ValueError, "max_nfev", (decay, FITS.x0, ARGS), {"max_nfev": 0}),
    "too large": (ValueError, "max_nfev", (decay, FITS.x0, ARGS), {"max_nfev": 2**70}),
    "sigma": (TypeError, "divides each residual", (decay, FITS.x0, ARGS), {"sigma": 1}),
    "loss": (TypeError, "sum of squares", (decay, FITS.x0, ARGS), {"loss": "huber"}),
    "checkpoint": (TypeError, "numadam_result", (decay, FITS.x0, ARGS), {"checkpoint": "a"}),
    "lr": (TypeError, "minimize_many", (decay, FITS.x0, ARGS), {"lr": 0.1}),
    "crossed": (ValueError, "lo is above hi", (decay, FITS.x0, ARGS), {"bounds": (1, 0)}),
    "pairs": (ValueError, "expected 3 pairs", (decay, FITS.x0, ARGS), {"bounds": [(0, 1)] * 4}),
    "points": (ValueError, r"points.*\(20,\)", (decay, FITS.x0, ARGS), {"points": [30]}),
    "too many": (ValueError, "0 to m = 30", (decay, FITS.x0, ARGS), {"points": np.full(20, 31)}),
    "negative": (ValueError, "got -1", (decay, FITS.x0, ARGS), {"points": [30] * 19 + [-1]}),
    "ragged": (
        ValueError,
        r"got \[\[1\], \[2, 3\]\]",
        (decay, FITS.x0, ARGS),
        {"points": [[1], [2, 3]]},
    ),
    "switch": (TypeError, "absolute_sigma", (decay, FITS.x0, ARGS), {"absolute_sigma": 2}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    kind, text, args, options = REFUSED[case]
    with pytest.raises(kind, match=text):
        na.least_squares_many(*args, **{"m": 30, **options})


def test_lists_integers_and_other_layouts_are_taken():
    res = na.least_squares_many(decay_with_j, FITS.x0, ARGS, m=30, jac=True)
    for x0 in (FITS.x0.tolist(), FITS.x0.astype(int), np.asfortranarray(FITS.x0)):
        again = na.least_squares_many(decay_with_j, x0, ARGS, m=30, jac=True)
        np.testing.assert_array_equal(again.x, res.x)
    other = na.least_squares_many(decay, FITS.x0, (FITS.t, FITS.y.T.copy().T), m=30)
    np.testing.assert_allclose(other.x, res.x, rtol=1e-4)


@numba.njit("void(f8[::1], f8[::1], f8[:, :], i8)")
def with_signature(x, r, J, i):
    r[0], r[1] = x[0] - 1.0, x[1] - i
    J[0, 0] = J[1, 1] = 1.0


def test_an_explicit_signature_is_taken():
    res = na.least_squares_many(with_signature, np.zeros((3, 2)), m=2, jac=True)
    np.testing.assert_array_equal(res.x, [[1, 0], [1, 1], [1, 2]])


def test_no_problem_with_bounds_of_its_own():
    none = np.zeros((0, 3))
    assert na.least_squares_many(decay, none, ARGS, m=30, bounds=(none, none)).x.shape == (0, 3)


def test_without_jit_a_sentence_says_so():
    code = """
    import numba
    @numba.njit
    def fun(x, r):
        r[0] = x[0]
    try:
        na.least_squares_many(fun, np.ones((1, 1)), m=1)
    except RuntimeError as error:
        print(error)
    """
    assert python(code, NUMBA_DISABLE_JIT="1").startswith("NUMBA_DISABLE_JIT is set")


def test_what_a_result_shows():
    res = na.least_squares_many(decay_with_j, FITS.x0, ARGS, m=30, jac=True)
    assert isinstance(res, na.ManyResult)
    assert repr(res).splitlines()[0] == (
        "  problems: 20, x of shape (20, 3): 1 array, 60 float64, cpu"
    )
    for text in ("success: 20 of 20", "cost: ", "optimality: ", f"nfev: {res.nfev.sum()}"):
        assert text in repr(res)
    assert "least_squares_many" in res._repr_html_()
    assert res.message == " ".join(
        f"{np.sum(res.status == code)} of 20: {text} held."
        for code, text in ((1, "gtol"), (2, "ftol"), (3, "xtol"), (4, "ftol and xtol"))
        if code in res.status
    )
    best = res.best()
    assert best.index == res.cost.argmin()
    assert best.cost == res.cost.min()
    np.testing.assert_array_equal(best.stderr, res.stderr[best.index])
    np.testing.assert_array_equal(best.cov, res.cov[best.index])
    with pytest.raises(AttributeError, match="fun: this result has none"):
        _ = res.fun
