"""On a GPU: arrays of every kind, layout, size, library and device, and sparse gradients."""

from __future__ import annotations

import itertools
import math

import numba
import numpy as np
import pytest

import numadam as na
from numadam._arrays.sparse import Rows
from tests import emulator, extras
from tests.cuda.cuda_cases import draw, moved
from tests.trees import Exported


@pytest.mark.parametrize(
    ("dtype", "size"), [("f4", 1.0), ("f8", 1.0), ("f8", 1e200), ("f8", 1e-200), ("c16", 1e200)]
)
@pytest.mark.parametrize("count", [1, 2])
def test_more_numbers_than_a_part_of_a_norm_has(cp, count, dtype, size):
    """Whole parts and a rest, of numbers whose squares leave the range of float64 too."""
    from numadam._cuda.norms import PART

    random, sizes = np.random.default_rng(3), [2 * PART + 77, 5][:count]
    grads = [draw((n,), dtype, random) * np.dtype(dtype).type(size) for n in sizes]
    params = [cp.zeros(n, dtype) for n in sizes]
    opt = na.SGD(params, lr=1.0, clip_norm=3.0)
    opt.step(list(map(cp.asarray, grads)))
    parts = [g.view(g.real.dtype).astype("f8") / size for g in grads]
    norm = np.linalg.norm(np.concatenate(parts))
    assert opt.grad_norm / size == pytest.approx(norm, rel=1e-14)
    for p, g in zip(params, grads, strict=True):
        wanted = -g * min(1.0, 3.0 / (norm * size))
        bound = 1e-6 if dtype == "f4" else 1e-13
        np.testing.assert_allclose(cp.asnumpy(p), wanted, rtol=bound, atol=0)


@pytest.mark.parametrize("by_stream", [False, True])
def test_memory_of_any_pool(cp, by_stream):
    """Arrays that are freed while the GPU is late: others may get their memory at once."""
    pool = cp.cuda.malloc_async if by_stream else cp.cuda.MemoryPool().malloc
    with cp.cuda.using_allocator(pool):
        left = []
        for xp in (np, cp):
            opt = na.Adam(xp.zeros(100, np.float32), lr=0.5, clip_norm=1e3)
            for k in range(1, 9):
                opt.step(xp.full(100, k, np.float32))
            left.append(opt.params)
        np.testing.assert_allclose(cp.asnumpy(left[1]), left[0], rtol=1e-6)


LAYOUTS = ["C", "F", "strided", "reversed"]


def lay(cp, a, layout):
    """The same values in another layout."""
    if layout == "strided":
        big = cp.zeros((2 * a.shape[0], 3 * a.shape[1]), a.dtype)
        big[::2, ::3] = cp.asarray(a)
        return big[::2, ::3]
    if layout == "reversed":
        return cp.asarray(a[::-1].copy())[::-1]
    return cp.asarray(a, order=layout)


@pytest.mark.parametrize("of_params", LAYOUTS)
def test_layouts_give_the_same_bits(cp, of_params):
    start, g = np.random.default_rng(0).standard_normal((2, 6, 10)).astype(np.float32)
    plain, other = cp.asarray(start), lay(cp, start, of_params)
    one, two = na.Adam(plain), na.Adam(other)
    for of_grads in LAYOUTS:
        one.step(cp.asarray(g))
        two.step(lay(cp, g, of_grads))
    cp.testing.assert_array_equal(plain, other)
    cp.testing.assert_array_equal(one.state["v"], two.state["v"])


