"""On a GPU: the reference tests, layouts, streams and graphs of real CuPy arrays."""

from __future__ import annotations

import itertools
import math
import os

import numpy as np
import pytest

import numadam as na
from tests.cuda.cuda_cases import CASES, OPTIONS, as_dtype, check, check_option


def _why_not():
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return "the CUDA simulator is on"
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no CUDA GPU: {error}"
    return "" if count else "no CUDA GPU"


@pytest.fixture(autouse=True)
def cp():
    why_not = _why_not()
    if why_not:
        pytest.skip(why_not)
    import cupy

    return cupy


pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("options", [{}, {"capturable": True}], ids=["numbers", "rows"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(cp, case, dtype, options):
    """Whether the host forms the scalars, or the GPU."""
    check(case, dtype, cp.asarray, cp.asnumpy, **options)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (255,), (257,), (1_000_003,)])
def test_sizes(cp, shape):
    check(CASES[0], "float32", cp.asarray, cp.asnumpy, shape, steps=3)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_agree_with_the_cpu(cp, name):
    check_option(OPTIONS[name], cp.asarray, cp.asnumpy)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 255, 257, 1_000_003])
def test_norms_are_within_a_few_ulp_and_do_not_depend_on_alignment(cp, n, dtype):
    g = (np.random.default_rng(n).standard_normal(n) * 1e3).astype(dtype)
    exact = math.sqrt(math.fsum(float(x) ** 2 for x in g))
    norms = []
    for shift in (0, 1, 3):
        room = cp.zeros(n + 4, dtype)
        room[shift : shift + n] = cp.asarray(g)
        opt = na.SGD(cp.zeros(n, dtype), clip_norm=1.0)
        opt.step(room[shift : shift + n])
        norms.append(opt.grad_norm)
    assert norms[0] == norms[1] == norms[2]
    assert abs(norms[0] - exact) <= 8 * np.spacing(exact)


@pytest.mark.parametrize("factor", [1e-200, 1e200])
def test_norms_of_float64_beyond_its_range(cp, factor):
    g = np.random.default_rng(0).standard_normal(1_000)
    opt = na.SGD(cp.zeros(1_000), lr=1.0, clip_norm=1.0)
    opt.step(cp.asarray(g * factor))
    assert opt.grad_norm == pytest.approx(np.linalg.norm(g) * factor, rel=1e-14)
    if factor > 1:
        assert float(cp.linalg.norm(opt.params)) == pytest.approx(1.0)


@pytest.mark.parametrize("how", ["lazy", "dense"])
def test_sparse_gradients(cp, how):
    from numadam._arrays.sparse import Rows

    random = np.random.default_rng(0)
    indices = random.integers(0, 1_000, 300)
    values = random.standard_normal((300, 17)).astype(np.float32)
    on_cpu, on_gpu = np.ones((1_000, 17), np.float32), cp.ones((1_000, 17), np.float32)
    one, two = (na.Adam(p, sparse=how, clip_norm=1.0) for p in (on_cpu, on_gpu))
    for _ in range(3):
        one.step(Rows(indices, values))
        two.step(Rows(cp.asarray(indices), cp.asarray(values)))
    assert one.grad_norm == pytest.approx(two.grad_norm, rel=1e-14)
    np.testing.assert_allclose(cp.asnumpy(on_gpu), on_cpu, rtol=1e-5, atol=1e-6)


