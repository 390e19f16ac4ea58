"""check_grad on CuPy arrays, in the simulator: fun gets arrays of the GPU, and the same is said."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from tests.minimize.gradients import amplitudes, network, valley


def on_device(cupy, fun):
    """`fun` of one NumPy array, or a dict, for CuPy's."""

    def both(x):
        if isinstance(x, dict):
            assert all(type(one) is cupy.ndarray for one in x.values())
            f, g = fun({name: one.get() for name, one in x.items()})
            return cupy.asarray(f), {name: cupy.asarray(one) for name, one in g.items()}
        assert type(x) is cupy.ndarray
        f, g = fun(x.get())
        return cupy.asarray(f), cupy.asarray(g)

    return both


@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_as_on_the_cpu(cupy, dtype):
    x0 = np.array([-1.2, 1.0, 0.5], dtype)
    for sign in (1, -1):

        def fun(x, sign=sign):
            f, g = valley(x.astype("f8"))
            return f, (sign * g).astype(x.dtype)

        on_gpu = na.check_grad(on_device(cupy, fun), cupy.asarray(x0), jac=True)
        assert on_gpu == na.check_grad(fun, x0, jac=True)
        assert on_gpu.ok == (sign == 1)


def test_complex_nested_and_bounded(cupy):
    z = np.array([0.3 - 1j, 1j, 2.0, 0.1, -0.5j])
    fun = on_device(cupy, lambda z: (amplitudes(z)[0], amplitudes(z)[1].conj()))
    assert "the conjugate" in na.check_grad(fun, cupy.asarray(z), jac=True).message
    rng = np.random.default_rng(0)
    p = {"w": (3, 4), "b": 4, "out": (4, 2)}
    p = {name: cupy.asarray(rng.standard_normal(shape)) for name, shape in p.items()}
    before = {name: one.get().copy() for name, one in p.items()}
    assert na.check_grad(on_device(cupy, network), p, jac=True, bounds=(-9, 9)).ok
    for name, one in p.items():
        np.testing.assert_array_equal(one.get(), before[name])


def test_a_jac_of_its_own(cupy):
    check = na.check_grad(
        lambda x: cupy.asarray(valley(x.get())[0]),
        cupy.asarray([0.5, 0.2]),
        jac=lambda x: cupy.asarray(valley(x.get())[1]),
    )
    assert check.ok
