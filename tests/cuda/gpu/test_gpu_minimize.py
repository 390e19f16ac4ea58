"""On a GPU: minimize and check_grad on CuPy arrays, with the results of the CPU."""

from __future__ import annotations

import numba
import numpy as np
import pytest

import numadam as na
from tests.gradient.gradients import amplitudes, network, valley
from tests.minimize.objectives import Cut, cut_at, why
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
