"""What a row depends on, and what an exception, an interrupt, a fork or the disk cache change.

And what least_squares_many takes, refuses and shows.
"""

from __future__ import annotations

from contextlib import ExitStack

import numba
import numpy as np
import pytest

import numadam as na
from numadam._least_squares import batch
from tests import extras
from tests.least_squares.models import decay, decay_with_j, decays
from tests.processes import interrupted_after, python

FITS = decays(400)
NAMES = ("x", "cost", "optimality", "cov", "stderr", "status", "nfev", "njev")


def run(rows, jac=True, t=FITS.t, y=FITS.y, **options):
    fun = decay_with_j if jac else decay
    args = t, np.ascontiguousarray(y[rows])
    return na.least_squares_many(
        fun, FITS.x0[rows], args, m=30, jac=jac or "differences", **options
    )


def assert_same(a, b):
    for name in NAMES:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("jac", [True, False])
@pytest.mark.parametrize("bounds", [None, (0, 2.2)])
def test_a_row_depends_on_nothing_but_itself(jac, bounds, monkeypatch):
    """Not on threads, the length of a call, other rows, nor what the memory has held."""
    whole = run(slice(None), jac, bounds=bounds)
    monkeypatch.setattr(batch, "_PARALLEL_FROM", 10**9)
    assert_same(run(slice(None), jac, bounds=bounds), whole)
    monkeypatch.setattr(batch, "_PARALLEL_FROM", 0)
    monkeypatch.setattr(batch, "_CHUNK_SECONDS", 0.0)
    assert_same(run(slice(None), jac, bounds=bounds), whole)
    rows = np.random.default_rng(0).permutation(400)[:77]
    part = run(rows, jac, bounds=bounds)
    assert_same(part, {name: whole[name][rows] for name in NAMES})
    alone = run(slice(3, 4), jac, bounds=bounds)
    assert_same(alone, {name: whole[name][3:4] for name in NAMES})


