"""numadam's compiled kernels, run without a GPU: `ptx_machine` takes the place of a card.

It runs what numba-cuda emits, word for word: addresses, vector loads and stores, conversions,
launch arguments by position, barriers and shared memory. An access that is not aligned, leaves
its array or races with another thread's fails the test.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import numadam as na
from numadam._arrays.sparse import Rows
from tests.cuda.cuda_cases import CASES, OPTIONS, as_dtype, check, check_option, gradients
from tests.cuda.machine.cases import cut, few, sweep
from tests.cuda.machine.ptx_ops import OPS


@pytest.mark.parametrize("dtype", few(["float32", "float64"], ["float32"]))
@pytest.mark.parametrize("case", few(CASES, ["Adam"]))
def test_rules(machine, case, dtype):
    check(case, dtype, machine.asarray, machine.asnumpy)


@pytest.mark.parametrize("dtype", few(["float32", "float64"], ["float64"]))
@pytest.mark.parametrize("case", few(CASES, ["NAdam"]))
def test_rules_whose_scalars_the_gpu_forms(machine, case, dtype):
    check(case, dtype, machine.asarray, machine.asnumpy, capturable=True)


@sweep
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name in ("NAdam", "RAdam")], ids=str
)
def test_how_a_gpu_approximates_does_not_matter(machine, monkeypatch, case, dtype):
    """Powers begin with a reciprocal of 20 bits, whose last bits are the card's own."""
    left, used, name = [], [], "rcp.approx.ftz.f64"
    for off in (0.0, 2.0**-21, -(2.0**-21)):

        def approximate(x, off=off):
            used.append(off)
            return (1 + off) / x

        monkeypatch.setitem(OPS, name, OPS[name]._replace(function=approximate))
        p = machine.ones(5, dtype)
        opt = case.make(p, capturable=True)  # the GPU forms the scalars
        for g in gradients(5, dtype, 3):
            opt.step(machine.asarray(g))
        left.append(p)
    assert len(set(used)) == 3
    for other in left[1:]:
        np.testing.assert_allclose(other, left[0], rtol=2 * np.finfo(dtype).eps)


#: Together they have most of what a plan can have.
KEPT = ["skip", "complex modulus", "bfloat16 master"]


@pytest.mark.parametrize("name", few(OPTIONS, KEPT))
def test_options_agree_with_the_cpu(machine, name):
    check_option(OPTIONS[name], machine.asarray, machine.asnumpy)


SIZES = [(), (0,), (1,), (255,), (1_027,)]


@pytest.mark.parametrize("n", few([*SIZES, (1_000_003,)], [str(n) for n in SIZES]))
def test_sizes(machine, n):
    check(CASES[0], "float32", machine.asarray, machine.asnumpy, n, steps=3)


def test_more_tiles_than_threads(machine, monkeypatch):
    from numadam._cuda import launch as policy

    p, g = np.random.default_rng(0).standard_normal((2, 4_099)).astype(np.float32)
    plain, other = machine.asarray(p), machine.asarray(p)
    na.Adam(plain).step(machine.asarray(g))
    monkeypatch.setattr(policy, "MAX_BLOCKS", 2)
    na.Adam(other).step(machine.asarray(g))
    np.testing.assert_array_equal(plain, other)


@pytest.mark.parametrize("layout", ["F", "strided", "reversed"])
def test_layouts_give_the_same_bits(machine, layout):
    p, g = np.random.default_rng(0).standard_normal((2, 6, 10)).astype(np.float32)

    def lay(a):
        if layout == "F":
            return machine.asarray(a, order="F")
        big = machine.zeros((12, 20), a.dtype)
        view = big[::2, ::2] if layout == "strided" else big[5::-1, :10]
        view[...] = a
        return view

    plain, other = machine.asarray(p), lay(p)
    one, two = na.Adam(plain), na.Adam(other)
    for _ in range(2):
        one.step(machine.asarray(g))
        two.step(lay(g))
    np.testing.assert_array_equal(plain, other)


@pytest.mark.parametrize("dtype", few(["float32", "float64"], ["float32"]))
@pytest.mark.parametrize("n", [1, 257, 9_001])
def test_norms_are_within_a_few_ulp_and_do_not_depend_on_alignment(machine, n, dtype):
    g = (np.random.default_rng(n).standard_normal(n) * 1e3).astype(dtype)
    exact = math.sqrt(math.fsum(float(x) ** 2 for x in g))
    norms = []
    for shift in (0, 1, 3):
        opt = na.SGD(machine.zeros(n, dtype), clip_norm=1.0)
        opt.step(cut(machine, g, shift))
        norms.append(opt.grad_norm)
    assert norms[0] == norms[1] == norms[2]
    assert abs(norms[0] - exact) <= 8 * np.spacing(exact)


def test_functional_update_and_out(machine):
    p, g, m, v = (machine.full(5, value, np.float32) for value in (1, 1, 0, 0))
    out = machine.empty(5, np.float32)
    na.adam_update(p, g, m, v, 1, lr=0.1, out=out)
    assert (p == 1).all()
    np.testing.assert_allclose(out, -0.1, rtol=1e-6)
    na.adam_update(p, g, *(machine.zeros(5, np.float32) for _ in range(2)), 1, lr=0.1)
    np.testing.assert_allclose(p, 0.9, rtol=1e-6)


@sweep
def test_out_of_many_arrays(machine):
    p, g, out = ([machine.full(n, value, np.float32) for n in (5, 9)] for value in (1, 1, 7))
    na.Adam(p).step(g, out=out)
    for one, array in zip(out, p, strict=True):
        assert (array == 1).all()
        np.testing.assert_allclose(one, -1e-3, rtol=1e-5)


