"""The whole CUDA stack in Numba's simulator: constructor, dispatch, checks, kernel, state.

The simulator runs kernels as Python. What only compiled code shows is in test_ptx and test_gpu.
"""

from __future__ import annotations

import copy
import pickle
import signal
import sys

import numpy as np
import pytest

import numadam as na
from numadam._core import plan as pl
from tests.cuda.cuda_cases import CASES, check


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(cupy, case, dtype):
    check(case, dtype, cupy.asarray, cupy.asnumpy)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (13,), (2, 3, 2)])
def test_sizes(cupy, shape):
    check(CASES[0], "float32", cupy.asarray, cupy.asnumpy, shape, steps=2)


def lay(cupy, a, layout):
    """The same values in another layout."""
    if layout == "F":
        return cupy.asarray(a, order="F")
    if layout == "strided":
        big = cupy.zeros((2 * a.shape[0], 3 * a.shape[1]), a.dtype)
        big[::2, ::3] = cupy.asarray(a)
        return big[::2, ::3]
    if layout == "reversed":
        return cupy.asarray(a[::-1])[::-1]
    return cupy.asarray(a)


LAYOUTS = ["C", "F", "strided", "reversed"]


@pytest.mark.parametrize("of_grads", LAYOUTS)
@pytest.mark.parametrize("of_params", LAYOUTS)
def test_layouts_give_the_same_bits(cupy, of_params, of_grads):
    start, g = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    plain, other = cupy.asarray(start), lay(cupy, start, of_params)
    one, two = na.Adam(plain), na.Adam(other)
    for _ in range(2):
        one.step(cupy.asarray(g))
        two.step(lay(cupy, g, of_grads))
    assert (plain == other).all()
    assert (one.state["v"] == two.state["v"]).all()


def test_dense_arrays_go_direct(cupy):
    p = cupy.asarray(np.ones((3, 4)), order="F")
    opt = na.Adam(p)
    opt.step(cupy.asarray(np.ones((3, 4)), order="F"))
    assert opt._backend._step._work == {}
    opt.step(cupy.asarray(np.ones((3, 4))))  # C where the parameter is F
    assert list(opt._backend._step._work) == [(pl.G, 0)]
    kept = opt._backend._step._work[pl.G, 0]
    opt.step(cupy.asarray(np.ones((3, 4))))
    assert opt._backend._step._work[pl.G, 0] is kept


def test_out_leaves_the_parameters(cupy):
    p, twin = cupy.asarray(np.ones(5)), cupy.asarray(np.ones(5))
    out = lay(cupy, np.full((5, 1), np.nan), "strided")[:, 0]
    one, two = na.Adam(p, lr=0.1), na.Adam(twin, lr=0.1)
    g = cupy.asarray(np.arange(5.0) - 2)
    one.step(g, out=out)
    two.step(g)
    assert (p == 1).all()
    np.testing.assert_array_equal(p + out, twin)
    assert one.t == 1
    assert (one.state["m"] == two.state["m"]).all()


def test_other_params_of_one_call(cupy):
    p, other, twin = (cupy.asarray(np.ones((2, 2))) for _ in range(3))
    opt, two = na.Adam(p), na.Adam(twin)
    g = cupy.asarray(np.ones((2, 2)))
    opt.step(g, params=other)
    two.step(g)
    assert (p == 1).all()
    assert (other == twin).all()


def test_own_gradients(cupy):
    params = {"w": cupy.asarray(np.ones((2, 3))), "b": cupy.asarray(np.ones(2))}
    opt = na.SGD(params, lr=1.0)
    opt.grads["w"][...] = 0.25
    opt.step()
    assert (params["w"] == 0.75).all()
    assert (params["b"] == 1).all()
    assert type(opt.grads["w"]) is cupy.ndarray


def test_lr_of_one_call_and_hyperparameters(cupy):
    p = cupy.asarray(np.zeros(2))
    opt = na.SGD(p, lr=1.0, momentum=0.5)
    opt.step(cupy.asarray(np.ones(2)), lr=0.5)
    assert (p == -0.5).all()
    opt.momentum = 0.25
    opt.step(cupy.asarray(np.ones(2)))
    assert (p == -1.75).all()