def test_arrays_of_many_sizes_and_alignments_get_the_numbers_of_each_alone(cp):
    rng, shapes = np.random.default_rng(2), [(0,), (1,), (3,), (1_000,), (257,), (100_003,), ()]
    ends = np.cumsum([0, *map(math.prod, shapes)])
    flat, host = cp.zeros(ends[-1], "f4"), np.zeros(ends[-1], "f4")
    cut = [
        flat[a:b].reshape(shape)
        for (a, b), shape in zip(itertools.pairwise(ends.tolist()), shapes, strict=True)
    ]
    alone = [part.copy() for part in cut]
    together, on_cpu = na.Adam(cut, lr=0.1), na.Adam(host, lr=0.1)
    each = [na.Adam(part, lr=0.1) for part in alone]
    for _ in range(3):
        g = rng.standard_normal(ends[-1]).astype("f4")
        grads = [cp.asarray(g[a:b]) for a, b in itertools.pairwise(ends.tolist())]
        grads = [array.reshape(shape) for array, shape in zip(grads, shapes, strict=True)]
        together.step(grads)
        on_cpu.step(g)
        for opt, grad in zip(each, grads, strict=True):
            opt.step(grad)
    for got, wanted in zip(cut, alone, strict=True):
        cp.testing.assert_array_equal(got, wanted)
    np.testing.assert_allclose(flat.get(), host, rtol=1e-5, atol=1e-6)


# --- arrays of other libraries --------------------------------------------------------------------


def test_torch_tensors_are_gradients(cp):
    extras.need_machine(not emulator.is_running(), "GPU that torch could find")
    import torch

    p = torch.nn.Parameter(torch.ones(5, 3, device="cuda"))
    with pytest.raises(TypeError, match=r"^params\[0\]: .* Use cupy\.asarray\(x\.detach\(\)\)"):
        na.SGD([p])
    na.SGD([cp.asarray(p.detach())], lr=0.25).step([torch.ones(5, 3, device="cuda")])
    assert bool((p == 0.75).all())


def test_device_arrays_of_numba_are_gradients(cp):
    from numba import cuda

    p = cuda.to_device(np.ones(5))
    with pytest.raises(TypeError, match=r"^params: .* Use cupy\.asarray\(x\), which has the same"):
        na.SGD(p)
    na.SGD(cp.asarray(p), lr=0.25).step(cuda.to_device(np.ones(5)))
    np.testing.assert_array_equal(p.copy_to_host(), 0.75)


class Shown:
    """An array that another library shows by the CUDA array interface."""

    def __init__(self, array, read_only=False, stream=None):
        self.array, self.dtype = array, array.dtype
        data = {"data": (array.data.ptr, read_only), "version": 3, "stream": stream}
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, **data}

    __cuda_array_interface__ = None  # of the type, by which it is known


@pytest.mark.parametrize("show", [Exported, Shown])
@pytest.mark.parametrize("count", [1, 20])
def test_arrays_of_other_libraries_are_gradients(cp, count, show):
    params = [cp.ones(4) for _ in range(count)]
    opt, grads = na.SGD(params, lr=1.0), [show(cp.ones(4)) for _ in range(count)]
    for _ in range(3):
        opt.step(grads)
    grads[0] = show(cp.full(4, 5.0))
    opt.step(grads)
    assert (params[0] == -7).all()
    assert all((p == -3).all() for p in params[1:])


def test_what_another_library_shows_as_read_only_is_never_written(cp):
    p, m, v, g = cp.ones(4), cp.zeros(4), cp.zeros(4), Shown(cp.ones(4), True)
    opt = na.SGD(p, lr=1.0)
    opt.step(g)
    for call, name in (
        (lambda: na.SGD({"w": Shown(p, True)}), r"params\['w'\]"),
        (lambda: opt.step(g, out=Shown(cp.ones(4), True)), "out"),
        (lambda: na.adam_update(p, g, Shown(m, True), v, 1), "m"),
        (lambda: na.adam_update(Shown(p, True), g, m, v, 1), "p"),
    ):
        with pytest.raises(TypeError, match=rf"{name}: .*Shown, which is read-only"):
            call()
    assert not any(array.any() for array in (p, m, v))
    assert opt.t == 1
    out = cp.ones(4)  # with it the parameters are only read
    opt.step(g, params=Shown(p, True), out=out)
    assert (out == -1).all()
    na.sgd_update(Shown(p, True), g, lr=2.0, out=out)
    assert (out == -2).all()


