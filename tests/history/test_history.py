"""`History`: what it keeps of a run, under `step` and `minimize`, and its pictures."""

import pickle
import sys

import numba
import numpy as np
import pytest

import numadam as na
from numadam._history import norm_of
from tests.minimize.objectives import START, loop


@numba.njit
def compiled(x, g):
    f = 0.0
    for i in range(x.size):
        g[i] = 2 * (x[i] - 1)
        f += (x[i] - 1) ** 2
    return f


def fun(x):
    return np.sum((x - 1) ** 2), 2 * (x - 1)


def recorded(steps, every=1, norms=True, **options):
    history, x = na.History(every, norms=norms), START.copy()
    opt = na.Adam(x, **options)
    for _ in range(steps):
        f, grads = fun(x)
        opt.step(grads)
        history.record(opt, f, grads)
    return history, x


def iterates(count, **options):
    """The parameters before the first step and after each, by hand."""
    return np.array(loop(na.Adam, START.copy(), count, fun, **options))


def norms(rows):
    return np.linalg.norm(rows, axis=-1)


# --- a loop of one's own -------------------------------------------------------------------------


def test_records_of_a_loop():
    history, x = recorded(20, lr=0.1)
    xs = iterates(20, lr=0.1)
    np.testing.assert_array_equal(x, xs[-1])
    np.testing.assert_array_equal(history["t"], np.arange(1, 21))
    np.testing.assert_allclose(history["f"], [fun(x)[0] for x in xs[:-1]], rtol=1e-15)
    np.testing.assert_allclose(history["grad_norm"], [norms(fun(x)[1]) for x in xs[:-1]])
    np.testing.assert_allclose(history["param_norm"], norms(xs[1:]))
    assert np.isnan(history["step_norm"][0])  # the start was not seen
    np.testing.assert_allclose(history["step_norm"][1:], norms(np.diff(xs, axis=0))[1:])
    np.testing.assert_array_equal(history["ratio"], history["step_norm"] / history["param_norm"])
    np.testing.assert_array_equal(history["lr"], 0.1)


def test_a_thinned_record_has_the_norm_of_one_step():
    history, _ = recorded(25, every=10, lr=0.1)
    xs = iterates(25, lr=0.1)
    np.testing.assert_array_equal(history["t"], [10, 20])
    np.testing.assert_allclose(history["step_norm"], norms(np.diff(xs, axis=0))[[9, 19]])


def test_lr_is_that_of_the_step_and_norms_can_be_left_out():
    history, _ = recorded(4, norms=False, lr=lambda t: 0.5**t)
    np.testing.assert_array_equal(history["lr"], [1, 0.5, 0.25, 0.125])
    assert np.isnan(history["param_norm"]).all()
    assert np.isfinite(history["grad_norm"]).all()
    assert history._copy == []


def test_calls_without_a_step_are_not_kept():
    opt, history = na.Adam(np.ones(2), clip_norm=np.inf, nonfinite="skip"), na.History()
    for g in (1.0, np.nan, 1.0):
        opt.step(np.full(2, g))
        history.record(opt, 1.0)
    np.testing.assert_array_equal(history["t"], [1, 2])


def test_a_run_that_went_back_drops_what_came_after():
    x = np.ones(2)
    opt, history = na.Adam(x), na.History()
    saved = {}
    for k in range(5):
        if k == 3:
            opt.state = saved
        opt.step(x.copy())
        history.record(opt, float(k))
        if k == 0:
            saved = {key: np.copy(value) for key, value in dict(opt.state).items()}
    np.testing.assert_array_equal(history["t"], [1, 2, 3])
    np.testing.assert_array_equal(history["f"], [0, 3, 4])
    assert np.isnan(history["step_norm"][1])  # from an iterate of the other branch


# --- minimize ------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", [fun, compiled], ids=["python", "compiled"])
@pytest.mark.parametrize("every", [1, 7])
def test_a_callback_of_minimize(objective, every):
    options = {"jac": True} if objective is fun else {}
    plain = na.minimize(objective, START, lr=0.1, maxiter=50, gtol=0, **options)
    history = na.History(every)
    res = na.minimize(objective, START, lr=0.1, maxiter=50, gtol=0, callback=history, **options)
    np.testing.assert_array_equal(res.x, plain.x)  # it changes no bit
    assert (res.nit, res.nfev) == (plain.nit, plain.nfev)
    t = history["t"]
    due = range(0, 51, every)
    np.testing.assert_array_equal(t, sorted({*due, 50}))
    xs = iterates(50, lr=0.1)
    np.testing.assert_allclose(history["f"], [fun(x)[0] for x in xs[t]], rtol=1e-12)
    np.testing.assert_allclose(history["grad_norm"], [np.abs(fun(x)[1]).max() for x in xs[t]])
    np.testing.assert_allclose(history["param_norm"], norms(xs[t]))
    steps = norms(np.diff(xs, axis=0))
    seen = [k for k in t if k > 0 and k % every == 0]
    np.testing.assert_allclose(history["step_norm"][np.isin(t, seen)], steps[np.array(seen) - 1])
    np.testing.assert_array_equal(history["lr"], 0.1)


