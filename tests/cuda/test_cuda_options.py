"""Every option in the simulator: the bits of the CPU back end, which has references of its own.

The simulator rounds every operation, as the CPU does; a GPU fuses products and sums. Norms are
added up in another order than on the CPU, and so is all that a clip factor went into.
"""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

import numadam as na
from numadam._arrays.sparse import Rows
from tests.cuda.cuda_cases import OPTIONS, gradients, moved, run

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy's scalars


def assert_alike(got, wanted, clipped, message=""):
    """The same bits; the last few of them may differ where a norm has been at work."""
    if not clipped:
        np.testing.assert_array_equal(got, wanted, err_msg=message)
        return
    got, wanted = np.asarray(got), np.asarray(wanted)
    kind = "complex128" if wanted.dtype.kind == "c" else "float64"
    eps = ml_dtypes.finfo(wanted.dtype).eps if wanted.dtype.kind in "Vfc" else 0.0
    rtol = 4 * float(eps)
    got, wanted = got.astype(kind), wanted.astype(kind)
    np.testing.assert_allclose(got, wanted, rtol=rtol, atol=rtol, err_msg=message)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_bits_of_the_cpu(cupy, name):
    of_cpu = run(OPTIONS[name], np.array, np.asarray)
    of_gpu = run(OPTIONS[name], cupy.asarray, cupy.asnumpy)
    assert list(of_gpu) == list(of_cpu)
    for key, wanted in of_cpu.items():
        got = of_gpu[key]
        if isinstance(wanted, np.ndarray):
            assert got.dtype == wanted.dtype, key
        if wanted is None or isinstance(wanted, str):
            assert got == wanted
            continue
        assert_alike(got, wanted, bool(of_cpu["norms"]), str(key))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_a_norm_does_not_depend_on_alignment(cupy, dtype, shift):
    g = gradients((300,), dtype, 1)[0]
    room = cupy.zeros(303, dtype)
    room[shift : shift + 300] = g
    opt = na.Adam(cupy.ones(300, dtype), clip_norm=1.0, weight_decay=0.1)
    opt.step(room[shift : shift + 300])
    exact = math.sqrt(math.fsum(float(x) ** 2 for x in g))
    assert abs(opt.grad_norm - exact) <= 8 * np.spacing(exact)
    twin = na.Adam(cupy.ones(300, dtype), clip_norm=1.0, weight_decay=0.1)
    twin.step(cupy.asarray(g))
    assert twin.grad_norm == opt.grad_norm
    np.testing.assert_array_equal(opt.params, twin.params)


def rows(asarray, dtype="float32"):
    """Sparse gradients of ``{"w": (6, 2, 3), "b": (5,)}``, one with a row that comes twice."""
    random = np.random.default_rng(2)
    for indices in ([4, 1, 4, 0], [2], []):
        w = random.standard_normal((len(indices), 2, 3)).astype(dtype)
        b = random.standard_normal(len(indices)).astype(dtype)
        indices = np.array(indices, int)
        yield {"w": Rows(asarray(indices), asarray(w)), "b": Rows(asarray(indices), asarray(b))}


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5, "weight_decay": 0.1}], ids=str)
@pytest.mark.parametrize("how", ["lazy", "dense"])
@pytest.mark.parametrize("order", ["C", "lying otherwise", "strided"])
def test_sparse_rows(cupy, how, order, options):
    left = []
    for asarray in (np.array, cupy.asarray):
        w = asarray(np.arange(36, dtype=np.float32).reshape(6, 3, 2)).transpose(0, 2, 1)
        params = {"w": w, "b": asarray(np.ones(5, np.float32))}
        if order == "C":
            params["w"] = w.copy(order="C")
        if order == "strided":
            params["b"] = asarray(np.ones((5, 2), np.float32))[:, 1]
        opt = na.Adam(params, sparse=how, **options)
        for grads in rows(asarray):
            opt.step(grads)
        # a sparse gradient beside a dense one
        opt.step({"w": asarray(np.ones((6, 2, 3), np.float32)), "b": grads["b"]})
        left.append([*params.values(), *opt.state["m"].values(), *opt.state["v"].values()])
    for wanted, got in zip(*left, strict=True):
        assert_alike(got, wanted, bool(options))


@pytest.mark.parametrize("how", ["lazy", "dense"])
def test_a_sparse_matrix(cupy, how):
    import scipy.sparse

    matrix = scipy.sparse.random_array((7, 4), density=0.2, rng=3, format="csr")
    p, twin = np.ones((7, 4), np.float32), cupy.ones((7, 4), np.float32)
    matrix = matrix.astype(np.float32)
    one, two = na.Adam(p, sparse=how), na.Adam(twin, sparse=how)
    one.step(matrix)
    two.step(cupy.csr_matrix(matrix))
    np.testing.assert_array_equal(twin, p)
    assert (twin != 1).any()


def test_lazy_steps_leave_other_rows_outside_of_all(cupy):
    p, twin = cupy.asarray(np.array([0.0, 5.0, 5.0, 0.0], np.float32)), np.array([0, 5, 5, 0], "f4")
    options = {"lr": {"x": np.array([9.0, 1.0, 9.0, 2.0])}, "bounds": {"x": (np.zeros(4), 4.5)}}
    for a, asarray in ((p, cupy.asarray), (twin, np.asarray)):
        opt = na.SGD({"x": a}, sparse="lazy", momentum=0.9, **moved(options, asarray))
        for sign in (1, -1):
            values = asarray(np.array([3, sign], np.float32))
            opt.step({"x": Rows(asarray(np.array([1, 3])), values)})
    np.testing.assert_array_equal(p, [0, 0, 4.5, 2])
    np.testing.assert_array_equal(p, twin)