def test_the_gpu_waits_for_the_stream_of_an_array_and_the_host_does_not(cp):
    p, g, late = cp.zeros(4), cp.zeros(4), cp.cuda.Stream(non_blocking=True)
    opt = na.SGD(p, lr=1.0)
    opt.step(g)
    cp.cuda.Device().synchronize()
    with late:
        g[...] = 1.0
    if emulator.is_running():
        emulator.waits()
    opt.step(Shown(g, stream=late.ptr))
    if emulator.is_running():
        assert emulator.waits() == 0 < emulator.pending()
    assert (p == -1).all()


# --- two GPUs: arrays of one of them while the other is current -----------------------------------


@numba.njit
def square(x, g):
    f = 0.0
    for i in range(x.size):
        f += x[i] * x[i]
        g[i] += 2 * x[i]
    return f


def test_a_step_takes_place_where_its_arrays_are(cp):
    extras.need_machine(cp.cuda.runtime.getDeviceCount() > 1, "second GPU")
    with cp.cuda.Device(1):
        x, g = ({"a": cp.ones(1_000), "b": cp.ones(10)} for _ in range(2))
        starts = cp.ones((5, 3))
    opt = na.Adam(x, lr=0.1, amsgrad=True, clip_norm=1.0, nonfinite="skip")
    for _ in range(2):
        opt.step(g)
    assert opt.grad_norm == pytest.approx(1_010**0.5, rel=1e-15)
    np.testing.assert_allclose(cp.asnumpy(x["b"]), 0.8, rtol=1e-6)
    with cp.cuda.Device(1):
        result = na.minimize_many(square, starts, lr=0.1, maxiter=50)
    assert result.x.device.id == 1
    assert float(cp.asnumpy(result.fun).max()) < 0.1
    with pytest.raises(ValueError, match="grads: is on GPU 1, but params is on GPU 0"):
        na.SGD(cp.ones(10)).step(g["b"])
    assert cp.cuda.runtime.getDevice() == 0


# --- sparse gradients -----------------------------------------------------------------------------


def gradients(asarray):
    """Rows of ``{"w": (6, 2, 3), "b": (5,)}``, among them one that comes twice, and none at all."""
    random = np.random.default_rng(2)
    for indices in ([4, 1, 4, 0], [2], []):
        w = random.standard_normal((len(indices), 2, 3)).astype("f4")
        b = random.standard_normal(len(indices)).astype("f4")
        rows = asarray(np.array(indices, int))
        yield {"w": Rows(rows, asarray(w)), "b": Rows(rows, asarray(b))}


BY_ROW = {
    "lr": {"b": np.linspace(0.0, 0.1, 5), "w": 0.1},
    "bounds": {"w": None, "b": (np.zeros(5), 0.5)},
}


