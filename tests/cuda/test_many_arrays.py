"""Many arrays of one step: each gets its own numbers, and what is known of them is kept."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy's scalars


def test_bfloat16_is_refused_where_cupy_cannot_copy_it(cupy, monkeypatch):
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    monkeypatch.setattr(cupy, "__version__", "13.6.0")
    with pytest.raises(ImportError, match=r"state_dtype: bfloat16 .* needs CuPy 14, and this is"):
        na.Adam(cupy.zeros(3, np.float32), state_dtype="bfloat16")
    na.Adam(cupy.zeros(3, np.float32))


def test_arrays_of_many_sizes_get_the_numbers_of_each_alone(cupy):
    sizes = [0, 1, 3, 64, 65, 200, 0, 17]
    starts = [np.random.default_rng(k).standard_normal(n) for k, n in enumerate(sizes)]
    together = [cupy.asarray(start) for start in starts]
    opt = na.Adam(together, lr=0.1)
    alone = [cupy.asarray(start) for start in starts]
    each = [na.Adam(p, lr=0.1) for p in alone]
    for step in range(3):
        grads = [np.random.default_rng((step, k)).standard_normal(n) for k, n in enumerate(sizes)]
        opt.step([cupy.asarray(g) for g in grads])
        for one, g in zip(each, grads, strict=True):
            one.step(cupy.asarray(g))
    for got, wanted in zip(together, alone, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_one_array_of_a_group_has_its_row(cupy):
    p, twin = cupy.ones(3), np.ones(3)
    for x, g in ((p, cupy.ones(3)), (twin, np.ones(3))):
        na.Adam({"w": x}, lr=0.1, clip_norm=np.inf, groups={"w": {"lr": 0.5}}).step({"w": g})
    np.testing.assert_array_equal(p, twin)
    assert p[0] < 0.6


@pytest.mark.parametrize("count", [2, 20])
def test_new_gradients_are_looked_at_and_the_old_ones_let_go(cupy, count):
    import gc
    import weakref

    params = [cupy.ones(4) for _ in range(count)]
    opt = na.SGD(params, lr=1.0)
    grads = [cupy.ones(4) for _ in range(count)]
    opt.step(grads)
    watched = weakref.ref(grads[0])
    grads = [cupy.ones(4) for _ in range(count)]
    gc.collect()
    assert watched() is None
    opt.step(grads)
    assert all((p == -1).all() for p in params)
    grads[1] = cupy.ones(5)
    with pytest.raises(ValueError, match=r"grads\[1\]: expected shape \(4,\)"):
        opt.step(grads)


def test_gradients_that_stay_are_looked_at_twice_and_then_known_again(cupy, monkeypatch):
    from numadam._cuda import arrays as ca

    params = [cupy.ones(4) for _ in range(20)]
    grads = [cupy.ones(4) for _ in range(20)]
    opt = na.SGD(params, lr=1.0)
    opt.step(grads)
    opt.step(grads)
    with monkeypatch.context() as patch:
        patch.setattr(ca, "check_array", None)
        opt.step(grads)
    assert all((p == -2).all() for p in params)
    grads[3] = cupy.full(4, 5.0)
    opt.step(grads)
    assert params[3][0] == -7
    assert params[4][0] == -3


def test_strided_gradients_that_stay_are_copied_at_each_step(cupy):
    params = [cupy.ones((3, 2)) for _ in range(20)]
    grads = [cupy.ones((2, 3)).T for _ in range(20)]
    opt = na.SGD(params, lr=1.0)
    for value in (1.0, 2.0, 3.0, 4.0):
        grads[7][...] = value
        opt.step(grads)
    assert (params[7] == -9).all()
    assert (params[8] == -3).all()