def test_special_values_stay_or_spread_as_on_the_cpu(machine):
    g = np.array([np.nan, np.inf, -np.inf, 0.0, 1e-40, 1e30], np.float32)
    on_cpu, on_gpu = np.ones(6, np.float32), machine.ones(6, np.float32)
    na.Adam(on_cpu).step(g)
    na.Adam(on_gpu).step(machine.asarray(g))
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-6)


@pytest.mark.parametrize("dtype", few(["float16", "bfloat16"], ["bfloat16"]))
def test_every_short_number_is_read_and_written_as_on_the_cpu(machine, dtype):
    p = np.arange(65_536, dtype=np.uint16).view(as_dtype(dtype))
    on_gpu, g = machine.asarray(p), p.copy()
    one, two = na.SGD(p, lr=0.5), na.SGD(on_gpu, lr=0.5)
    one.step(g)
    two.step(machine.asarray(g))
    np.testing.assert_array_equal(np.asarray(on_gpu, np.float32), p.astype(np.float32))


@pytest.mark.parametrize("clip_norm", few([None, 0.5], ["None"]))
@pytest.mark.parametrize("how", few(["lazy", "dense"], ["lazy"]))
def test_sparse_gradients(machine, how, clip_norm):
    random = np.random.default_rng(0)
    indices = random.integers(0, 100, 30)
    values = random.standard_normal((30, 17)).astype(np.float32)
    on_cpu, on_gpu = np.ones((100, 17), np.float32), machine.ones((100, 17), np.float32)
    one, two = (na.Adam(p, sparse=how, clip_norm=clip_norm) for p in (on_cpu, on_gpu))
    for _ in range(2):
        one.step(Rows(indices, values))
        two.step(Rows(machine.asarray(indices), machine.asarray(values)))
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", few(["Adam", "NAdam"], ["Adam"]))
@pytest.mark.parametrize("rate", ["number", "array"])
def test_steps_that_a_graph_may_replay_count_on_the_gpu(machine, rate, name):
    lr = machine.full((), 0.1) if rate == "array" else 0.1
    x, twin = machine.zeros(9, np.float32), machine.zeros(9, np.float32)
    one, two = getattr(na, name)(x, lr, capturable=True), getattr(na, name)(twin, 0.1)
    for g in gradients(9, np.float32, 3):
        for opt in (one, two):
            opt.step(machine.asarray(g))
    assert one.t == two.t == 3
    np.testing.assert_array_equal(x, twin)


def test_groups_count_one_step_together(machine):
    """Each row of scalars has a thread of its own, and one of them counts for all."""
    params, twins = ({"w": machine.ones(7, "f4"), "b": machine.ones(3, "f4")} for _ in range(2))
    groups = {"b": {"lr": 0.5, "beta1": 0.5}}
    one, two = na.Adam(params, groups=groups, capturable=True), na.Adam(twins, groups=groups)
    for t, g in enumerate(gradients(7, np.float32, 2), 1):
        for opt in (one, two):
            opt.step({"w": machine.asarray(g), "b": machine.asarray(g[:3])})
            assert opt.t == t
    for key in params:
        np.testing.assert_array_equal(params[key], twins[key])


@pytest.mark.mpi
@pytest.mark.parametrize("count", few([1, 3], ["3"]))
def test_ghost_cells_do_not_count_in_norms(machine, count):
    from mpi4py import MPI

    random = np.random.default_rng(0)
    owned = [random.random(67 + k) < 0.7 for k in range(count)]
    grads = [random.standard_normal(mask.size).astype(np.float32) for mask in owned]
    squares = sum(np.sum(g[mask].astype(float) ** 2) for g, mask in zip(grads, owned, strict=True))
    for g, mask in zip(grads, owned, strict=True):
        g[~mask] = np.nan
    opt = na.SGD(
        [machine.ones(mask.size, np.float32) for mask in owned],
        comm=na.mpi.Decomposition(MPI.COMM_SELF, owned),
        clip_norm=1.0,
        nonfinite="raise",
    )
    opt.step([machine.asarray(g) for g in grads])
    np.testing.assert_allclose(opt.grad_norm, np.sqrt(squares), rtol=8 * 2.0**-52)


@sweep
def test_any_array_may_stop_a_step_of_many_norms(machine):
    p = [machine.ones(n, np.float32) for n in (7, 300, 9)]
    opt = na.SGD(p, lr=1.0, clip_array_norm=1.0, nonfinite="skip")
    grads = [machine.zeros(array.size, np.float32) for array in p]
    for k, array in enumerate(grads, 1):
        array[-1] = np.nan
        opt.step(grads)
        assert (opt.t, opt.skipped) == (0, k)
        array[-1] = 0
    assert all((array == 1).all() for array in p)


def test_a_checkpoint_goes_on_with_the_same_bits(machine):
    p, twin = machine.ones(7, np.float32), machine.zeros(7, np.float32)
    one, two = (na.SGD(array, clip_norm=1.0, nonfinite="skip") for array in (p, twin))
    first, bad, last = map(machine.asarray, gradients(7, np.float32, 3))
    bad[3] = np.nan
    one.step(first)
    one.step(bad)
    two.state, twin[...] = dict(one.state), p
    for opt in (one, two):
        opt.step(last)
        assert (opt.t, opt.skipped) == (2, 1)
    np.testing.assert_array_equal(twin, p)