@pytest.mark.parametrize(
    "options", [{}, {"clip_norm": 0.5, "weight_decay": 0.1}, BY_ROW], ids=range(3)
)
@pytest.mark.parametrize(
    ("how", "order"),
    [("lazy", "C"), ("lazy", "axes"), ("lazy", "strided"), ("dense", "C"), ("dense", "axes")],
)
def test_rows_of_any_layout_as_on_the_cpu(cp, how, order, options):
    left = []
    for xp in (np, cp):
        w = xp.arange(36, dtype="f4").reshape(6, 3, 2).transpose(0, 2, 1)
        params = {"w": w.copy(order="C") if order == "C" else w, "b": xp.ones(5, "f4")}
        if order == "strided":
            params["b"] = xp.ones((5, 2), "f4")[:, 1]
        opt = na.Adam(params, sparse=how, **moved(options, xp.asarray))
        for grads in gradients(xp.asarray):
            opt.step(grads)
        opt.step({"w": xp.ones((6, 2, 3), "f4"), "b": grads["b"]})  # sparse beside dense
        norm = opt.grad_norm if "clip_norm" in options else 0.0
        arrays = [*params.values(), *opt.state["m"].values(), *opt.state["v"].values()]
        left.append((norm, [cp.asnumpy(array) for array in arrays]))
    (norm, wanted), (on_gpu, got) = left
    assert on_gpu == pytest.approx(norm, rel=1e-14)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "options", "dtype"),
    [
        (na.Adam, {"clip_norm": 0.5, "nonfinite": "skip"}, "f4"),
        (na.NAdam, {"groups": {"b": {"lr": 0.3, "beta2": 0.9}}, "weight_decay": 0.1}, "f8"),
    ],
)
def test_masks_and_rows_with_counts_of_their_own_as_on_the_cpu(cp, tmp_path, rule, options, dtype):
    left = []
    for xp in (np, cp):
        random = np.random.default_rng(4)
        params = {"w": xp.ones((6, 2, 3), dtype), "b": xp.ones((5, 2), dtype)[:, 1]}
        opt = rule(params, sparse="lazy", count="row", **options)
        start = opt.snapshot()
        for k in range(8):
            grads = {"w": random.standard_normal((6, 2, 3)), "b": random.standard_normal(5)}
            grads = {name: xp.asarray(g.astype(dtype)) for name, g in grads.items()}
            masks = {name: xp.asarray(random.random(len(g)) < 0.4) for name, g in grads.items()}
            if k == 2:
                grads["b"][0] = np.nan if "nonfinite" in options else 1.0
                masks["b"][0] = True
            if k == 6:
                grads = {"w": Rows(masks["w"], grads["w"][masks["w"]]), "b": grads["b"]}
            opt.step(grads, rows=None if k > 4 else masks)
        counts = opt.state["row_counts"]
        arrays = [*params.values(), *opt.state["m"].values(), *counts.values()]
        left.append([cp.asnumpy(array).copy() for array in arrays])
        opt.save(tmp_path / "run")
        again = na.load(tmp_path / "run", xp=xp)
        assert (again.state["row_counts"]["w"] == counts["w"]).all()
        opt.restore(start)
        assert not opt.state["row_counts"]["w"].any()
    assert left[0][-1].max() > left[0][-1].min()
    for got, wanted in zip(*left, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5 if dtype == "f4" else 1e-12)


def test_a_sparse_matrix(cp):
    import cupyx.scipy.sparse
    import scipy.sparse

    matrix = scipy.sparse.random_array((70, 40), density=0.1, rng=3, format="csr", dtype="f4")
    matrix = scipy.sparse.csr_matrix(matrix)
    on_cpu, on_gpu = np.ones((70, 40), np.float32), cp.ones((70, 40), np.float32)
    try:
        theirs = cupyx.scipy.sparse.csr_matrix(matrix)
    except ImportError as error:  # no wheel that numadam asks for brings it
        extras.need_machine(False, f"cuSPARSE: {str(error).partition(',')[0]}")
    na.Adam(on_cpu, sparse="lazy").step(matrix)
    na.Adam(on_gpu, sparse="lazy").step(theirs)
    np.testing.assert_allclose(cp.asnumpy(on_gpu), on_cpu, rtol=1e-6)


def test_bad_sparse_gradients_are_refused(cp):
    p, row, host = cp.ones(4), cp.asarray(np.array([1])), np.ones(4)
    opt, turned = na.Adam(p, sparse="lazy"), na.Adam(cp.ones((2, 3)).T, sparse="lazy")
    for error, text, refusing, rows in (
        (TypeError, r"grads: expected a CuPy array, got numpy", opt, (np.array([1]), np.ones(1))),
        (ValueError, "grads.indices: got the row 4", opt, (cp.asarray([4]), cp.ones(1))),
        (ValueError, "grads.values shares memory with params", opt, (row, p[:1])),
        (ValueError, "rows lie together", turned, (row, cp.ones((1, 2)))),
        (TypeError, "expected a NumPy array, got cupy", na.Adam(host, sparse="lazy"), (row, p[:1])),
    ):
        with pytest.raises(error, match=text):
            refusing.step(Rows(*rows))
        assert refusing.t == 0
    assert (p == 1).all()
    assert (host == 1).all()
