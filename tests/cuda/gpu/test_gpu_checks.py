"""On a GPU: what is refused before anything is written, and what an array seen before is spared."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import numadam as na


def spread(cp, shape, strides):
    """An array with several elements in the same place."""
    return cp.lib.stride_tricks.as_strided(cp.zeros(1), shape, strides)


def bad_calls(cp):
    """Wrong arguments: (error, its text, keywords of the call)."""
    good, matrix, wide = cp.zeros(3), cp.zeros((3, 3)), spread(cp, (3,), (0,))
    got, both = "grads: expected a CuPy array, got", {"grads": good, "params": good}
    return [
        (TypeError, f"{got} numpy.ndarray.*cupy.asarray", {"grads": np.zeros(3)}),
        (TypeError, f"{got} list", {"grads": [0.0, 0.0, 0.0]}),
        (TypeError, f"{got} the number", {"grads": 1.0}),
        (TypeError, "like params, got float32", {"grads": cp.zeros(3, "f4")}),
        (ValueError, r"like params, got \(3, 1\)", {"grads": cp.zeros((3, 1))}),
        (ValueError, "grads shares memory with out", {"grads": good, "out": good}),
        (ValueError, "grads shares memory with params", both),
        (ValueError, "shares", {"grads": matrix[0], "params": matrix.reshape(9)[2:5]}),
        (ValueError, "out: several of its elements", {"grads": good, "out": wide}),
        (ValueError, "out: expected shape", {"grads": good, "out": cp.zeros(2)}),
    ]


@pytest.mark.parametrize("what", range(10))
def test_bad_arrays_are_refused_before_anything_is_written(cp, what):
    error, text, call = bad_calls(cp)[what]
    p = cp.arange(3.0)
    opt = na.Adam(p)
    with pytest.raises(error, match=text):
        opt.step(**call)
    with pytest.raises(ValueError, match=r"grads shares memory with state\['m'\]"):
        opt.step(opt.state["m"])
    assert opt.t == 0
    cp.testing.assert_array_equal(p, np.arange(3.0))
    arrays = [opt.state["m"], opt.state["v"], *call.values()]
    assert not any(array.any() for array in arrays if isinstance(array, cp.ndarray))


def test_bad_params_are_refused_by_the_constructor(cp, monkeypatch):
    p = cp.zeros(3)
    several = r"params(\[1\])?: several of its elements .* Pass a copy"
    for error, text, params in (
        (TypeError, r"params\[1\]: is a NumPy array, but params\[0\] is a CuPy", [p, np.zeros(3)]),
        (TypeError, r"params\[1\]: is a CuPy array, but params\[0\] is a NumPy", [np.zeros(3), p]),
        (TypeError, r"params\[1\]: is float32", [p, cp.zeros(3, np.float32)]),
        (TypeError, r"params: expected float64, .* got int64", cp.zeros(3, np.int64)),
        (ValueError, r"shares memory", [p, p[1:]]),
        (ValueError, several, spread(cp, (3, 3), (8, 0))),
        (ValueError, several, [p, spread(cp, (2**33,), (0,))]),  # before memory is taken for it
    ):
        with pytest.raises(error, match=text):
            na.Adam(params)

    def refuse(size):
        raise MemoryError("out of memory to allocate")

    monkeypatch.setattr("numadam._cuda.state._zeros", refuse)
    with pytest.raises(MemoryError, match=r"^params: Adam .* needs 160 B .*out of memory to alloc"):
        na.Adam([cp.ones(8), cp.ones(2)])


# --- what is known of arrays ----------------------------------------------------------------------


def test_other_arrays_in_the_same_place_are_looked_at(cp):
    p, room = cp.zeros((2, 3), np.float32), cp.ones((2, 3), np.float32)
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
    square = cp.arange(6, dtype=np.float32).reshape(2, 3)
    opt.step(square)
    before = p.copy()
    turned = square.reshape(3, 2).T  # the same place and shape, with other strides
    opt.step(turned)
    cp.testing.assert_array_equal(p, before - turned)


@pytest.mark.parametrize("count", [3, 100])
def test_overlap_is_found_among_few_and_many_arrays(cp, count):
    room = cp.zeros((count + 1, 4))
    params = [room[k] for k in range(count)]
    opt, grads = na.SGD(params, lr=1.0), [cp.ones(4) for _ in params]
    opt.step(grads)
    shared = [*grads[:-1], room.reshape(-1)[4 * count - 2 : 4 * count + 2]]
    with pytest.raises(ValueError, match=rf"\[{count - 1}\].* memory"):
        opt.step(shared)
    grads[-1] = room[count]  # the next one, which is free
    opt.step(grads)
    cp.testing.assert_array_equal(room[: count - 1], np.full((count - 1, 4), -2.0))
    cp.testing.assert_array_equal(room[count - 1], np.full(4, -1.0))
    both = cp.zeros((3, 2))  # arrays beside each other
    na.SGD([both[:, 0], both[:, 1]], lr=1.0).step([cp.ones(3), cp.full(3, 2.0)])
    cp.testing.assert_array_equal(both, [[-1, -2]] * 3)


def test_parameters_that_were_only_read_are_checked_before_they_are_written(cp):
    """With `out` a broadcast array may stand for the parameters; without it must not."""
    opt, params = na.SGD(cp.zeros(4), lr=1.0), spread(cp, (4,), (0,))
    g, out = cp.ones(4), cp.zeros(4)
    opt.step(g, params=params, out=out)
    assert (out == -1).all()
    with pytest.raises(ValueError, match="params: several of its elements"):
        opt.step(g, params=params)
    assert opt.t == 1


@pytest.mark.parametrize("count", [2, 20])
def test_new_gradients_are_looked_at_and_the_old_ones_let_go(cp, count):
    params, grads = ([cp.ones(4) for _ in range(count)] for _ in range(2))
    strided = [cp.ones((2, 2)).T for _ in range(count)]
    opt, turned = na.SGD(params, lr=1.0), na.SGD([cp.ones((2, 2)) for _ in params], lr=1.0)
    opt.step(grads)
    for value in (1.0, 2.0, 3.0, 4.0):  # strided ones that stay are copied at each step
        strided[1][...] = value
        turned.step(strided)
    assert (turned.params[1] == -9).all()
    watched = weakref.ref(grads[0])
    grads = [cp.ones(4) for _ in range(count)]
    gc.collect()
    assert watched() is None
    opt.step(grads)
    assert all((p == -1).all() for p in params)
    grads[1] = cp.ones(5)
    with pytest.raises(ValueError, match=r"grads\[1\]: expected shape \(4,\)"):
        opt.step(grads)
    with pytest.raises(TypeError, match=r"grads\[0\]: expected a CuPy array, got None"):
        opt.step([None] * count)
    assert opt.t == 2


def test_launches_that_could_not_be_prepared_are_prepared_at_the_next_step(cp, monkeypatch):
    for count in (1, 2):
        params = [cp.zeros(4) for _ in range(count)]
        opt = na.SGD(params if count > 1 else params[0], lr=1.0)
        grads, others = ([cp.full(4, x) for _ in params] for x in (1.0, 5.0))
        opt.step(grads if count > 1 else grads[0])
        with monkeypatch.context() as patch:
            patch.setattr(type(opt._backend._step.arguments), "upload", lambda *given: 1 / 0)
            patch.setattr(type(opt._backend._step), "accept", lambda *given: False)
            with pytest.raises(ZeroDivisionError):
                opt.step(others if count > 1 else others[0])
        opt.step(others if count > 1 else others[0])
        assert opt.t == 2
        assert all((p == -6).all() for p in params)


def test_a_gradient_at_another_address_is_checked_as_any(cp):
    """The short way takes what equals the last gradient but for its address; all else is told."""
    room = cp.zeros(40, np.float32)
    p, own = room[:8], room[8:16]
    opt = na.SGD(p, lr=1.0)
    for k, g in enumerate([own, cp.ones(8, "f4"), cp.full(8, 2, "f4"), own, cp.ones(8, "f4")]):
        opt.step(g)
        assert opt.t == k + 1
    assert (p == -4).all()
    for wrong, said in (
        (room[4:12], "shares memory"),
        (room[1:9], "shares memory"),
        (cp.ones(8), "expected float32"),
        (cp.ones(9, "f4"), "shape"),
    ):
        with pytest.raises((TypeError, ValueError), match=said):
            opt.step(wrong)
        assert opt.t == 5
    opt.step(cp.full((8, 2), 3, "f4")[:, 1])  # strided: by way of a work array
    other = cp.zeros(8, "f4")
    opt.step(cp.ones(8, "f4"), params=other)
    opt.step(own)
    opt.step(cp.ones(8, "f4"), out=cp.zeros(8, "f4"))
    opt.step(own)
    assert (other == -1).all()
    assert (p == -7).all()
