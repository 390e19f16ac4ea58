"""On a GPU: what is refused before anything is written, and what an array seen before is spared."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import numadam as na
from numadam._arrays.sparse import Rows


def spread(cp, shape, strides):
    """An array with several elements in the same place."""
    return cp.lib.stride_tricks.as_strided(cp.zeros(1), shape, strides)


def bad_calls(cp):
    """Wrong arguments: (error, its text, keywords of the call)."""
    good, matrix, wide = cp.zeros(3), cp.zeros((3, 3)), spread(cp, (3,), (0,))
    got, like = "grads: expected a CuPy array, got", "grads: expected float64 like params, got"
    return {
        "numpy": (TypeError, f"{got} numpy.ndarray.*cupy.asarray", {"grads": np.zeros(3)}),
        "list": (TypeError, f"{got} list", {"grads": [0.0, 0.0, 0.0]}),
        "number": (TypeError, f"{got} the number", {"grads": 1.0}),
        "nothing": (TypeError, f"{got} None.*zeros", {"grads": None}),
        "dtype": (TypeError, f"{like} float32", {"grads": cp.zeros(3, "f4")}),
        "shape": (ValueError, r"like params, got \(4,\)", {"grads": cp.zeros(4)}),
        "axes": (ValueError, r"like params, got \(3, 1\)", {"grads": cp.zeros((3, 1))}),
        "out, grads": (ValueError, "grads shares memory with out", {"grads": good, "out": good}),
        "params, grads": (
            ValueError,
            "grads shares memory with params",
            {"grads": good, "params": good},
        ),
        "a part": (ValueError, "shares", {"grads": matrix[0], "params": matrix.reshape(9)[2:5]}),
        "broadcast": (ValueError, "out: several of its elements", {"grads": good, "out": wide}),
        "out": (ValueError, "out: expected shape", {"grads": good, "out": cp.zeros(2)}),
    }


BAD = ["numpy", "list", "number", "nothing", "dtype", "shape", "axes"]
BAD += ["out, grads", "params, grads", "a part", "broadcast", "out"]


@pytest.mark.parametrize("what", BAD)
def test_bad_arrays_are_refused_before_anything_is_written(cp, what):
    error, text, call = bad_calls(cp)[what]
    p = cp.arange(3.0)
    opt = na.Adam([p]) if what == "nothing" else na.Adam(p)
    with pytest.raises(error, match=text.replace("grads:", r"grads(\[0\])?:")):
        opt.step([None]) if what == "nothing" else opt.step(**call)
    assert opt.t == 0
    cp.testing.assert_array_equal(p, np.arange(3.0))
    state = opt.state
    arrays = [state["m"], state["v"]] if what != "nothing" else [*state["m"], *state["v"]]
    for array in (*arrays, *(a for a in call.values() if isinstance(a, cp.ndarray))):
        assert not array.any()


def test_the_states_own_memory_is_no_gradient(cp):
    opt = na.Adam(cp.ones(3))
    with pytest.raises(ValueError, match=r"grads shares memory with state\['m'\]"):
        opt.step(opt.state["m"])


def test_bad_params_are_refused_by_the_constructor(cp):
    p = cp.zeros(3)
    refused = [
        (TypeError, r"params\[1\]: is a NumPy array, but params\[0\] is a CuPy", [p, np.zeros(3)]),
        (TypeError, r"params\[1\]: is a CuPy array, but params\[0\] is a NumPy", [np.zeros(3), p]),
        (TypeError, r"params\[1\]: is float32", [p, cp.zeros(3, np.float32)]),
        (TypeError, r"params: expected float64, .* got int64", cp.zeros(3, np.int64)),
        (ValueError, r"shares memory", [p, p[1:]]),
        (ValueError, "params: several of its elements", spread(cp, (3, 3), (8, 0))),
    ]
    for error, text, params in refused:
        with pytest.raises(error, match=text):
            na.Adam(params)


def test_no_memory_is_taken_for_elements_on_one_memory(cp, monkeypatch):
    huge = spread(cp, (2**33,), (0,))
    with pytest.raises(ValueError, match=r"^params\[1\]: several of its elements .* Pass a copy"):
        na.Adam([cp.ones(2), huge])

    def refuse(size):
        raise MemoryError("out of memory to allocate")

    monkeypatch.setattr("numadam._cuda.state._zeros", refuse)
    with pytest.raises(MemoryError, match=r"^params: Adam .* needs 160 B .*out of memory to alloc"):
        na.Adam([cp.ones(8), cp.ones(2)])


def test_a_gradient_of_the_other_library_is_refused(cp):
    with pytest.raises(TypeError, match="expected a NumPy array, got cupy"):
        na.minimize(lambda x: (1.0, cp.zeros(2)), np.ones(2), jac=True)


def test_arrays_beside_each_other_are_apart(cp):
    both = cp.zeros((3, 2))
    na.SGD([both[:, 0], both[:, 1]], lr=1.0).step([cp.ones(3), cp.full(3, 2.0)])
    cp.testing.assert_array_equal(both, [[-1, -2]] * 3)


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
    opt = na.SGD(params, lr=1.0)
    grads = [cp.ones(4) for _ in params]
    opt.step(grads)
    shared = [*grads[:-1], room.reshape(-1)[4 * count - 2 : 4 * count + 2]]
    with pytest.raises(ValueError, match=rf"\[{count - 1}\].* memory"):
        opt.step(shared)
    grads[-1] = room[count]  # the next one, which is free
    opt.step(grads)
    assert opt.t == 2
    cp.testing.assert_array_equal(room[: count - 1], np.full((count - 1, 4), -2.0))
    cp.testing.assert_array_equal(room[count - 1], np.full(4, -1.0))


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
    params = [cp.ones(4) for _ in range(count)]
    opt = na.SGD(params, lr=1.0)
    grads = [cp.ones(4) for _ in range(count)]
    opt.step(grads)
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


def test_strided_gradients_that_stay_are_copied_at_each_step(cp):
    params = [cp.ones((3, 2)) for _ in range(20)]
    grads = [cp.ones((2, 3)).T for _ in range(20)]
    opt = na.SGD(params, lr=1.0)
    for value in (1.0, 2.0, 3.0, 4.0):
        grads[7][...] = value
        opt.step(grads)
    assert (params[7] == -9).all()
    assert (params[8] == -3).all()


def test_launches_that_could_not_be_prepared_are_prepared_at_the_next_step(cp, monkeypatch):
    params = [cp.zeros(4), cp.zeros(3)]
    opt = na.SGD(params, lr=1.0)
    grads = [cp.ones(4), cp.ones(3)]  # alive, so that the others lie elsewhere
    opt.step(grads)
    others = [cp.full(4, 5.0), cp.full(3, 5.0)]
    with monkeypatch.context() as patch:
        patch.setattr(type(opt._backend._step.arguments), "upload", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            opt.step(others)
    opt.step(others)
    assert opt.t == 2
    assert all((p == -6).all() for p in params)


def test_a_dense_gradient_that_an_interrupt_left_unclean_is_not_used_again(cp, monkeypatch):
    p = cp.zeros((4, 2))
    opt = na.SGD(p, lr=1.0, sparse="dense")
    sparse = opt._backend._step.sparse
    with monkeypatch.context() as patch:
        patch.setattr(sparse, "clear", lambda *given: None)
        opt.step(Rows(cp.asarray(np.array([1])), cp.ones((1, 2))))
    opt.step(Rows(cp.asarray(np.array([2])), cp.ones((1, 2))))
    cp.testing.assert_array_equal(p, [[0, 0], [-1, -1], [-1, -1], [0, 0]])
    assert not any(array.any() for array in sparse._zeros.values())


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
    assert (other == -1).all()
    assert (p == -7).all()


def test_updates_of_other_arrays_are_checked_as_any(cp):
    def arrays(dtype="f4"):
        return [cp.zeros(6, dtype), cp.ones(6, dtype), cp.zeros(6, dtype), cp.zeros(6, dtype)]

    seen = [arrays(), arrays(), arrays("f8"), arrays()]
    for p, g, m, v in seen:
        na.adam_update(p, g, m, v, 1, lr=0.5)
        np.testing.assert_allclose(cp.asnumpy(p), -0.5, rtol=1e-6)
    p, g, m, v = arrays()
    with pytest.raises(ValueError, match="shares memory"):
        na.adam_update(p, g, m, m, 1, lr=0.5)
    with pytest.raises(ValueError, match="shares memory"):
        na.adam_update(p, p, m, v, 1, lr=0.5)
    assert not any(array.any() for array in (p, m, v))
    with cp.cuda.Stream(non_blocking=True):
        na.adam_update(p, g, m, v, 1, lr=0.5)
        np.testing.assert_allclose(cp.asnumpy(p), -0.5, rtol=1e-6)
