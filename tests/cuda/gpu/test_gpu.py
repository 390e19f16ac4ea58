"""On a GPU: rules and options beside the CPU, norms and guards, kernels on disk, pages."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import numadam as na
from tests import emulator
from tests.cuda.cuda_cases import CASES, OPTIONS, check
from tests.pages import BLOCK
from tests.processes import python


@pytest.mark.parametrize("case", [*CASES, *(case.of("float64") for case in CASES[::3])], ids=str)
def test_rules_agree_with_the_cpu(cp, case):
    check(case, cp.asarray, cp.asnumpy)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_agree_with_the_cpu(cp, name):
    check(OPTIONS[name], cp.asarray, cp.asnumpy)


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


def test_out_params_and_lr_of_one_call(cp):
    p, twin, g = cp.ones(5), cp.ones(5), cp.arange(5.0) - 2
    out = cp.full((5, 2), cp.nan)[:, 0]
    one, two = na.Adam(p, lr=0.1), na.Adam(twin, lr=0.1)
    one.step(g, out=out)
    two.step(g)
    assert (p == 1).all()
    cp.testing.assert_array_equal(p + out, twin)
    cp.testing.assert_array_equal(one.state["m"], two.state["m"])
    params, outs = [cp.ones(3), cp.ones(4)], [cp.zeros(3), cp.zeros(4)]
    opt = na.SGD(params, lr=1.0, momentum=0.5)
    opt.step([cp.ones(3), cp.ones(4)], out=outs)
    assert all((array == -1).all() for array in outs)
    opt.step([cp.ones(3), cp.ones(4)], params=outs, lr=0.5)
    assert all((array == -1.75).all() for array in outs)
    assert all((array == 1).all() for array in params)
    opt.grads[0][...] = 0.25
    opt.step()
    assert (params[0] == 0).all()
    assert type(opt.grads[0]) is cp.ndarray


def test_parameters_and_copies_begin_where_the_bounds_are(cp):
    p = cp.asarray(np.array([-3.0, 0.5, np.nan, 3.0]))
    opt = na.Adam(p, bounds=(-1.0, 1.0), ema=0.9)
    cp.testing.assert_array_equal(p, [-1, 0.5, np.nan, 1])
    cp.testing.assert_array_equal(opt.averaged, p)
    strided, room = cp.full((3, 2), 9.0), cp.full(64, 9.0, np.float32)
    na.Adam(strided[:, 1], bounds=(None, 1.0))
    cp.testing.assert_array_equal(strided, [[9, 1]] * 3)
    na.Adam(room[:24], bounds=(0.0, 1.0))
    cp.testing.assert_array_equal(room, [1] * 24 + [9] * 40)


def test_norms_of_a_history_stay_in_range(cp):
    from numadam._history import norm_of

    assert norm_of([cp.full(4, 2.0, np.float32), cp.full(1, 3e30)]) == 3e30
    assert norm_of([cp.full(4, 1e30j, np.complex64)]) == pytest.approx(2e30)


def test_skipped_steps(cp):
    params = [cp.ones(n, np.float32) for n in (7, 300, 9)]
    opt = na.SGD(params, lr=1.0, clip_array_norm=1.0, nonfinite="skip", max_skips=3)
    grads = [cp.zeros(array.size, np.float32) for array in params]
    for k, array in enumerate(grads, 1):  # any array stops a step of many norms
        array[-1] = np.nan
        opt.step(grads)
        assert (opt.t, opt.skipped) == (0, k)
        array[-1] = 0
    grads[0][0] = np.inf
    with pytest.raises(FloatingPointError, match="4 times in a row"):
        opt.step(grads)
    grads[0][0] = 0
    opt.step(grads)
    assert (opt.t, opt.skipped, int(opt.state["skipped_in_a_row"])) == (1, 4, 0)
    assert all((array == 1).all() for array in params)


def test_a_square_that_is_infinite_is_not_finite(cp):
    x, g = cp.ones(3, np.float32), cp.asarray(np.array([1, -2e19, 0], np.float32))
    opt = na.Adam(x, lr=0.1, nonfinite="skip", clip_norm=np.inf)
    opt.step(g)
    assert (opt.t, opt.skipped) == (0, 1)
    opt.clip_norm = 1.0
    opt.step(g)
    assert (opt.t, opt.skipped) == (1, 1)
    opt.step(cp.full(3, np.inf, np.float32))  # the clip does not hide it
    assert (opt.t, opt.skipped) == (1, 2)


def test_options_divide_by_zero_as_on_the_cpu(cp):
    """Scalars of a step are NumPy's: a quotient that is infinite stops no step half way."""
    p = cp.ones(2)
    opt = na.Adam(p, lr=0.1, beta2=lambda t: 0.5 if t < 1 else 0.0)
    for _ in range(2):
        opt.step(cp.ones(2))
    assert np.isfinite(cp.asnumpy(p)).all()
    p = cp.zeros(2, np.float32)
    na.SGD(p, lr=1e300).step(cp.asarray(np.array([1, -1], np.float32)))
    np.testing.assert_array_equal(cp.asnumpy(p), [-np.inf, np.inf])