def test_state_is_seen_and_loaded_whole(cupy):
    params = [cupy.asarray(np.ones((2, 3)), order="F"), cupy.asarray(np.ones(4))]
    opt = na.Adam(params)
    grads = [cupy.asarray(np.ones((2, 3))), cupy.asarray(np.ones(4))]
    opt.step(grads)
    saved = {name: copy.deepcopy(opt.state[name]) for name in opt.state}
    after_one = [a.copy() for a in params]
    opt.step(grads)
    after_two = [a.copy() for a in params]
    shown = opt.state["m"][0]
    opt.state = saved
    assert opt.t == 1
    assert (shown == saved["m"][0]).all()
    for a, b in zip(params, after_one, strict=True):
        a[...] = b
    opt.step(grads)
    for a, b in zip(params, after_two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_bad_state_is_refused_whole(cupy):
    opt = na.Adam(cupy.asarray(np.ones(3)))
    opt.step(cupy.asarray(np.ones(3)))
    before = opt.state["m"].copy()
    with pytest.raises(ValueError, match=r"state\['v'\]: expected shape \(3,\) like params"):
        opt.state = {"t": 9, "m": cupy.asarray(np.zeros(3)), "v": cupy.asarray(np.zeros(4))}
    with pytest.raises(TypeError, match=r"state\['m'\]: expected a CuPy array, got numpy.ndarray"):
        opt.state["m"] = np.zeros(3)
    assert opt.t == 1
    assert (opt.state["m"] == before).all()


def test_pickle_goes_on_where_it_was(cupy):
    p = cupy.asarray(np.ones((2, 3)))
    opt = na.Adam({"w": p}, amsgrad=True)
    g = cupy.asarray(np.full((2, 3), 0.5))
    opt.step({"w": g})
    twin = pickle.loads(pickle.dumps(opt))
    opt.step({"w": g})
    twin.step({"w": g})
    assert twin.t == 2
    np.testing.assert_array_equal(twin.params["w"], p)
    np.testing.assert_array_equal(twin.state["vmax"]["w"], opt.state["vmax"]["w"])


def bad_calls(cupy):
    """Wrong arguments: (error, its text, keywords of the call)."""
    good, matrix = cupy.zeros(3), cupy.zeros((3, 3))
    on_other = cupy.zeros(3)
    on_other.gpu = 1
    wide = np.lib.stride_tricks.as_strided(cupy.zeros(1), (3,), (0,), subok=True)
    got, like = "grads: expected a CuPy array, got", "grads: expected float64 like params, got"
    return {
        "numpy": (TypeError, f"{got} numpy.ndarray.*cupy.asarray", {"grads": np.zeros(3)}),
        "list": (TypeError, f"{got} list", {"grads": [0.0, 0.0, 0.0]}),
        "number": (TypeError, f"{got} the number", {"grads": 1.0}),
        "dtype": (TypeError, f"{like} float32", {"grads": cupy.zeros(3, "f4")}),
        "byte order": (TypeError, "foreign byte order", {"grads": cupy.zeros(3, ">f8")}),
        "shape": (ValueError, r"like params, got \(4,\)", {"grads": cupy.zeros(4)}),
        "axes": (ValueError, r"like params, got \(3, 1\)", {"grads": cupy.zeros((3, 1))}),
        "device": (ValueError, "is on GPU 1, but params is on GPU 0", {"grads": on_other}),
        "out, grads": (ValueError, "grads shares memory with out", {"grads": good, "out": good}),
        "params, grads": (
            ValueError,
            "grads shares memory with params",
            {"grads": good, "params": good},
        ),
        "a part": (ValueError, "shares", {"grads": matrix[0], "params": matrix.reshape(9)[2:5]}),
        "broadcast": (ValueError, "out: several of its elements", {"grads": good, "out": wide}),
        "out": (ValueError, "out: expected shape", {"grads": good, "out": cupy.zeros(2)}),
    }


BAD = ["numpy", "list", "number", "dtype", "byte order", "shape", "axes", "device"]
BAD += ["out, grads", "params, grads", "a part", "broadcast", "out"]


@pytest.mark.parametrize("what", BAD)
def test_bad_arrays_are_refused_before_anything_is_written(cupy, what):
    error, text, call = bad_calls(cupy)[what]
    p = cupy.asarray(np.arange(3.0))
    opt = na.Adam(p)
    with pytest.raises(error, match=text):
        opt.step(**call)
    assert opt.t == 0
    np.testing.assert_array_equal(p, np.arange(3.0))
    for array in (opt.state["m"], opt.state["v"], *call.values()):
        assert not np.any(array) or np.ndim(array) == 0


def test_no_gradient_is_refused_by_name(cupy):
    opt = na.Adam([cupy.zeros(3)])
    with pytest.raises(TypeError, match=r"grads\[0\]: expected a CuPy array, got None.*zeros"):
        opt.step([None])


def test_the_states_own_memory_is_no_gradient(cupy):
    opt = na.Adam(cupy.asarray(np.ones(3)))
    with pytest.raises(ValueError, match=r"grads shares memory with state\['m'\]"):
        opt.step(opt.state["m"])


def test_interleaved_arrays_are_apart(cupy):
    both = cupy.zeros((3, 2))
    params = [both[:, 0], both[:, 1]]
    na.SGD(params, lr=1.0).step([cupy.asarray(np.ones(3)), cupy.asarray(np.full(3, 2.0))])
    np.testing.assert_array_equal(both, [[-1, -2]] * 3)


def test_bad_params_are_refused_by_the_constructor(cupy):
    p = cupy.zeros(3)
    with pytest.raises(
        TypeError, match=r"params\[1\]: is a NumPy array, but params\[0\] is a CuPy"
    ):
        na.Adam([p, np.zeros(3)])
    with pytest.raises(
        TypeError, match=r"params\[1\]: is a CuPy array, but params\[0\] is a NumPy"
    ):
        na.Adam([np.zeros(3), p])
    with pytest.raises(TypeError, match=r"params\[1\]: is float32"):
        na.Adam([p, cupy.zeros(3, np.float32)])
    with pytest.raises(TypeError, match=r"params: expected float64, .* got int64"):
        na.Adam(cupy.zeros(3, np.int64))
    with pytest.raises(
        ValueError, match=r"params\[1\] shares memory with params\[0\]|shares memory"
    ):
        na.Adam([p, p[1:]])
    other = cupy.zeros(3)
    other.gpu = 1
    with pytest.raises(ValueError, match=r"params\[1\]: is on GPU 1, but params\[0\] is on GPU 0"):
        na.Adam([p, other])
    wide = np.lib.stride_tricks.as_strided(p, (3, 3), (8, 0), subok=True)
    with pytest.raises(ValueError, match="params: several of its elements"):
        na.Adam(wide)


def test_without_numba_cuda_the_error_says_what_to_install(cupy, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "numba_cuda", raising=False)
    with pytest.raises(ImportError, match=r"numba-cuda .* pip install .*\[cuda13\]"):
        na.Adam(cupy.zeros(3))


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(
    ("options", "launches"), [({"clip_norm": 9.0}, 6), ({"accumulate": 2}, 1)], ids=["step", "sum"]
)
def test_ctrl_c_between_launches_waits_for_the_whole_step(cupy, monkeypatch, options, launches):
    import numadam._cuda.launch as policy

    params = [cupy.asarray(np.ones(4)) for _ in range(3)]
    opt = na.SGD(params, lr=1.0, **options)
    count, launch = [], policy.Simulated.launch

    def interrupted(*args):
        launch(*args)
        count.append(args)
        if len(count) == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(policy.Simulated, "launch", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        opt.step([cupy.asarray(np.ones(4)) for _ in range(3)])
    assert signal.getsignal(signal.SIGINT) is before
    assert len(count) == launches
    if "accumulate" in options:
        assert (opt.t, int(opt.state["calls"])) == (0, 1)
        assert all((total == 1).all() for total in opt.state["accumulated"])
    else:
        assert opt.t == 1
        assert all((p == 0).all() for p in params)


def test_a_scalar_too_large_for_the_dtype_is_infinite(cupy):
    p = cupy.zeros(2, np.float32)
    na.SGD(p, lr=1e300).step(cupy.asarray(np.array([1, -1], np.float32)))
    np.testing.assert_array_equal(p, [-np.inf, np.inf])
