"""On a GPU: rules and options beside their references, norms, state, kernels on disk."""

from __future__ import annotations

import math

import numpy as np
import pytest

import numadam as na
from tests import emulator
from tests.cuda.cuda_cases import CASES, OPTIONS, check, check_option

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("options", [{}, {"capturable": True}], ids=["numbers", "rows"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(cp, case, dtype, options):
    """Whether the host forms the scalars, or the GPU."""
    check(case, dtype, cp.asarray, cp.asnumpy, **options)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (255,), (257,), (100_003,)])
def test_sizes(cp, shape):
    check(CASES[0], "float32", cp.asarray, cp.asnumpy, shape, steps=3)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_agree_with_the_cpu(cp, name):
    check_option(OPTIONS[name], cp.asarray, cp.asnumpy)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 255, 257, 30_003])
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


def test_functional_update_and_out(cp):
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


def test_skipped_steps(cp):
    x, bad = cp.ones(5, np.float32), cp.asarray(np.array([1, np.nan, 1, 1, 1], np.float32))
    opt = na.SGD(x, lr=1.0, nonfinite="skip")
    opt.step(cp.ones(5, np.float32))
    opt.step(bad)
    opt.step(cp.ones(5, np.float32))
    assert (opt.t, opt.skipped) == (2, 1)
    assert bool((x == -1).all())


def test_cupy_without_its_class_of_arguments_gets_numpy_arrays(cp, monkeypatch):
    from cupy.cuda import function

    monkeypatch.delattr(function, "CNumpyArray")
    x = cp.ones(5, np.float32)
    na.SGD(x, lr=0.5).step(cp.ones(5, np.float32))
    assert bool((x == 0.5).all())


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
    environment = {**emulator.environment(), "NUMBA_CACHE_DIR": str(tmp_path)}
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