def test_cupy_without_its_class_of_arguments_gets_numpy_arrays(cp, monkeypatch):
    from cupy.cuda import function

    monkeypatch.delattr(function, "CNumpyArray")
    x = cp.ones(5, np.float32)
    na.SGD(x, lr=0.5).step(cp.ones(5, np.float32))
    assert bool((x == 0.5).all())


def test_the_kernels_are_kept_on_disk(cp, tmp_path):
    code = """
    import cupy as cp
    from numadam._cuda import compiler
    made, ptx_of = [], compiler.ptx_of
    compiler.ptx_of = lambda *given: made.append(given) or ptx_of(*given)
    na.Adam(cp.ones(3, "f4")).step(cp.ones(3, "f4"))
    print(len(made))
    """
    settings = {"PYTHONWARNINGS": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (python(code, **{**emulator.environment(), **settings}) for _ in range(2))
    assert int(first) > 0 == int(second)


# --- pages ----------------------------------------------------------------------------------------

DOCS = Path(__file__).parents[3] / "docs"
GPU = "a GPU"


def tutorial(names):
    assert names["res"].success
    assert names["opt"].t == 1000
    assert abs(float(names["x"][-1]) - 1) < 1e-3


def problems(names):
    assert names["res"].success.all()


def own_solver(names):
    """Each thread takes the steps of an optimiser."""
    targets = names["targets"].get()
    x = np.zeros_like(targets)
    opt = na.Adam(x, lr=0.05)
    for _ in range(500):
        opt.step(2 * (x - targets))
    np.testing.assert_allclose(names["found"].get(), x, rtol=1e-5, atol=1e-6)


#: By page what its blocks leave behind.
PAGES = {
    "tutorials/gpu.md": tutorial,
    "how-to/many-problems.md": problems,
    "how-to/own-solver.md": own_solver,
}


def blocks_of(page):
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def test_all_pages_are_run():
    found = {page for page in DOCS.rglob("*.md") if any(need == GPU for need, _ in blocks_of(page))}
    assert found == {DOCS / page for page in PAGES}


@pytest.mark.parametrize("page", PAGES)
def test_page(page, capsys, tmp_path, monkeypatch):
    """Blocks that need packages or several GPUs are not run here: tests/mpi, tests/docs."""
    monkeypatch.chdir(tmp_path)  # some write files
    names = {"__name__": "__main__"}
    for need, code in blocks_of(DOCS / page):
        if need in ("", GPU):
            if emulator.is_running():
                code = code.replace("10_000_000", "1_000")
            exec(compile(code, page, "exec"), names)
    PAGES[page](names)
