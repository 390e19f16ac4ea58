"""On a GPU: minimize and check_grad on CuPy arrays, with the results of the CPU.

On a GPU: minimize_many, one problem a thread, with the results of the CPU.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest
from scipy.optimize import Bounds

import numadam as na
from tests.gradient.gradients import amplitudes, network, valley
from tests.minimize.objectives import Cut, cut_at, rosen, why
from tests.trees import tree_map

TARGET = np.array([1.0, -2.0, 3.0])


def square(xp):
    """A square around `TARGET`; f is an array of its library, which only a test reads."""
    target = xp.asarray(TARGET)

    def fun(x):
        assert type(x) is xp.ndarray
        d = x - target.astype(x.dtype)
        return (abs(d) ** 2).sum(), 2 * d

    return fun


def both(cp, x0, **options):
    """The same run on GPU and CPU."""
    return [na.minimize(square(xp), xp.asarray(x0), jac=True, **options) for xp in (cp, np)]


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("f8", {"lr": 0.1}),
        ("f8", {"lr": 0.1, "bounds": (-1, 2)}),
        ("f8", {"lr": 0.1, "bounds": [(0, 1), (None, -3), (2, 9)], "gtol": 0, "ftol": 1e-9}),
        ("f8", {"lr": na.schedules.Cosine(0.5, steps=80), "gtol": 0, "xtol": 1e-3, "maxiter": 80}),
        ("f8", {"lr": 0.1, "bounds": (-1, 2), "gtol_rel": 1e-2, "xtol": 1e-9, "norm": 2}),
        ("c16", {"lr": 0.1, "maxiter": 30}),
        ("f4", {"lr": 0.1, "maxiter": 30}),
    ],
    ids=range(7),
)
def test_as_on_the_cpu(cp, dtype, options):
    on_gpu, on_cpu = both(cp, np.zeros(3, dtype), check_every=10, **options)
    rtol, atol = (1e-5, 1e-6) if dtype == "f4" else (1e-12, 1e-12)
    assert type(on_gpu.x) is type(on_gpu.x_last) is cp.ndarray
    assert (on_gpu.nit, on_gpu.status) == (on_cpu.nit, on_cpu.status)
    assert on_gpu.x.dtype == dtype
    np.testing.assert_allclose(on_gpu.x.get(), on_cpu.x, rtol=rtol, atol=atol)
    assert on_gpu.fun == pytest.approx(on_cpu.fun, rel=1e3 * rtol, abs=1e-15)
    assert isinstance(on_gpu.fun, float)


def test_a_run_looks_every_20_iterations_and_goes_on_from_its_state(cp):
    def run(x0, maxiter, **options):
        return na.minimize(square(cp), x0, jac=True, lr=0.1, gtol=0, maxiter=maxiter, **options)

    half, whole = run(cp.zeros(3), 10), run(cp.zeros(3), 25)
    np.testing.assert_array_equal(whole.history["nit"], [0, 20, 25])
    rest = run(half.x, 15, state=half.state)
    for name in ("x", "x_last", "jac"):
        cp.testing.assert_array_equal(rest[name], whole[name])
    assert rest.nit == 25


@pytest.mark.parametrize("check_every", [None, 1])
def test_a_run_that_is_cut_goes_on_from_its_file(cp, tmp_path, check_every):
    options = {"jac": True, "lr": 0.05, "xtol": 1e-9, "maxiter": 20, "ema": 0.9}
    options["check_every"] = check_every
    fun, start = square(cp), cp.asarray([3.0, -2.0, 0.0])
    whole = na.minimize(fun, start, **options)
    run = {"checkpoint": tmp_path / "a.run", "checkpoint_every": 7, **options}
    for call in (0, 9, 3):
        with pytest.raises(Cut):
            na.minimize(cut_at(fun, call), start, **run)
    result = na.minimize(fun, start, **run)
    for name in ("x", "fun", "jac", "grad_norm", "x_last", "nit", "nfev", "averaged"):
        cp.testing.assert_array_equal(result[name], whole[name])
    assert type(result.x) is cp.ndarray
    assert why(result) == why(whole)
    with pytest.raises(na.CheckpointError, match=r"^fun: the run of .* has f=.*, got .* there"):
        na.minimize(lambda x: (fun(x)[0] + 1.0, fun(x)[1]), start, **run)


@pytest.mark.parametrize("check_every", [1, 20])
def test_a_history(cp, check_every):
    gpu, cpu = na.History(), na.History(check_every)
    options = {"jac": True, "lr": 0.1, "maxiter": 40, "gtol": 0}
    na.minimize(square(cp), cp.zeros(3), callback=gpu, check_every=check_every, **options)
    na.minimize(square(np), np.zeros(3), callback=cpu, **options)
    for name in ("t", "f", "grad_norm", "param_norm", "lr"):
        np.testing.assert_allclose(gpu[name], cpu[name], rtol=1e-9, err_msg=name)
    unseen = np.isnan(gpu["step_norm"])
    assert unseen.all() if check_every > 1 else unseen.sum() == 1  # the iterate before was not seen


def test_what_does_not_fit_is_refused(cp):
    x0 = cp.zeros(2)
    with pytest.raises(TypeError, match="finite differences are formed on NumPy"):
        na.minimize(lambda x: 0.0, x0)
    with pytest.raises(TypeError, match="compiled fun takes one NumPy array"):
        na.minimize(numba.njit(lambda x, g: 0.0), x0)
    with pytest.raises(TypeError, match="expected a CuPy array"):
        na.minimize(lambda x: (0.0, np.zeros(2)), x0, jac=True)


# --- check_grad ----------------------------------------------------------------------------------


def on_device(cp, fun):
    """`fun`, which knows NumPy's arrays, for a tree of CuPy's."""

    def call(x):
        def to_host(leaf):
            assert type(leaf) is cp.ndarray
            return leaf.get()

        f, g = fun(tree_map(to_host, x))
        return cp.asarray(f), tree_map(cp.asarray, g)

    return call


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("sign", [1, -1])
def test_check_grad_says_what_it_says_on_the_cpu(cp, dtype, sign):
    def fun(x):
        f, g = valley(x.astype("f8"))
        return f, (sign * g).astype(x.dtype)

    x0 = np.array([-1.2, 1.0, 0.5], dtype)
    check = na.check_grad(on_device(cp, fun), cp.asarray(x0), jac=True)
    assert check == na.check_grad(fun, x0, jac=True)
    assert check.ok == (sign == 1)


def test_check_grad_of_complex_and_nested_parameters_and_of_a_jac(cp):
    z = np.array([0.3 - 1j, 1j, 2.0, 0.1, -0.5j])
    fun = on_device(cp, lambda z: (amplitudes(z)[0], amplitudes(z)[1].conj()))
    assert "the conjugate" in na.check_grad(fun, cp.asarray(z), jac=True).message
    rng = np.random.default_rng(0)
    shapes = {"w": (3, 4), "b": (4,), "out": (4, 2)}
    p = {name: cp.asarray(rng.standard_normal(shape)) for name, shape in shapes.items()}
    before = tree_map(cp.copy, p)
    assert na.check_grad(on_device(cp, network), p, jac=True, bounds=(-9, 9)).ok
    for name, leaf in p.items():
        cp.testing.assert_array_equal(leaf, before[name])
    both = on_device(cp, valley)
    x0 = cp.asarray([0.5, 0.2])
    assert na.check_grad(lambda x: both(x)[0], x0, jac=lambda x: both(x)[1]).ok


# --- gpu many ------------------------------------------------------------------------------------


STARTS = np.array([[-1.2, 1.0], [0.5, 0.5], [1.5, -1.0], [0.9, 0.8], [0.0, 2.0]])
TARGETS = np.arange(10, dtype=np.float32).reshape(5, 2)


@numba.njit
def parabola(x, g, i, targets, scale):
    f = 0.0
    for k in range(x.size):
        d = x[k] - targets[i, k]
        g[k] = 2 * scale * d
        f += scale * d * d
    return f


@numba.njit
def roots_and_powers(x, g):
    root = math.sqrt(1 + x[1] * x[1])
    g[0] = 1 - math.exp(-x[0])
    g[1] = x[1] / root + (1 if x[1] > 0 else -1)
    return math.exp(-x[0]) + root + abs(x[1]) + x[0]


@numba.njit
def own_gradient(x, g):
    g[0], g[1] = x[0], x[1]
    return x[0]


@numba.njit
def array_returned(x):
    return x[0] * x[0] + x[1] * x[1], 2 * x


@numba.njit
def tuple_returned(x):
    return x[0] * x[0] + x[1] * x[1], (2 * x[0], 2 * x[1])


def assert_alike(on_gpu, on_cpu, rtol):
    for name in ("x", "fun"):
        np.testing.assert_allclose(on_gpu[name].get(), on_cpu[name], rtol=rtol)
    for name in ("jac", "grad_norm", "x_last", "fun_last"):
        # the gradient near a minimum is a difference of large numbers
        np.testing.assert_allclose(on_gpu[name].get(), on_cpu[name], rtol=rtol, atol=1e-9)
    for name in ("nit", "status"):
        np.testing.assert_array_equal(on_gpu[name], on_cpu[name], err_msg=name)
    assert (on_gpu.nfev, on_gpu.message) == (on_cpu.nfev, on_cpu.message)


SPREAD, ZEROS = STARTS * np.arange(1, 6)[:, None], np.zeros((5, 2), np.float32)
DATA = {"args": (TARGETS, np.float32(0.5)), "rule": "nadam", "maxiter": 60}
BOX, BOXES = Bounds(-0.5, 0.4), Bounds([-1, 0.1], [0.4, 0.3])
RATES = {"lr": np.geomspace(0.01, 0.3, 5), "maxiter": 40, "xtol": 1e-9}
#: An objective, x0 and options.
PROBLEMS = {
    "stops": (rosen, STARTS, {"gtol": 1.0}),
    "relative stops in the 2-norm": (rosen, SPREAD, {"gtol_rel": 1e-2, "norm": 2, "xtol": 1e-9}),
    "data, a schedule": (parabola, ZEROS, DATA | {"lr": na.schedules.Cosine(0.5, steps=60)}),
    "bounds": (rosen, STARTS, {"lr": 0.05, "bounds": BOX, "maxiter": 150, "ftol": 1e-9}),
    "bounds of each": (roots_and_powers, STARTS, {"lr": 0.05, "bounds": BOXES, "maxiter": 30}),
    "lr of each": (tuple_returned, STARTS, {"jac": True, **RATES}),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_many_as_on_the_cpu(cp, name):
    fun, x0, given = PROBLEMS[name]
    options = {"lr": 0.02, "maxiter": 300, **given}
    on_gpu = na.minimize_many(fun, cp.asarray(x0), **options)
    # a kernel can make no array; on the CPU no other gradient is returned
    on_cpu = na.minimize_many(array_returned if fun is tuple_returned else fun, x0, **options)
    assert type(on_gpu.x) is cp.ndarray
    assert on_gpu.x.dtype == x0.dtype
    assert_alike(on_gpu, on_cpu, 1e-5 if x0.dtype == np.float32 else 1e-12)
    if "stops" in name:
        assert len(set(on_cpu.nit)) > 2
    if "bounds" in options:
        x, bounds = on_gpu.x.get(), options["bounds"]
        assert (x >= bounds.lb).all()
        assert (x <= bounds.ub).all()


@pytest.mark.parametrize("norm", [np.inf, 2])
def test_norms_of_float32_and_a_limit_between_two_of_its_numbers(cp, norm):
    """x0 alone is tested: the nearest float32 of a limit may be above it."""
    above = np.float32(0.1)
    x0 = np.array([[above, 0.03], [np.nextafter(above, np.float32(0)), 0.03]], np.float32)
    options = {"gtol": 0.1, "norm": norm, "maxiter": 0}
    on_gpu, on_cpu = (na.minimize_many(own_gradient, xp.asarray(x0), **options) for xp in (cp, np))
    np.testing.assert_array_equal(on_gpu.status, [1, 0] if norm == np.inf else [1, 1])
    np.testing.assert_array_equal(on_gpu.nit, 0)
    np.testing.assert_array_equal(on_gpu.x.get(), x0)
    assert_alike(on_gpu, on_cpu, rtol=4e-16)


def test_many_that_do_not_fit_are_refused(cp):
    @numba.njit
    def decay(x, g):
        g[0] = -np.exp(-x[0])
        return np.exp(-x[0])

    starts = cp.asarray(STARTS)
    with pytest.raises(ValueError, match="clip_norm: not offered"):
        na.minimize_many(rosen, starts, clip_norm=1.0)
    with pytest.raises(TypeError, match="x0: complex problems are not offered on a GPU"):
        na.minimize_many(rosen, starts + 0j)
    with pytest.raises(TypeError, match="fun: does not compile for a GPU, where no array can be"):
        na.minimize_many(array_returned, starts, jac=True)
    with pytest.raises(TypeError, match="fun: a compiled objective with 0 args takes 2 arguments"):
        na.minimize_many(numba.njit(lambda x: x[0] * x[0]), starts)
    with pytest.raises(TypeError, match=r"Numba knows no numpy\.exp.*functions of math"):
        na.minimize_many(decay, starts)


def test_a_run_goes_on_from_its_file_with_its_kernel(cp, tmp_path, monkeypatch):
    options = {"lr": na.schedules.Cosine(0.1, steps=90), "gtol": 20.0, "rule": "nadam"}
    whole = na.minimize_many(rosen, cp.asarray(STARTS), maxiter=24, **options)
    assert len(set(whole.nit)) > 2
    run = {"checkpoint": tmp_path / "a.run", "checkpoint_every": 7, **options}
    monkeypatch.delattr("numadam._minimize.device.make_solve")  # the kernel is there
    for maxiter in (0, 5, 17, 24, 24):
        result = na.minimize_many(rosen, cp.asarray(STARTS), maxiter=maxiter, **run)
    assert type(result.x) is cp.ndarray
    for name in ("x", "fun", "jac", "grad_norm", "x_last", "fun_last", "nit", "status"):
        cp.testing.assert_array_equal(result[name], whole[name])
    assert (result.nfev, why(result)) == (whole.nfev, why(whole))
    assert result.message.startswith("Already finished in ")
    with pytest.raises(na.CheckpointError, match=r"^x0: the run has .*NumPy"):
        na.minimize_many(rosen, STARTS, **run)


def test_another_objective_is_refused(cp, tmp_path):
    def well(x, g, i, targets):
        g[0] = 2 * (x[0] - targets[i])
        return (x[0] - targets[i]) ** 2

    targets, fun = np.linspace(0.0, 1.0, 30), numba.njit(well)
    run = {"lr": 0.1, "checkpoint": tmp_path / "a.run"}
    na.minimize_many(fun, cp.zeros((30, 1)), (targets,), maxiter=3, **run)
    targets[17] = 2.0
    with pytest.raises(na.CheckpointError, match=r"has f=\S+ in problem 17, got \S+ there"):
        na.minimize_many(fun, cp.zeros((30, 1)), (targets,), maxiter=6, **run)


# --- an objective in Python: CuPy arrays of all rows ---------------------------------------------


@pytest.mark.parametrize("selects", [False, True], ids=["all rows", "rows that run"])
def test_an_objective_in_python(cp, selects):
    def run(xp):
        scale, seen = xp.array([0.1, 1.0, 10.0]), []

        def some(x, rows):
            assert type(x) is xp.ndarray
            seen.append(len(x))
            a = scale[rows]
            return a * xp.sum(x * x, axis=1), 2 * a[:, None] * x

        def all_rows(x):
            return some(x, slice(None))

        options = {"jac": True, "lr": 0.1, "check_every": 5, "gtol": 1e-2, "norm": 2}
        return na.minimize_many(some if selects else all_rows, xp.ones((3, 2)), **options), seen

    (on_gpu, seen), (on_cpu, _) = run(cp), run(np)
    assert_alike(on_gpu, on_cpu, rtol=1e-12)
    assert len(set(on_cpu.nit)) > 1
    assert set(seen) == ({1, 2, 3} if selects else {3})
    if selects:
        assert on_gpu.nfev == sum(seen) == (on_cpu.nit + 1).sum()