def test_a_sparse_matrix(cp):
    import cupyx.scipy.sparse
    import scipy.sparse

    matrix = scipy.sparse.random_array((70, 40), density=0.1, rng=3, format="csr", dtype="f4")
    matrix = scipy.sparse.csr_matrix(matrix)
    on_cpu, on_gpu = np.ones((70, 40), np.float32), cp.ones((70, 40), np.float32)
    try:
        theirs = cupyx.scipy.sparse.csr_matrix(matrix)
    except ImportError as error:  # no wheel that numadam asks for brings it
        pytest.skip(f"CuPy's sparse matrices need cuSPARSE: {str(error).partition(',')[0]}")
    na.Adam(on_cpu, sparse="lazy").step(matrix)
    na.Adam(on_gpu, sparse="lazy").step(theirs)
    np.testing.assert_allclose(cp.asnumpy(on_gpu), on_cpu, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_short_number_is_read_and_written_as_on_the_cpu(cp, dtype):
    """All 65,536 of them as parameters, and their halves as what a step writes."""
    p = np.arange(65_536, dtype=np.uint16).view(as_dtype(dtype))
    on_gpu = cp.asarray(p.view(np.uint16)).view(as_dtype(dtype))
    g = p.copy()
    one, two = na.SGD(p, lr=0.5), na.SGD(on_gpu, lr=0.5)
    one.step(g)
    two.step(cp.asarray(g.view(np.uint16)).view(as_dtype(dtype)))
    got = cp.asnumpy(on_gpu.view(np.uint16)).view(as_dtype(dtype)).astype(np.float32)
    np.testing.assert_array_equal(got, p.astype(np.float32))


def test_large_lr_bounds_and_state_of_short_numbers(cp):
    """What CuPy itself has to know of bfloat16: views, copies, and pickling."""
    import pickle

    p = cp.ones(5, np.float32)
    opt = na.Adam(p, state_dtype="bfloat16", bounds=(0.0, 2.0))
    opt.step(cp.ones(5, np.float32))
    twin = pickle.loads(pickle.dumps(opt))
    opt.state = dict(twin.state)
    for each in (opt, twin):
        each.step(cp.ones(5, np.float32))
    assert bool((twin.params == p).all())


def test_more_elements_than_threads(cp):
    from numadam._cuda import launch as policy

    n = 4 * policy.THREADS * policy.MAX_BLOCKS + 12_345
    p = cp.zeros(n, np.float32)
    opt = na.SGD(p, lr=1.0)
    opt.step(cp.arange(n, dtype=np.float32))
    assert bool((p == -cp.arange(n, dtype=np.float32)).all())


@pytest.mark.parametrize("layout", ["F", "strided", "reversed", "transposed"])
def test_layouts_give_the_same_bits(cp, layout):
    random = np.random.default_rng(0)
    start, g = random.standard_normal((2, 6, 10)).astype(np.float32)

    def lay(a):
        if layout == "F":
            return cp.asarray(a, order="F")
        if layout == "strided":
            big = cp.zeros((12, 20), a.dtype)
            big[::2, ::2] = cp.asarray(a)
            return big[::2, ::2]
        if layout == "reversed":
            return cp.asarray(a[::-1].copy())[::-1]
        return cp.asarray(a.T.copy()).T

    plain, other = cp.asarray(start), lay(start)
    one, two = na.Adam(plain), na.Adam(other)
    for _ in range(3):
        one.step(cp.asarray(g))
        two.step(lay(g))
    assert bool((plain == other).all())


def test_runs_on_the_current_stream_and_does_not_wait(cp):
    p, g = cp.zeros(1_000_000, np.float32), cp.ones(1_000_000, np.float32)
    opt = na.Adam(p)
    stream = cp.cuda.Stream(non_blocking=True)
    cp.cuda.get_current_stream().synchronize()
    with stream:
        for _ in range(5):
            opt.step(g)
    stream.synchronize()
    assert opt.t == 5
    np.testing.assert_allclose(cp.asnumpy(p[:3]), -5e-3, rtol=1e-5)


def test_gpu_and_cpu_agree(cp):
    random = np.random.default_rng(3)
    start = random.standard_normal(10_000).astype(np.float32)
    on_cpu, on_gpu = start.copy(), cp.asarray(start)
    one, two = na.Adam(on_cpu, lr=0.01), na.Adam(on_gpu, lr=0.01)
    for _ in range(100):
        g = random.standard_normal(10_000).astype(np.float32)
        one.step(g)
        two.step(cp.asarray(g))
    np.testing.assert_allclose(cp.asnumpy(on_gpu), on_cpu, rtol=1e-5, atol=1e-6)


def test_special_values_stay_or_spread_as_on_the_cpu(cp):
    g = np.array([np.nan, np.inf, -np.inf, 0.0, 1e-40, 1e30], np.float32)
    on_cpu, on_gpu = np.ones(6, np.float32), cp.ones(6, np.float32)
    na.Adam(on_cpu).step(g)
    na.Adam(on_gpu).step(cp.asarray(g))
    np.testing.assert_allclose(cp.asnumpy(on_gpu), on_cpu, rtol=1e-6)


def test_many_arrays_state_and_pickle(cp):
    import pickle

    params = {"w": cp.ones((3, 4)), "b": [cp.zeros(4), cp.zeros(())]}
    grads = {"w": cp.ones((3, 4)), "b": [cp.ones(4), cp.ones(())]}
    opt = na.Adam(params, amsgrad=True)
    opt.step(grads)
    twin = pickle.loads(pickle.dumps(opt))
    opt.step(grads)
    twin.step(grads)
    assert twin.t == 2
    assert bool((twin.params["w"] == params["w"]).all())
    assert bool((twin.state["vmax"]["b"][0] == opt.state["vmax"]["b"][0]).all())


def test_bare_update_and_out(cp):
    p, g, m, v = (cp.ones(5), cp.ones(5), cp.zeros(5), cp.zeros(5))
    out = cp.zeros(5)
    na.adam_update(p, g, m, v, 1, lr=0.1, out=out)
    assert bool((p == 1).all())
    np.testing.assert_allclose(cp.asnumpy(out), -0.1, rtol=1e-6)
    na.adam_update(p, g, cp.zeros(5), cp.zeros(5), 1, lr=0.1)
    np.testing.assert_allclose(cp.asnumpy(p), 0.9, rtol=1e-6)


def test_a_history_beside_step(cp):
    table = {}
    for xp in (np, cp):
        x, history = xp.arange(10_000, dtype="float32") - 5000.0, na.History(every=2)
        opt = na.Adam(x, lr=0.1)
        for _ in range(4):
            grads = 2 * x
            opt.step(grads)
            history.record(opt, (x * x).sum(), grads)
        table[xp.__name__] = history.to_dict()
    for name, wanted in table["numpy"].items():
        np.testing.assert_allclose(table["cupy"][name], wanted, rtol=1e-4, err_msg=name)


def test_arrays_of_many_sizes_and_alignments_get_the_numbers_of_each_alone(cp):
    rng, sizes = np.random.default_rng(2), [0, 1, 3, 1_000, 4_097, 100_003, 0, 17]
    flat = cp.asarray(rng.standard_normal(sum(sizes)).astype(np.float32))
    ends = np.cumsum([0, *sizes])
    cut = [flat[a:b] for a, b in itertools.pairwise(ends.tolist())]
    alone = [part.copy() for part in cut]
    together, each = na.Adam(cut, lr=0.1), [na.Adam(part, lr=0.1) for part in alone]
    for _ in range(3):
        grads = [cp.asarray(rng.standard_normal(n).astype(np.float32)) for n in sizes]
        together.step(grads)
        for opt, g in zip(each, grads, strict=True):
            opt.step(g)
    for got, wanted in zip(cut, alone, strict=True):
        assert bool((got == wanted).all())


def test_a_captured_step_is_replayed(cp):
    x, twin = cp.zeros(1_000, np.float32), cp.zeros(1_000, np.float32)
    g, stream = cp.ones(1_000, np.float32), cp.cuda.Stream(non_blocking=True)
    opt, other = (
        na.NAdam(x, 0.1, clip_norm=2.0, capturable=True),
        na.NAdam(twin, 0.1, clip_norm=2.0),
    )
    cp.cuda.Device().synchronize()
    with stream:
        opt.step(g)
        stream.begin_capture()
        opt.step(g)
        graph = stream.end_capture()
        for _ in range(5):
            graph.launch()
        opt.lr = 0.05
        graph.launch()
    stream.synchronize()
    for k in range(7):
        other.lr = 0.1 if k < 6 else 0.05
        other.step(g)
    assert opt.t == 7
    assert bool((x == twin).all())


def test_a_capture_that_would_need_the_host_is_refused(cp):
    x, g = cp.zeros(8), cp.ones(8)
    opt, stream = na.Adam(x, capturable=True), cp.cuda.Stream(non_blocking=True)
    cp.cuda.Device().synchronize()
    with stream:
        opt.step(g)
        opt.beta1 = 0.5
        stream.begin_capture()
        try:
            with pytest.raises(RuntimeError, match="a graph is being captured"):
                opt.step(g)
        finally:
            stream.end_capture()


def test_a_capture_of_a_step_that_the_host_counts_is_refused(cp):
    x, g = cp.zeros(8), cp.ones(8)
    opt, stream = na.Adam(x), cp.cuda.Stream(non_blocking=True)
    cp.cuda.Device().synchronize()
    with stream:
        opt.step(g)
        stream.begin_capture()
        try:
            with pytest.raises(RuntimeError, match="capturable=True"):
                opt.step(g)
        finally:
            stream.end_capture()
    assert opt.t == 1


def test_other_arrays_between_do_not_reach_a_graph(cp):
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        params = [cp.zeros(4), cp.zeros(3)]
        grads, others = ([cp.full(n, value) for n in (4, 3)] for value in (1.0, 100.0))
        opt = na.SGD(params, lr=1.0, capturable=True)
        opt.step(grads)
        stream.begin_capture()
        opt.step(grads)
        graph = stream.end_capture()
        for step in (others, grads):
            opt.step(step)
            graph.launch()
        assert opt.t == 5
        assert all(bool((p == -104).all()) for p in params)


@pytest.fixture
def behind(cp):
    """Gives the GPU work for a tenth of a second."""
    big = cp.ones(2**27, np.float32)

    def keep_busy():
        cp.cuda.Device().synchronize()
        for _ in range(400):
            big.__imul__(1)

    return keep_busy


def test_optimisers_made_and_left_while_the_gpu_is_behind(cp, behind):
    """Each one's options are copied later, from memory that the next one must not get.

    Where the host counts t they are numbers of a launch, and not copied.
    """
    arrays, g = [cp.zeros(16) for _ in range(100)], cp.ones(16)

    def step(p, scale):
        na.SGD(p, lr=1.0, loss_scale=scale, capturable=True).step(g)

    step(cp.zeros(16), 2.0)  # compiled now, and not behind the work
    behind()
    for k, p in enumerate(arrays):
        step(p, 1.0 / (k + 1))
    for k, p in enumerate(arrays):
        np.testing.assert_allclose(cp.asnumpy(p), -(k + 1.0), rtol=1e-12)


def test_options_that_change_at_each_step_while_the_gpu_is_behind(cp, behind):
    x, g = cp.zeros(16), cp.ones(16)
    opt = na.SGD(x, lr=1.0, loss_scale=1.0, capturable=True)
    opt.step(g)
    behind()
    for k in range(1, 30):
        opt.loss_scale = 0.5**k
        opt.step(g)
    np.testing.assert_array_equal(cp.asnumpy(x), 1.0 - 2.0**30)


def test_skipped_steps(cp):
    x, bad = cp.ones(5, np.float32), cp.asarray(np.array([1, np.nan, 1, 1, 1], np.float32))
    opt = na.SGD(x, lr=1.0, nonfinite="skip")
    opt.step(cp.ones(5, np.float32))
    opt.step(bad)
    opt.step(cp.ones(5, np.float32))
    assert (opt.t, opt.skipped) == (2, 1)
    assert bool((x == -1).all())


def test_torch_tensors_are_updated_in_place(cp):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        p = torch.nn.Parameter(torch.ones(5, 3, device="cuda", dtype=dtype))
        na.SGD([p], lr=0.25).step([torch.ones(5, 3, device="cuda", dtype=dtype)])
        assert bool((p == 0.75).all())


def test_device_arrays_of_numba_are_updated_in_place(cp):
    from numba import cuda

    p = cuda.to_device(np.ones(5))
    na.SGD(p, lr=0.25).step(cuda.to_device(np.ones(5)))
    np.testing.assert_array_equal(p.copy_to_host(), 0.75)


def test_the_kernels_are_kept_on_disk(cp, tmp_path):
    import subprocess
    import sys

    code = (
        "import cupy as cp, numadam as na\n"
        "from numadam._cuda import compiler as cc\n"
        "made = []\n"
        "ptx_of = cc.ptx_of\n"
        "cc.ptx_of = lambda *a: made.append(a) or ptx_of(*a)\n"
        "x = cp.ones(3, 'f4')\n"
        "na.Adam(x).step(cp.ones(3, 'f4'))\n"
        "print(len(made))\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    counts = [
        int(
            subprocess.run(
                [sys.executable, "-c", code],
                check=True,
                env=environment,
                capture_output=True,
                text=True,
                timeout=300,
            ).stdout
        )
        for _ in range(2)
    ]
    assert counts[0] > 0
    assert counts[1] == 0
