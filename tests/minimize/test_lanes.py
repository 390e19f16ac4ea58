"""minimize_many: problems side by side in lanes have the bits that each has alone.

And what it takes and says; objectives in Python, for all rows or for some.
"""

from __future__ import annotations

import functools
import warnings

import numba
import numpy as np
import pytest
from scipy.optimize import Bounds

import numadam as na
from numadam._jit import process
from numadam._minimize.lanes.batch import LaneBatch
from tests import extras
from tests.minimize.objectives import START, all_at_once, assert_alone, assert_same_problems, rosen

RNG = np.random.default_rng(1)


@numba.njit
def chain(x, g):
    """Rosenbrock's chain, in a loop over elements."""
    f = (x[0] - 1.0) ** 2
    g[0] += 2.0 * (x[0] - 1.0)
    for i in range(x.size - 1):
        a = x[i + 1] - x[i] * x[i]
        g[i] -= 4.0 * a * x[i]
        g[i + 1] += 2.0 * a
        f += a * a
    return f


@numba.njit
def with_reshape(x, g):
    """An objective that needs a contiguous x."""
    g[:] = 2 * x
    return np.sum(x.reshape(-1) ** 2)


@numba.njit
def complex_bowl(x, g):
    f = 0.0
    for i in range(x.size):
        d = x[i] - (1 + 2j)
        g[i] = 2 * d * (i + 1)
        f += (i + 1) * (d.real * d.real + d.imag * d.imag)
    return f


def starts(count, n, dtype=np.float64):
    x = RNG.uniform(-1, 1, (count, n))
    return (x + 1j * x[:, ::-1]).astype(dtype) if np.dtype(dtype).kind == "c" else x.astype(dtype)


@pytest.fixture
def widths(monkeypatch):
    """The lanes of the runs."""
    seen, init = [], LaneBatch.__init__

    def note(self, task):
        init(self, task)
        seen.append(self._lanes)

    monkeypatch.setattr(LaneBatch, "__init__", note)
    return seen


def assert_some_alone(fun, x0, rows, **options):
    """Some problems of a run have the bits of runs of their own."""
    many = na.minimize_many(fun, x0, **options)
    assert many.x.dtype == x0.dtype
    assert many.nfev == (many.nit + 1).sum()
    for k in rows:
        one = na.minimize(fun, x0[k], **options)
        assert_alone(many, k, one)
        if "ema" in options:
            np.testing.assert_array_equal(many.averaged[k], one.averaged)
    return many


