"""On a GPU: arrays of every kind, layout, size and library."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import numadam as na
from tests.cuda.cuda_cases import as_dtype
from tests.saved import load_into, loaded

pytestmark = pytest.mark.gpu


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
    """Operations on bfloat16 that CuPy itself has to have: views, copies, pickling, files."""
    import pickle

    p = cp.ones(5, np.float32)
    options = {"state_dtype": "bfloat16", "bounds": (0.0, 2.0)}
    opt = na.Adam(p, **options)
    opt.step(cp.ones(5, np.float32))
    twin = pickle.loads(pickle.dumps(opt))
    opt.state = dict(twin.state)
    new, into = loaded(opt, xp=cp), na.Adam(cp.zeros_like(p), **options)
    load_into(into, loaded(opt))  # by way of the CPU
    for each in (opt, twin, new, into):
        each.step(cp.ones(5, np.float32))
    assert all(bool((each.params == p).all()) for each in (twin, new, into))


def test_more_elements_than_threads(cp, monkeypatch):
    from numadam._cuda import launch as policy

    monkeypatch.setattr(policy, "MAX_BLOCKS", 2)
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
    twins = [pickle.loads(pickle.dumps(opt)), loaded(opt, xp=cp)]
    opt.step(grads)
    for twin in twins:
        twin.step(grads)
        assert twin.t == 2
        assert bool((twin.params["w"] == params["w"]).all())
        assert bool((twin.state["vmax"]["b"][0] == opt.state["vmax"]["b"][0]).all())


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


def test_check_grad_calls_fun_with_arrays_of_the_gpu(cp):
    def fun(x):
        return cp.sum(cp.sin(x["a"])) + cp.sum(x["b"] ** 2), {"a": cp.cos(x["a"]), "b": x["b"]}

    x0 = {"a": cp.linspace(0, 1, 5), "b": cp.ones((2, 2))}
    check = na.check_grad(fun, x0, jac=True)
    assert "in x0['b'] it is 0.5000 times" in check.message
    assert (x0["b"] == 1).all()
