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


def test_no_memory_is_taken_for_elements_on_one_memory(cupy, monkeypatch):
    huge = np.lib.stride_tricks.as_strided(cupy.ones(1), (2**33,), (0,), subok=True)
    with pytest.raises(ValueError, match=r"^params\[1\]: several of its elements .* Pass a copy"):
        na.Adam([cupy.ones(2), huge])

    def refuse(size):
        raise MemoryError("out of memory to allocate")

    monkeypatch.setattr("numadam._cuda.state._zeros", refuse)
    with pytest.raises(MemoryError, match=r"^params: Adam .* needs 160 B .*out of memory to alloc"):
        na.Adam([cupy.ones(8), cupy.ones(2)])


def test_squares_below_zero_are_refused(cupy):
    opt = na.Adam({"w": cupy.ones(3)})
    for bad in ([0.0, np.nan, -1.0], [-np.inf, 1.0, 1.0]):
        with pytest.raises(ValueError, match=r"^state\['v'\]\['w'\]: expected numbers >= 0"):
            opt.state["v"] = {"w": cupy.asarray(np.array(bad))}
    assert not opt.state["v"]["w"].any()
    for fine in ([0.0, np.nan, np.inf], [-0.0, 1.0, 2.0]):
        opt.state["v"] = {"w": cupy.asarray(np.array(fine))}
        np.testing.assert_array_equal(cupy.asnumpy(opt.state["v"]["w"]), fine)


def test_after_a_refused_step_all_arrays_are_looked_at(cupy, monkeypatch):
    p, g = cupy.zeros(3), cupy.ones(3)
    opt = na.SGD(p, lr=1.0)
    opt.step(g)
    with pytest.raises(ValueError, match="grads"):
        opt.step(cupy.ones(4))
    validator = opt._backend._validator
    checked, check = [], validator._check_slot
    monkeypatch.setattr(validator, "_check_slot", lambda *a: checked.append(a[0]) or check(*a))
    for _ in range(2):
        opt.step(g)
    assert checked == [0, 1]  # parameters and gradients, once


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


def test_parameters_that_were_only_read_are_checked_before_they_are_written(cupy):
    """With `out` a broadcast array may stand for the parameters; without it must not."""
    opt = na.SGD(cupy.zeros(4), lr=1.0)
    g, out = cupy.ones(4), cupy.zeros(4)
    broadcast = np.lib.stride_tricks.as_strided(cupy.zeros(1), (4,), (0,)).view(cupy.ndarray)
    opt.step(g, params=broadcast, out=out)
    np.testing.assert_array_equal(out, -1)
    with pytest.raises(ValueError, match="params: several of its elements"):
        opt.step(g, params=broadcast)
    assert opt.t == 1


def test_nothing_is_not_taken_for_an_array_that_is_gone(cupy):
    params = [cupy.zeros(4) for _ in range(20)]
    opt = na.SGD(params, lr=1.0)
    opt.step([cupy.ones(4) for _ in params])
    with pytest.raises(TypeError, match=r"grads\[0\]: expected a CuPy array, got None"):
        opt.step([None] * 20)
    assert opt.t == 1


def test_launches_that_could_not_be_prepared_are_prepared_at_the_next_step(cupy, monkeypatch):
    params = [cupy.zeros(4), cupy.zeros(3)]
    opt = na.SGD(params, lr=1.0)
    grads = [cupy.ones(4), cupy.ones(3)]  # alive, so that the others lie elsewhere
    opt.step(grads)
    others = [cupy.full(4, 5.0), cupy.full(3, 5.0)]
    with monkeypatch.context() as patch:
        patch.setattr(type(opt._backend._arguments), "finish", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            opt.step(others)
    opt.step(others)
    assert opt.t == 2
    assert all((p == -6).all() for p in params)


def test_a_dense_gradient_that_an_interrupt_left_unclean_is_not_used_again(cupy, monkeypatch):
    from numadam._arrays.sparse import Rows

    p = cupy.zeros((4, 2))
    opt = na.SGD(p, lr=1.0, sparse="dense")
    sparse = opt._backend._sparse
    with monkeypatch.context() as patch:
        patch.setattr(sparse, "clear", lambda: None)
        opt.step(Rows(cupy.asarray(np.array([1])), cupy.ones((1, 2))))
    opt.step(Rows(cupy.asarray(np.array([2])), cupy.ones((1, 2))))
    np.testing.assert_array_equal(p, [[0, 0], [-1, -1], [-1, -1], [0, 0]])
    assert not any(map(np.any, sparse._dense.values()))


def test_a_step_over_known_arrays_crosses_five_modules(cupy, monkeypatch):
    """Validation, scalars and launches are called straight from the back end."""
    import sys
    from pathlib import Path

    import numadam._cuda.launch as policy

    # on a GPU the bound launch is CuPy's own function
    monkeypatch.setattr(policy.SimulatedLaunch, "bind", lambda *given: lambda: None)
    p, g = cupy.zeros(4), cupy.ones(4)
    opt = na.Adam(p)
    for _ in range(3):
        opt.step(g)
    crossed, package = set(), Path(na.__file__).parent

    def note(frame, event, argument):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(package):
            crossed.add(path.relative_to(package).as_posix())

    sys.setprofile(note)
    opt.step(g)
    sys.setprofile(None)
    assert crossed <= {
        "_optimizer/optimizer.py",
        "_cuda/backend.py",
        "_cuda/validate.py",
        "_jit/interrupts.py",
        "_cuda/scalars.py",  # compiled code
    }


@pytest.mark.cuda("cupy")
def test_a_launch_writes_its_numbers_where_cupy_looks():
    """Without a GPU: the launch itself stands for CuPy's."""
    from numadam._cuda.launch import Launch

    given = []
    scalars = np.array([0.5, 0.25], np.float32)
    launch = Launch(lambda *args: given.append(args), "qqqdff", scalars)
    launch(7, 256, (3, -1.5), (1 << 40, 2))
    ((blocks, threads, arguments),) = given
    assert (blocks, threads, len(arguments)) == ((7,), (256,), 6)
    assert bytes(launch._memory) == struct.pack("=qqqd", 1 << 40, 2, 3, -1.5)
    bound = launch.bind(5, 128, (4, 2.5), (8, 9))
    assert len(given) == 1
    scalars[...] = 0.75  # as they are when it is launched
    bound()
    bound()
    blocks, threads, arguments = given[-1]
    assert (len(given), blocks, threads) == (3, (5,), (128,))
    assert bytes(launch._memory) == struct.pack("=qqqd", 8, 9, 4, 2.5)
    with pytest.raises(struct.error):
        launch(7, 256, (3,), (1, 2))