@pytest.mark.parametrize("jac", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_what_is_not_finite_ends_its_row_only(jac, bad):
    y, x0 = FITS.y.copy(), FITS.x0.copy()
    y[17, 5] = bad
    whole, res = run(slice(None), jac), run(slice(None), jac, y=y)
    others = np.arange(400) != 17
    assert_same({name: res[name][others] for name in NAMES}, {n: whole[n][others] for n in NAMES})
    assert res.status[17] == 5
    assert not res.success[17]
    assert np.isnan(res.stderr[17]).all()
    np.testing.assert_array_equal(res.x[17], FITS.x0[17])
    assert (
        "1 of 400: a residual or a derivative is not finite, or all squares underflow."
        in res.message
    )
    np.testing.assert_array_equal(FITS.x0, x0)


def test_squares_that_underflow_are_no_success():
    x0, y = np.array([[1e-170, 1.0, 0.0], [0.0, 1.0, 0.0]]), np.zeros((2, 30))
    res = na.least_squares_many(decay, x0, (FITS.t, y), m=30)
    np.testing.assert_array_equal(res.status, [5, 1])  # the second one is exact
    np.testing.assert_array_equal(res.cost, [0, 0])


@numba.njit
def away(x, r, J, case):
    """Residuals or derivatives that are lost at x0, on the way, or all around x0."""
    r[0], r[1] = x[0], 10.0 * (x[1] - x[0] ** 2)
    J[0, 0], J[1, 0], J[1, 1] = 1.0, -20.0 * x[0], 10.0
    if case == 1:
        J[0, 0] = np.nan
    if case == 2 and x[0] != 1.0:
        r[0] = np.nan
    if case == 3 and x[0] < 0.9:
        J[1, 1] = np.inf
    if case == 4 and x[1] < -1.5:
        r[1] = np.inf


@pytest.mark.parametrize(("case", "status"), [(0, 1), (1, 5), (2, 5), (3, 5), (4, 1)])
def test_where_the_model_is_lost(case, status):
    """A step to where it is not finite is taken back; a run that ends for that has status 5."""
    res = na.least_squares_many(away, np.array([[1.0, -1.2]]), (case,), m=2, jac=True)
    assert res.status[0] == status
    assert res.success[0] == (status != 5)
    if case in (0, 4):
        np.testing.assert_allclose(res.x[0], 0, atol=1e-7)


@numba.njit
def fails(x, r, i, calls, at):
    calls[i] += 1
    r[0] = x[0] - i
    if i == at and x[0] > 3.0:
        raise ValueError("lost")


def test_an_exception_names_the_problem_and_carries_what_is_finished(monkeypatch):
    monkeypatch.setattr(batch, "_FIRST_PROBLEMS", 1)
    monkeypatch.setattr(batch, "_CHUNK_SECONDS", 0.0)
    with pytest.raises(ValueError, match="lost") as caught:
        na.least_squares_many(fails, np.zeros((40, 1)), (np.zeros(40, np.int64), 30), m=1)
    assert "numadam: in problem 30." in caught.value.__notes__
    res = caught.value.numadam_result
    np.testing.assert_allclose(res.x[:28, 0], np.arange(28), atol=1e-6)
    assert res.success[:28].all()
    assert (res.status[32:] == -1).all()
    assert "interrupted" in res.message
    assert np.isnan(res.cost[30])


@numba.njit
def fails_from(x, r, i, first):
    r[0] = x[0] - i
    if i == first or i == first + 3:
        raise ValueError("lost")


@pytest.mark.parametrize("first", [2, 3])
def test_the_first_of_two_exceptions_is_named_by_any_number_of_threads(first, monkeypatch):
    monkeypatch.setattr(batch, "_PARALLEL_FROM", 0)
    with pytest.raises(ValueError, match="lost") as caught:
        na.least_squares_many(fails_from, np.zeros((40, 1)), (first,), m=1)
    assert f"numadam: in problem {first}." in caught.value.__notes__


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_comes_between_calls_and_carries_what_is_finished(monkeypatch):
    rows = np.arange(400_000) % 400
    y, x0 = FITS.y[rows], FITS.x0[rows]
    begin = ExitStack()
    advance = batch.Fits.advance

    def advance_then_start(fits):
        advance(fits)  # the first one compiles
        if fits.done <= 100:
            begin.enter_context(interrupted_after(0.2))

    monkeypatch.setattr(batch.Fits, "advance", advance_then_start)
    with begin, pytest.raises(KeyboardInterrupt) as caught:
        na.least_squares_many(decay, x0, (FITS.t, y), m=30, gtol=1e-15, xtol=1e-15, ftol=1e-15)
    so_far = caught.value.numadam_result
    done = int(np.sum(so_far.status >= 0))
    assert 0 < done < 400_000
    assert (so_far.status[done:] == -1).all()
    np.testing.assert_array_equal(so_far.x[done:], x0[done:])
    assert np.isfinite(so_far.cost[:done]).all()
    assert f"{400_000 - done} of 400000: interrupted." in so_far.message


def test_no_problem_at_all_and_a_bar(capsys):
    none = np.zeros((0, 3))
    for bounds in (None, (none, none)):
        res = run(slice(0, 0), bounds=bounds)
        assert res.x.shape == (0, 3)
        assert res.cov.shape == (0, 3, 3)
    assert repr(res).startswith("problems: 0")
    run(slice(None), progress=True)
    assert "400/400" in capsys.readouterr().err


def test_max_nfev():
    res = run(slice(0, 9), max_nfev=3)
    assert (res.nfev <= 3).all()
    assert set(res.status.tolist()) <= {0, 1, 2}
    assert not res.success[res.status == 0].any()
    assert np.isfinite(res.stderr).all()


CODE = """
    from tests.least_squares.models import decay_with_j, decays
    fits = decays(400)
    def fit():
        res = na.least_squares_many(decay_with_j, fits.x0, (fits.t, fits.y), m=30, jac=True)
        return res.x.tobytes().hex()[:99], res.cov.tobytes().hex()[:99]
"""


@extras.fork
@pytest.mark.parametrize("layer", ["omp", "workqueue", "default"])
def test_layers_threads_and_forks_give_the_same(layer: str) -> None:
    code = f"""{CODE}
    import os, threading
    here, found = fit(), []
    threads = [threading.Thread(target=lambda: found.append(fit())) for _ in range(3)]
    [one.start() for one in threads], [one.join() for one in threads]
    assert found == [here] * 3
    child = os.fork()
    if child == 0:
        os._exit(0 if fit() == here else 1)
    print(os.waitpid(child, 0)[1], *here)
    """
    res = run(slice(None))
    here = f"0 {res.x.tobytes().hex()[:99]} {res.cov.tobytes().hex()[:99]}"
    options = {"PYTHONWARNINGS": "ignore", "NUMBA_THREADING_LAYER": layer}
    assert python(code, **options).splitlines()[-1] == here


# --- what is taken, refused and shown -------------------------------------------------------------


FEW = decays(20)
ARGS = FEW.t, FEW.y


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
    "no start": (ValueError, "starts, problems", (decay, np.zeros((0, 3, 3)), ARGS), {}),
    "no unknown": (ValueError, "problems, n", (decay, np.zeros((3, 0)), ARGS), {}),
    "complex": (TypeError, "complex128", (decay, np.zeros((3, 2), complex), ARGS), {}),
    "r is not read": (TypeError, "writes no residuals", (reads_only_t, START, (1.0,)), {}),
    "J is not read": (TypeError, "no derivatives", (without_j, START, (1.0,)), {"jac": True}),
    "x is changed": (TypeError, "x is read-only", (changes_x, START, (1.0,)), {}),
    "returns": (TypeError, r"fun\(x, r, i, \*args\)", (returns, START, (1.0,)), {}),
    "defaults": (TypeError, "without defaults", (with_default, START, (1.0,)), {}),
    "jac": (
        TypeError,
        "jac: expected None, True or 'differences'",
        (decay, FEW.x0, ARGS),
        {"jac": "2-point"},
    ),
    "no J": (TypeError, r"as fun\(x, r, J, \*args\)", (decay, FEW.x0, ARGS), {"jac": True}),
    "m": (ValueError, "m: expected", (decay, FEW.x0, ARGS), {"m": 0}),
    "list": (TypeError, "args: expected a tuple", (decay, FEW.x0, [*ARGS]), {}),
    "text": (TypeError, r"args\[0\]", (with_text, START, (object(),)), {}),
    "ftol": (ValueError, "ftol: expected at least 2.2e-16", (decay, FEW.x0, ARGS), {"ftol": 0}),
    "gtol": (TypeError, "gtol: expected a number", (decay, FEW.x0, ARGS), {"gtol": None}),
    "max_nfev": (ValueError, "max_nfev", (decay, FEW.x0, ARGS), {"max_nfev": 0}),
    "sigma": (ValueError, r"\(30,\) or \(20, 30\), got", (decay, FEW.x0, ARGS), {"sigma": 1}),
    "no sigma": (ValueError, "write 0", (decay, FEW.x0, ARGS), {"sigma": [1.0] * 29 + [np.nan]}),
    "two sigmas": (
        TypeError,
        "Pass sigma alone",
        (decay, FEW.x0, ARGS),
        {"sigma": np.ones(30), "absolute_sigma": True},
    ),
    "kept": (TypeError, "residuals: expected", (decay, FEW.x0, ARGS), {"residuals": 1}),
    "loss": (TypeError, "sum of squares", (decay, FEW.x0, ARGS), {"loss": "huber"}),
    "checkpoint": (TypeError, "numadam_result", (decay, FEW.x0, ARGS), {"checkpoint": "a"}),
    "crossed": (ValueError, "lo is above hi", (decay, FEW.x0, ARGS), {"bounds": (1, 0)}),
    "pairs": (
        ValueError,
        r"array of shape \(3, 2\)",
        (decay, FEW.x0, ARGS),
        {"bounds": [(0, 1)] * 3},
    ),
    "too many": (ValueError, "0 to m = 30", (decay, FEW.x0, ARGS), {"points": np.full(20, 31)}),
    "ragged": (ValueError, r"got \[\[1\], \[2", (decay, FEW.x0, ARGS), {"points": [[1], [2, 3]]}),
    "fixed twice": (ValueError, "each once", (decay, FEW.x0, ARGS), {"fixed": [0, 1, 1]}),
    "fixed shape": (ValueError, r"got shape \(2,\)", (decay, FEW.x0, ARGS), {"fixed": [True] * 2}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    kind, text, args, options = REFUSED[case]
    with pytest.raises(kind, match=text):
        na.least_squares_many(*args, **{"m": 30, **options})


def test_an_explicit_signature_is_taken():
    @numba.njit("void(f8[::1], f8[::1], f8[:, :], i8)")
    def with_signature(x, r, J, i):
        r[0], r[1] = x[0] - 1.0, x[1] - i
        J[0, 0] = J[1, 1] = 1.0

    res = na.least_squares_many(with_signature, np.zeros((3, 2)), m=2, jac=True)
    np.testing.assert_array_equal(res.x, [[1, 0], [1, 1], [1, 2]])


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
    res = na.least_squares_many(decay_with_j, FEW.x0, ARGS, m=30, jac=True)
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
