"""Arrays of other libraries on the GPU: updated in place, and never written where read-only."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy's scalars


class Tensor:
    """An array of another library on the GPU."""

    def __init__(self, array):
        self.array, self.dtype = array, array.dtype

    def __dlpack__(self, **how):
        return self.array.__dlpack__(**how)

    def __dlpack_device__(self):
        return (2, 0)


@pytest.mark.parametrize("count", [1, 20])
def test_arrays_of_other_libraries_are_updated_in_place(cupy, count):
    params = [cupy.ones(4) for _ in range(count)]
    opt = na.SGD([Tensor(p) for p in params], lr=1.0)
    grads = [Tensor(cupy.ones(4)) for _ in range(count)]
    for _ in range(3):
        opt.step(grads)
    grads[0].array = cupy.full(4, 5.0)  # another library may give an object other memory
    opt.step(grads)
    np.testing.assert_array_equal(params[0], -7)
    assert all((p == -3).all() for p in params[1:])
    with pytest.raises(TypeError, match=r"grads\[0\]: expected a CuPy array, got numpy"):
        opt.step([np.ones(4)] * count)


class Shown:
    """An array that another library shows by the CUDA array interface."""

    def __init__(self, array, read_only):
        self.array, self.dtype, self.read_only = array, array.dtype, read_only

    @property
    def __cuda_array_interface__(self):
        interface = self.array.__array_interface__
        return {**interface, "data": (interface["data"][0], self.read_only)}


def test_what_another_library_shows_as_read_only_is_never_written(cupy):
    p, m, v = cupy.ones(4), cupy.zeros(4), cupy.zeros(4)
    g = Shown(cupy.ones(4), True)
    said = r"params\['w'\]: expected a CuPy array, got .*Shown, which is read-only. Use cupy.array"
    with pytest.raises(TypeError, match=said):
        na.SGD({"w": Shown(p, True)})
    opt = na.SGD(Shown(p, False), lr=1.0)
    opt.step(g)
    np.testing.assert_array_equal(p, 0)
    with pytest.raises(TypeError, match=r"out: .* which is read-only"):
        opt.step(g, out=Shown(cupy.ones(4), True))
    with pytest.raises(TypeError, match=r"m: .* which is read-only"):
        na.adam_update(p, g, Shown(m, True), v, 1)
    with pytest.raises(TypeError, match=r"p: .* which is read-only"):
        na.adam_update(Shown(p, True), g, m, v, 1)
    assert not any(a.any() for a in (p, m, v))
    assert opt.t == 1
    out = cupy.ones(4)  # with it the parameters are only read
    opt.step(g, params=Shown(p, True), out=out)
    np.testing.assert_array_equal(out, -1)
    na.sgd_update(Shown(p, True), g, lr=2.0, out=out)
    np.testing.assert_array_equal(out, -2)