@pytest.mark.parametrize("count", [1, 23, 24, 63, 64, 65, 200])
def test_any_number_of_problems(count, widths):
    rows = sorted({0, count // 2, max(0, count - 2), count - 1})
    res = assert_some_alone(rosen, starts(count, 2), rows, lr=0.05, gtol=1e-1, maxiter=300)
    assert res.x.shape == (count, 2)
    assert widths == [64 if count >= 24 else 1]


@pytest.mark.parametrize("n", [1, 3, 8, 16, 17])
def test_any_number_of_elements(n, widths):
    assert_some_alone(chain, starts(70, n), (0, 33, 69), lr=0.05, gtol=1e-2, maxiter=200)
    assert widths == [64 if n <= 16 else 1]


#: Options, whether they go in lanes, and the dtype of the default run.
OPTIONS = [
    ({"ftol": 1e-6, "xtol": 1e-5, "gtol": 1e-3, "amsgrad": True, "like": "numpy"}, 64, "f4"),
    (
        {
            "rule": "adamw", "like": "keras", "ema": 0.9,
            "lr": na.schedules.Cosine(0.1, steps=80), "bounds": (-0.4, 0.6), "gtol": 1e-3,
        },
        64,
        "f8",
    ),
    ({"gtol": 0, "ftol": 1e-6, "clip_norm": 0.5}, 1, "f8"),
    ({"rule": "nadam", "beta1": lambda t: 0.8 + 0.001 * t}, 64, "f8"),
]  # fmt: skip


#: In lanes of other tests, too: below, and of test_checkpoint.py.
MORE = [
    ({"xtol": 1e-6, "bounds": Bounds([-0.5] * 4, [0.3, 0.2, 1.0, 0.9]), "gtol": 1e-3}, 64, "f8"),
    ({"rule": "sgd", "lr": 1e-2, "momentum": 0.9, "gtol": 0.5, "ema": 0.5}, 64, "f8"),
]

#: One packet of lanes, whose serial loop takes a third of the time to compile; then many.
BATCHES = [(*OPTIONS[1], 60)]
BATCHES += [extras.sweep(*row, 60) for row in (OPTIONS[0], *OPTIONS[2:])]
BATCHES += [
    extras.sweep(options, lanes, dtype, count)
    for options, lanes, _ in OPTIONS + MORE
    for dtype, count in (("f8", 130), ("f4", 60))
]


@pytest.mark.parametrize(("options", "lanes", "dtype", "count"), BATCHES, ids=range(len(BATCHES)))
def test_alone_or_in_a_batch(options, lanes, dtype, count, widths):
    options = {"maxiter": 150, "lr": 0.05, **options}
    rows = sorted({0, 33, count // 2, count - 1})
    assert_some_alone(chain, starts(count, 4, dtype), rows, **options)
    assert widths == [lanes]


@pytest.mark.parametrize("form", [*map(extras.sweep, ("parts", "modulus"))])
def test_complex_problems(form, widths):
    options = {"lr": 0.05, "gtol": 1e-2, "xtol": 1e-4, "maxiter": 300, "complex_form": form}
    assert_some_alone(complex_bowl, starts(30, 3, np.complex128), (0, 29), **options)
    assert widths == [32]


def test_in_any_order_and_by_one_thread(monkeypatch):
    x0 = 2 * starts(150, 2)
    order = RNG.permutation(len(x0))
    a = na.minimize_many(rosen, x0, lr=0.05, gtol=1e-2)
    b = na.minimize_many(rosen, x0[order], lr=0.05, gtol=1e-2)
    assert len(set(a.nit.tolist())) > 20
    for name in ("x", "fun", "nit", "status", "jac", "grad_norm"):
        np.testing.assert_array_equal(a[name][order], b[name])
    monkeypatch.setattr(process, "serial_only", True)
    assert_same_problems(a, na.minimize_many(rosen, x0, lr=0.05, gtol=1e-2))


def with_signature():
    """Compiled where it is asked for, not while tests are collected."""

    @numba.njit(["float64(Array(float64, 1, 'C'), Array(float64, 1, 'C'))"])
    def fun(x, g):
        g[:] = 2 * x
        return np.sum(x * x)

    return fun


@pytest.mark.parametrize("fun", [with_reshape, with_signature])
def test_objectives_that_need_a_contiguous_x(fun, widths):
    fun = fun() if fun is with_signature else fun
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_some_alone(fun, starts(70, 3), (0, 69), lr=0.05, gtol=1e-2, maxiter=200)
    assert widths == [1]


@pytest.mark.sweep
def test_a_step_size_for_each_element(widths):
    lr = np.array([[0.1, 0.01, 0.05]])
    res = na.minimize_many(chain, x0 := starts(60, 3), lr=lr, maxiter=50)
    alone = na.minimize(chain, x0[59], lr=lr[0], maxiter=50)
    np.testing.assert_array_equal(res.x[59], alone.x)
    own = na.minimize_many(chain, x0, lr=np.repeat(lr, 60, axis=0), maxiter=50)
    np.testing.assert_array_equal(res.x, own.x)
    assert widths == [64, 64]


def test_bounds_for_each_element_of_each_problem(widths):
    x0, low = starts(60, 2), np.linspace(-2.0, 0.5, 120).reshape(60, 2)
    res = na.minimize_many(rosen, x0, bounds=Bounds(low, low + 1), lr=0.05, maxiter=100)
    alone = na.minimize(rosen, x0[56], bounds=Bounds(low[56], low[56] + 1), lr=0.05, maxiter=100)
    np.testing.assert_array_equal(res.x[56], alone.x)
    assert widths == [64]


def test_best_is_kept_where_f_rises_again():
    @numba.njit
    def fun(x, g, i):  # a large step size jumps over the minimum, again and again
        g[0] = 2 * x[0]
        return x[0] * x[0] if i != 3 else np.nan

    res = na.minimize_many(fun, np.linspace(0.05, 1.0, 30)[:, None], lr=0.3, maxiter=40)
    others = np.arange(30) != 3
    assert (res.fun <= res.fun_last)[others].all()
    assert (res.fun < res.fun_last).any()
    np.testing.assert_array_equal(res.x[others, 0] ** 2, res.fun[others])
    np.testing.assert_array_equal(res.x_last[others, 0] ** 2, res.fun_last[others])
    np.testing.assert_array_equal(res.jac, 2 * res.x)
    np.testing.assert_array_equal(res.grad_norm, abs(2 * res.x[:, 0]))
    assert np.isnan([res.fun[3], res.fun_last[3]]).all()
    assert res.x[3] == res.x_last[3]


def test_an_exception_says_which_problem_and_stopped_ones_are_not_called():
    @numba.njit
    def fun(x, g, i, calls):
        calls[i] += 1
        g[0] = 2 * x[0]
        if i == 40 and calls[i] > 30:
            raise ValueError("lost")
        return x[0] * x[0]

    calls, x0 = np.zeros(100, np.int64), np.full((100, 1), 5.0)
    x0[50:] = 0.0  # these stop at once
    with pytest.raises(ValueError, match="lost") as caught:
        na.minimize_many(fun, x0, (calls,), lr=0.01)
    assert (calls[50:] == 1).all()
    assert "numadam: in problem 40." in caught.value.__notes__
    res = caught.value.numadam_result
    assert res.x.shape == (100, 1)
    assert (res.status[50], {*res.status[:50].tolist()}, res.nit[0]) == (0, {-1}, 30)
    assert "1 of 100: fun raised" in res.message


# --- stop tests ---------------------------------------------------------------------------------

STARTS = np.random.default_rng(5).uniform(0.2, 1.0, (40, 3))


@numba.njit
def scaled(x, g, i, scale):
    f = 0.0
    for k in range(x.size):
        g[k] = scale[i] * (k + 1) * x[k]
        f += scale[i] * (k + 1) * (x[k].real * x[k].real + x[k].imag * x[k].imag) / 2
    return f


class Rows:
    """The same in Python, which records the gradients of each row."""

    def __init__(self, scale):
        self.scale, self.seen = scale, [[] for _ in scale]

    def __call__(self, x, rows):
        f, g = np.zeros(len(x)), np.zeros_like(x)
        for j, i in enumerate(rows):
            f[j] = scaled(x[j], g[j], i, self.scale)
            self.seen[i].append(g[j].copy())
        return f, g


STOPS = [
    ({}, 1e-6, 0.0, np.inf),
    ({"gtol_rel": 1e-3, "gtol": 1e-2}, 1e-3, 1e-2, np.inf),
    ({"gtol_rel": 1e-3, "norm": 2}, 1e-3, 0.0, 2),
    ({"gtol": 1e-2, "norm": 2}, 0.0, 1e-2, 2),
]


@pytest.mark.parametrize(("options", "relative", "absolute", "norm"), STOPS, ids=range(len(STOPS)))
def test_each_problem_stops_at_its_own_gradient(options, relative, absolute, norm):
    scale = np.geomspace(1e-3, 1e3, 40)
    rows = Rows(scale)
    options = {"lr": 0.02, "eps": 1e-30, **options}
    res = na.minimize_many(rows, STARTS, jac=True, **options)
    compiled = na.minimize_many(scaled, STARTS, (scale,), **options)
    assert_same_problems(res, compiled)
    assert res.success.all()
    assert len(set(res.nit.tolist())) > 3
    for k, seen in enumerate(rows.seen):
        sizes = np.linalg.norm(seen, norm, axis=1)
        limit = max(absolute, relative * sizes[0])
        assert len(seen) == res.nit[k] + 1
        assert sizes[-1] <= limit * (1 + 1e-14)
        assert (sizes[:-1] > limit * (1 - 1e-14)).all()


@pytest.mark.parametrize(
    "x0", [STARTS, extras.sweep(STARTS[:1]), extras.sweep(STARTS[:30] + 1j * STARTS[10:])]
)
def test_the_2_norm_has_the_bits_of_one_problem(x0):
    scale = np.geomspace(1e-150, 1e150, 40)
    options = {"lr": 0.02, "eps": 0.0, "norm": 2, "xtol": 1e-4, "gtol_rel": 1e-2}
    res = na.minimize_many(scaled, x0, (scale,), **options)
    assert res.success.all()
    for k in range(0, len(x0), 7):
        assert_alone(res, k, na.minimize(scaled, x0[k], (k, scale), **options))
        size = np.sqrt(np.sum(abs(res.jac[k] / scale[k]) ** 2)) * scale[k]
        np.testing.assert_allclose(res.grad_norm[k], size, rtol=1e-14)
    for steep in (1e-200, 1e200):  # squares underflow and overflow
        at_start = na.minimize_many(scaled, x0, (np.full(40, steep),), maxiter=0, **options)
        whole = np.sqrt(np.sum(abs(at_start.jac / steep) ** 2, axis=1)) * steep
        np.testing.assert_allclose(at_start.grad_norm, whole, rtol=1e-14)


def test_the_message_says_how_the_gradients_fell():
    x0 = np.tile(STARTS[0], (30, 1))
    x0[:4] = 0.0
    scale = np.ones(30)
    scale[4:9] = 1e-5
    res = na.minimize_many(scaled, x0, (scale,), gtol=1e-4, gtol_rel=1e-2, lr=0.02)
    fell = res.grad_norm[9:].max() / (np.arange(1, 4) * STARTS[0]).max()
    assert "9 of 30: The largest component of the projected gradient is at" in res.message
    assert f"21 of 30: The gradient is {fell:.2g} of the first (gtol_rel=0.01)." in res.message
    res = na.minimize_many(scaled, x0, (scale * 1e-6,), maxiter=5, eps=1e-8)
    assert "4 of 30: The projected gradient is 0 at the start." in res.message
    assert "26 of 30: The number of iterations" in res.message
    assert "5 of 30: The gradient is below eps=1e-08, where steps are shorter" in res.message


# --- what is taken and said, and objectives in Python --------------------------------------------

POINTS = np.random.default_rng(0).uniform(-2, 2, (150, 2))


def test_an_lr_for_each_problem_chooses_one():
    lrs = np.geomspace(1e-4, 1.0, 30)
    res = na.minimize_many(rosen, np.tile(START, (30, 1)), lr=lrs, maxiter=300)
    for k in (0, 15, 29):
        alone = na.minimize(rosen, START, lr=lrs[k], maxiter=300)
        np.testing.assert_array_equal(res.x[k], alone.x)
    best = res.best()
    assert (best.index, best.fun) == (res.fun.argmin(), res.fun.min())
    np.testing.assert_array_equal(best.x, res.x[best.index])


def test_rows_in_python_with_bounds_and_a_separate_jac():
    bounds = [(-1, 0.5), (None, 0.2)]
    apart = {"fun": lambda x: all_at_once(x)[0], "jac": lambda x: all_at_once(x)[1]}
    res = na.minimize_many(x0=POINTS[:30], bounds=bounds, lr=0.02, **apart)
    compiled = na.minimize_many(rosen, POINTS[:30], bounds=bounds, lr=0.02)
    np.testing.assert_array_equal(res.x, compiled.x)
    assert res.success.all()


@numba.njit
def square(x, g, i, bad):
    """One problem, or all, lose their number."""
    g[...] = 2 * x
    return np.nan if bad in (i, -2) and x.flat[0] < 0.9 else np.sum(x * x)


def test_what_is_not_finite_stops_its_problem_only():
    res = na.minimize_many(square, np.ones((6, 1)), (3,), lr=0.05)
    assert res.status.tolist() == [0, 0, 0, 2, 0, 0]
    assert np.isfinite(res.best().fun)
    assert "1 of 6: f is not finite" in res.message
    lost = na.minimize_many(square, np.zeros((6, 1)), (-2,))
    assert "fun: none is finite" in repr(lost)
    assert not lost.success.any()
    with pytest.raises(ValueError, match="finite in none"):
        lost.best()


@pytest.mark.parametrize("shape", [(5, 1), (200, 2, 3), (3, 700), (1, 2)])
def test_shapes(shape):
    res = na.minimize_many(square, np.ones(shape), (-1,), lr=0.1, gtol=1e-3)
    assert res.success.all()
    assert res.x.shape == shape
    assert abs(res.x).max() <= 1e-3


def test_no_problem_at_all_and_progress_of_many(capsys):
    res = na.minimize_many(rosen, np.zeros((0, 2)))
    assert res.x.shape == (0, 2)
    assert res.nit.shape == (0,)
    na.minimize_many(rosen, POINTS, lr=0.02, maxiter=30, progress=True)
    assert "150 running" in capsys.readouterr().err


def test_rows_may_reuse_their_buffers():
    f, g = np.zeros(4), np.zeros((4, 2))

    def fun(x):
        f[:] = np.sum((x - 1) ** 2, axis=1)
        g[:] = 2 * (x - 1)
        return f, g

    x0 = np.arange(8.0).reshape(4, 2)
    res = na.minimize_many(fun, x0, jac=True, lr=0.1, ftol=1e-10, gtol=0)
    assert res.nit.min() > 100
    assert not np.shares_memory(res.fun, f)
    assert not np.shares_memory(res.jac, g)


def test_schedules_that_observe_are_found_in_groups_and_refused_for_many():
    plateau = na.schedules.ReduceOnPlateau(0.5, factor=0.5, patience=1)

    def fun(x):
        return 1.0, {"a": np.ones(1), "b": np.zeros(1)}

    x0 = {"a": np.zeros(1), "b": np.zeros(1)}
    na.minimize(fun, x0, jac=True, groups={"a": {"lr": plateau}}, maxiter=20)
    assert plateau.value < 0.5
    with pytest.raises(ValueError, match="lr: problems have an f each"):
        na.minimize_many(rosen, np.ones((3, 2)), lr=plateau)


# --- objectives that take rows -------------------------------------------------------------------

TARGETS = np.random.default_rng(0).uniform(-1, 1, (40, 3))
#: The steeper, the sooner a row stops.
STEEPNESS = np.geomspace(1e-2, 1e2, 40)


class Paraboloids:
    """Paraboloids of their own steepness; counts the rows that are evaluated."""

    def __init__(self):
        self.evaluated = np.zeros(40, np.int64)

    def at(self, x, k):
        self.evaluated[k] += 1
        d, scale = x - TARGETS[k], STEEPNESS[k]
        return scale * np.sum(d * d, axis=1), 2 * scale[:, None] * d

    def all(self, x):
        return self.at(x, np.arange(40))

    def some(self, x, rows):
        return self.at(x, rows)

    def keywords(self, x, **more):
        return self.at(x, more["rows"])


STOPPING = [
    {"gtol": 1e-3},
    {"gtol": 0, "ftol": 1e-5, "check_every": 7},
    {"gtol": 1e-2, "xtol": 1e-6, "bounds": (-0.5, 0.5), "rule": "adamw", "lr": 0.05},
]


@pytest.mark.parametrize("name", ["some", "keywords"])
@pytest.mark.parametrize("options", STOPPING, ids=range(len(STOPPING)))
def test_only_rows_that_run_are_evaluated(options, name):
    options = {"jac": True, "lr": 0.02, "maxiter": 400, **options}
    whole, part = Paraboloids(), Paraboloids()
    a = na.minimize_many(whole.all, np.zeros((40, 3)), **options)
    b = na.minimize_many(getattr(part, name), np.zeros((40, 3)), **options)
    assert_same_problems(a, b)
    assert a.nfev == whole.evaluated.sum() == 40 * (a.nit.max() + 1)
    assert b.nfev == part.evaluated.sum() < 0.8 * a.nfev
    np.testing.assert_array_equal(part.evaluated, b.nit + 1)


def test_jac_may_take_rows_where_fun_does_not():
    whole, part = Paraboloids(), Paraboloids()
    x0, options = np.zeros((40, 3)), {"gtol": 1e-2, "lr": 0.02}
    a = na.minimize_many(whole.all, x0, jac=True, **options)
    slope = {"jac": lambda x, *, rows: part.some(x, rows)[1]}
    b = na.minimize_many(lambda x: whole.all(x)[0], x0, **slope, **options)
    assert_same_problems(a, b)
    np.testing.assert_array_equal(part.evaluated, b.nit + 1)
    assert a.nfev == b.nfev


def test_rows_that_the_caller_binds_stay_the_callers():
    seen = []

    def fun(x, rows):
        seen.append(rows)
        return np.sum(x * x, axis=1), 2 * x

    x0 = np.ones((4, 2))
    for bound, args in ((fun, ("mine",)), (functools.partial(fun, rows="mine"), ())):
        na.minimize_many(bound, x0, args, jac=True, maxiter=2)
    assert set(seen) == {"mine"}

    @functools.wraps(lambda x: None)
    def wrapper(x, **more):
        assert not more
        return np.sum(x * x, axis=1), 2 * x

    na.minimize_many(wrapper, x0, jac=True, maxiter=2)


def test_a_wrapper_that_passes_rows_on_is_told_what_they_are():
    def fun(X):
        return np.sum(X**2, axis=1), 2 * X

    def wrapper(*args, **kwargs):
        return fun(*args, **kwargs)

    with pytest.raises(TypeError, match=r"unexpected keyword argument 'rows'") as raised:
        na.minimize_many(wrapper, np.ones((3, 2)), jac=True)
    assert any("gets rows=..., the numbers of the" in note for note in raised.value.__notes__)