def test_a_resumed_run_goes_on_in_the_same_history():
    history = na.History()
    half = na.minimize(fun, START, jac=True, lr=0.1, maxiter=10, callback=history)
    na.minimize(fun, half.x, jac=True, lr=0.1, maxiter=10, callback=history, state=half.state)
    np.testing.assert_array_equal(history["t"], np.arange(21))
    na.minimize(fun, START, jac=True, lr=0.1, maxiter=5, callback=history)  # a new run
    np.testing.assert_array_equal(history["t"], np.arange(6))


# --- the object ----------------------------------------------------------------------------------


def test_as_a_dict_and_a_pickle():
    history, _ = recorded(5)
    table = history.to_dict()
    assert list(table) == ["t", "f", "grad_norm", "step_norm", "param_norm", "ratio", "lr"]
    assert table["t"].dtype == np.int64
    again = pickle.loads(pickle.dumps(history))
    for name, column in table.items():
        np.testing.assert_array_equal(again[name], column)
    assert again._copy == []
    assert repr(again) == repr(history)
    table["f"][:] = 0  # a copy
    assert history["f"][0] != 0
    history.clear()
    assert len(history) == 0


MISUSES = [
    (lambda h: na.History(0), ValueError, "every: expected a whole number of at least 1, got 0"),
    (lambda h: na.History(norms=1), TypeError, "norms: expected True or False, got 1"),
    (lambda h: h["x"], KeyError, "the columns are t, f, grad_norm"),
    (lambda h: h.plot(["x"]), KeyError, "the columns are t, f"),
    (lambda h: h.plot("f"), ValueError, "columns: expected a list of names"),
    (lambda h: h.plot(["f"], axes=[1, 2]), ValueError, "axes: expected one a column, 1, got 2"),
    (lambda h: na.History().plot(), ValueError, "plot: the history has no records yet"),
    (lambda h: h(np.ones(3)), TypeError, "intermediate_result: expected a result with x"),
]


@pytest.mark.parametrize(("call", "error", "said"), MISUSES, ids=range(len(MISUSES)))
def test_misuse(call, error, said):
    history, _ = recorded(2)
    with pytest.raises(error, match=said):
        call(history)
    assert len(history) == 2


def test_a_record_that_is_refused_leaves_none():
    opt, history = na.Adam(np.ones(2)), na.History()
    opt.step(np.ones(2))
    with pytest.raises(TypeError, match="f: expected a number, got str"):
        history.record(opt, "low")
    with pytest.raises(TypeError, match=r"grads: expected a dense array, got Rows\. Leave grads"):
        history.record(opt, 1.0, na.Rows(np.array([0]), np.ones(1)))
    assert len(history) == 0


# --- norms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e4, 1e30, 1e-40, 1e200])
def test_norms_are_safe_in_range(dtype, scale):
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        arrays = [(scale * rng.standard_normal(n)).astype(dtype) for n in (0, 3, 10_000)]
    if dtype is np.complex64:
        arrays = [array * dtype(1 + 2j) for array in arrays] if scale < 1e30 else arrays
    wide = np.concatenate(arrays).astype(np.clongdouble if dtype is np.complex64 else np.longdouble)
    expected = float(np.sqrt(np.sum(np.abs(wide) ** 2)))
    assert norm_of(arrays) == pytest.approx(expected, rel=1e-4 if scale == 1e-40 else 1e-6)


# --- pictures ------------------------------------------------------------------------------------


def test_a_picture():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    history, _ = recorded(30, lr=0.1)
    figure = Figure()
    FigureCanvasAgg(figure)
    axes = history.plot(["f", "lr"], axes=figure.subplots(1, 2))
    assert [ax.get_ylabel() for ax in axes] == ["f", "lr"]
    assert axes[0].get_yscale() == "log"
    np.testing.assert_array_equal(axes[0].lines[0].get_ydata(), history["f"])
    figure.canvas.draw()


def test_three_pictures_leave_no_empty_place_and_none_needs_matplotlib_before(monkeypatch):
    import matplotlib.pyplot as plt

    history, _ = recorded(10, lr=0.1)
    names = ["f", "lr", "grad_norm"]
    axes = history.plot(names)
    assert [ax.get_ylabel() for ax in axes] == names
    assert len(axes[0].figure.axes) == 3
    plt.close(axes[0].figure)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"^plot: needs matplotlib: pip install matplotlib"):
        history.plot(names)