def test_bad_sparse_gradients_are_refused(cupy):
    p, one = cupy.ones(4), cupy.asarray(np.array([1]))
    with pytest.raises(
        ValueError, match=r"grads: is sparse\. Make the optimiser with sparse='lazy'"
    ):
        na.Adam(p).step(Rows(one, cupy.ones(1)))
    opt = na.Adam(p, sparse="lazy")
    with pytest.raises(TypeError, match=r"grads: expected a CuPy array, got numpy\.ndarray"):
        opt.step(Rows(np.array([1]), np.ones(1)))
    with pytest.raises(ValueError, match=r"grads.indices: got the row 4"):
        opt.step(Rows(cupy.asarray(np.array([4])), cupy.ones(1)))
    with pytest.raises(ValueError, match=r"grads.values shares memory with params"):
        opt.step(Rows(one, p[:1]))
    with pytest.raises(ValueError, match="rows lie together"):
        na.Adam(cupy.ones((2, 3)).T, sparse="lazy").step(Rows(one, cupy.ones((1, 2))))
    z = cupy.zeros(3, np.complex128)
    with pytest.raises(TypeError, match="parameters are complex"):
        na.Adam(z, sparse="dense").step(Rows(one, cupy.ones(1)))
    assert opt.t == 0
    assert (p == 1).all()


@pytest.mark.parametrize("name", ["w", "b"])
def test_saved_state_goes_on_with_all_it_needs(cupy, name):
    """Sums, averages, products and counters are in a saved state."""
    options = {"accumulate": 2, "ema": 0.9, "nonfinite": "skip"}
    params, twins = ({name: cupy.ones(3)} for _ in range(2))
    one, two = na.NAdam(params, **options), na.NAdam(twins, **options)
    g = {name: cupy.asarray(np.array([1.0, 2.0, np.nan]))}
    for _ in range(5):
        one.step({name: cupy.ones(3)})
    one.step(g)
    one.step({name: cupy.ones(3)})
    assert set(one.state) == {
        *("t", "calls", "skipped", "skipped_in_a_row", "mu_product"),
        *("m", "v", "accumulated", "average"),
    }
    two.state = dict(one.state)
    twins[name][...] = params[name]
    for opt in (one, two):
        opt.step({name: cupy.ones(3)})
    np.testing.assert_array_equal(twins[name], params[name])
    assert one.state["mu_product"] == two.state["mu_product"]
    assert (one.t, two.t, one.skipped, two.skipped) == (3, 3, 1, 1)


def test_parameters_and_copies_begin_where_the_bounds_are(cupy):
    p = cupy.asarray(np.array([-3.0, 0.5, np.nan, 3.0]))
    opt = na.Adam(p, bounds=(-1.0, 1.0), ema=0.9)
    np.testing.assert_array_equal(p, [-1, 0.5, np.nan, 1])
    np.testing.assert_array_equal(opt.averaged, p)
    strided = cupy.asarray(np.full((3, 2), 9.0))
    na.Adam(strided[:, 1], bounds=(None, 1.0))
    np.testing.assert_array_equal(strided, [[9, 1]] * 3)


def test_a_schedule_or_a_zero_division_does_not_stop_a_step_half_way(cupy):
    """Scalars are NumPy's: what divides by zero is infinite, as in compiled code."""
    p = cupy.ones(2)
    opt = na.Adam(p, lr=0.1, beta2=lambda t: 0.5 if t < 1 else 0.0)
    opt.step(cupy.ones(2))
    opt.step(cupy.ones(2))
    assert opt.t == 2
    assert np.isfinite(p).all()


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("name", ["w", "b"])
def test_a_reset_optimiser_goes_on_as_a_new_one(cupy, name, capturable):
    options = {"ema": 0.9, "nonfinite": "skip", "clip_norm": 1.0, "bounds": (-3.0, 3.0)}
    options |= {"capturable": True} if capturable else {"accumulate": 2}
    params = {name: cupy.ones(3)}
    opt = na.NAdam(params, **options)
    for k in range(3):
        opt.step({name: cupy.full(3, 1.0 + k)})
    opt.step({name: cupy.full(3, np.nan)})
    params[name][...] = 5.0
    opt.reset()
    twins = {name: cupy.full(3, 5.0)}
    new = na.NAdam(twins, **options)
    np.testing.assert_array_equal(params[name], twins[name])
    assert (opt.t, opt.skipped) == (0, 0)
    assert np.isnan(opt.grad_norm)
    for one in (opt, new):
        for _ in range(2):
            one.step({name: cupy.ones(3)})
    for key in new.state:
        np.testing.assert_array_equal(
            opt.state[key] if key in opt._backend.counters else opt.state[key][name],
            new.state[key] if key in new._backend.counters else new.state[key][name],
        )
    np.testing.assert_array_equal(params[name], twins[name])


def test_a_t_that_is_set_and_the_present_learning_rate(cupy):
    opt, other = na.NAdam(cupy.ones(3)), na.NAdam(np.ones(3))
    opt.t = other.t = 7
    assert opt.t == 7
    assert opt.state["mu_product"] == other.state["mu_product"]
    rate = na.SGD(cupy.ones(3), lr=0.5, capturable=True)
    assert rate.current_lr is rate.lr
