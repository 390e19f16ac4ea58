"""Checks of CuPy arrays at a step, and those that an array seen before is spared."""

from __future__ import annotations

import struct

import numpy as np
import pytest

import numadam as na

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy's scalars


def test_other_arrays_in_the_same_place_are_looked_at(cupy):
    p, room = cupy.zeros((2, 3), np.float32), cupy.ones((2, 3), np.float32)
    opt = na.SGD(p, lr=1.0)
    opt.step(room)
    for other, error in (
        (room.view(np.int32), TypeError),
        (room.reshape(3, 2), ValueError),
        (room.reshape(6)[:3], ValueError),
    ):
        with pytest.raises(error, match="grads"):
            opt.step(other)
    assert opt.t == 1
    square = cupy.asarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    opt.step(square)
    before = p.copy()
    turned = square.reshape(3, 2).T  # the same place and shape, with other strides
    opt.step(turned)
    np.testing.assert_array_equal(p, before - turned)


def test_after_a_refused_step_all_arrays_are_looked_at(cupy, monkeypatch):
    p, g = cupy.zeros(3), cupy.ones(3)
    opt = na.SGD(p, lr=1.0)
    opt.step(g)
    with pytest.raises(ValueError, match="grads"):
        opt.step(cupy.ones(4))
    checks = opt._backend._pass.checks
    looked = []
    check = checks.check
    monkeypatch.setattr(checks, "check", lambda *a: looked.append(sorted(a[1])) or check(*a))
    for _ in range(2):
        opt.step(g)
    assert looked == [[0, 1]]  # parameters and gradients, once


@pytest.mark.parametrize("count", [3, 100])
def test_overlap_is_found_among_few_and_many_arrays(cupy, count):
    room = cupy.zeros((count + 1, 4))
    params = [room[k] for k in range(count)]
    opt = na.SGD(params, lr=1.0)
    grads = [cupy.ones(4) for _ in params]
    opt.step(grads)
    shared = [*grads[:-1], room.reshape(-1)[4 * count - 2 : 4 * count + 2]]
    with pytest.raises(ValueError, match=rf"\[{count - 1}\].* memory"):
        opt.step(shared)
    grads[-1] = room[count]  # the next one, which is free
    opt.step(grads)
    assert opt.t == 2
    np.testing.assert_array_equal(room[: count - 1], -2.0)
    np.testing.assert_array_equal(room[count - 1], -1.0)


def test_new_gradients_at_each_step_are_not_held(cupy):
    import gc
    import weakref

    params = [cupy.zeros(4) for _ in range(20)]
    opt = na.SGD(params, lr=1.0)
    grads = [cupy.ones(4) for _ in params]
    watched = weakref.ref(grads[0])
    opt.step(grads)
    del grads
    gc.collect()
    assert watched() is None
    opt.step([cupy.ones(4) for _ in params])
    assert all((p == -2).all() for p in params)


def test_a_launch_writes_its_numbers_where_cupy_looks():
    """Without a GPU: the launch itself stands for CuPy's."""
    pytest.importorskip("cupy.cuda.function", reason="CuPy is not installed")
    from numadam._cuda.launch import Launch

    given = []
    scalars = np.array([0.5, 0.25], np.float32)
    launch = Launch(lambda *args: given.append(args), "qqqdff", scalars)
    launch(7, 256, (3, -1.5), (1 << 40, 2))
    ((blocks, threads, arguments),) = given
    assert (blocks, threads, len(arguments)) == ((7,), (256,), 6)
    assert bytes(launch._room) == struct.pack("=qqqd", 1 << 40, 2, 3, -1.5)
    with pytest.raises(struct.error):
        launch(7, 256, (3,), (1, 2))
