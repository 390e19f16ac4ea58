"""What the compiler makes of the CUDA loops, without a GPU: PTX, for every rule and option."""

from __future__ import annotations

import importlib.util
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_cases import CASES, OPTIONS, Case, as_dtype

import numadam as na
from numadam import plan as pl


def _why_not():
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return "the CUDA simulator is on: it compiles nothing"
    if importlib.util.find_spec("numba_cuda") is None:
        return "numba-cuda is not installed"
    from numba.cuda.cudadrv import nvvm

    try:
        nvvm.NVVM()
    except Exception as error:  # whatever the loader of the library says
        return f"libNVVM cannot be loaded: {error}"
    return ""


WHY_NOT = _why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "it runs")


class NoEngine:
    """Takes the place of an engine where only the plan is asked for."""

    check_params = staticmethod(lambda params, names: None)

    def __init__(self, settings, params, names):
        self.state, self.params = {}, list(params)


@pytest.fixture(autouse=True)
def capability(monkeypatch):
    """A GPU to compile for: device functions ask for the current one. No engine compiles."""
    import numba.cuda.dispatcher as dispatcher

    from numadam import dispatch

    device = SimpleNamespace(compute_capability=(9, 0))
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)
    monkeypatch.setattr(dispatch, "_engine", lambda home: NoEngine)
    return device


def plan_of(option):
    """The plan of a `Case`, or of an `Option` of its own dtype."""
    if isinstance(option, Case):
        return option.make(np.zeros(3, "f4"))._settings.plan
    params = {
        "w": np.zeros((3, 4), as_dtype(option.dtype)),
        "b": np.zeros(5, as_dtype(option.dtype)),
    }
    return getattr(na, option.name)(params, **option.options)._settings.plan


def wide(case):
    return case.make(np.zeros(3))._settings.plan


def code_of(made, capability=(9, 0), output="ptx"):
    """PTX, without the mangled names, which may spell anything."""
    from numba import cuda

    kernel, types = made
    code, _ = cuda.compile(kernel, types, device=False, abi="numba", cc=capability, output=output)
    return code if output == "ltoir" else re.sub(r"\b_Z\w+", "name", code)


def make_step(plan, has_out=False):
    from numadam import cuda_loop

    return cuda_loop.make_step(plan, has_out)


def check_common(ptx):
    assert ".local" not in ptx
    assert "call" not in ptx
    assert ".approx" not in ptx
    assert ".ftz" not in ptx
    # rounded correctly; integers have other suffixes
    assert not re.search(r"sqrt\.(?!rn)", ptx)
    assert not re.search(r"div\.(?!rn|[su](32|64))", ptx)


def check_each_array_is_read_and_written_once(ptx, reads, writes):
    # the compiler may unroll the loop: several turns, each with all its reads and writes
    turns, rest = divmod(ptx.count("ld.global."), reads)
    assert turns >= 1
    assert rest == 0
    assert ptx.count("st.global.") == turns * writes


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rules_hold_no_double_and_no_approximation(case):
    plan = plan_of(case)
    ptx = code_of(make_step(plan))
    check_common(ptx)
    assert ".f64" not in ptx
    state = len(plan.present)
    check_each_array_is_read_and_written_once(ptx, 2 + state, 1 + state)
    if case.name in ("Adam", "RMSprop"):
        assert "sqrt.rn.f32" in ptx
        assert "div.rn.f32" in ptx


@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_rules_in_double_precision(case):
    ptx = code_of(make_step(wide(case)))
    check_common(ptx)
    assert ".f32" not in ptx


@pytest.mark.parametrize("case", [CASES[0], Case("SGD")], ids=str)
def test_out_leaves_the_parameters_unread(case):
    plan = plan_of(case)
    ptx = code_of(make_step(plan, has_out=True))
    check_common(ptx)
    state = len(plan.present)
    check_each_array_is_read_and_written_once(ptx, 1 + state, 1 + state)


#: Options without those that share another's plan.
PLANS = ["l2", "decoupled", "accumulate", "by element", "complex parts", "complex modulus"]
PLANS += ["bfloat16 state", "float16", "bfloat16", "bfloat16 master", "float16 by element"]


@pytest.mark.parametrize("name", PLANS)
def test_options(name):
    from numadam.cuda_loop import step_slots

    plan = plan_of(OPTIONS[name])
    ptx = code_of(make_step(plan))
    check_common(ptx)
    assert (".f64" in ptx) == (plan.real == np.float64)
    read_only = {pl.G, pl.SUM, pl.LOW, pl.HIGH, pl.RATE}
    slots = step_slots(plan, has_out=False)
    # with a float32 copy the short parameters are written only; bounds are looked at again after
    # the state is written, and then lie in the cache
    reads = len(slots) - plan.master + 2 * (plan.bounds == "array" and plan.present != ())
    if plan.numbers == 1:
        check_each_array_is_read_and_written_once(ptx, reads, len(set(slots) - read_only))


@pytest.mark.parametrize("name", ["l2", "accumulate", "by element", "bfloat16 master"])
def test_norms_are_summed_in_double_precision(name):
    from numadam.cuda_norms import make_norm

    plan = plan_of(OPTIONS[name])
    ptx = code_of(make_norm(plan, 4))
    check_common(ptx)
    assert "add.f64" in ptx or "fma.rn.f64" in ptx  # squares of float32 are exact
    assert ("mul.rn.f64" in ptx) == (plan.real == np.float64)
    assert ".shared" in ptx


@pytest.mark.parametrize("name", ["accumulate", "complex modulus", "bfloat16"])
def test_sums_of_gradients(name):
    from numadam.cuda_loop import make_sum

    plan = plan_of(OPTIONS[name])
    ptx = code_of(make_sum(plan))
    check_common(ptx)
    assert (".f64" in ptx) == (plan.real == np.float64)


@pytest.mark.parametrize("name", ["by element", "bfloat16 master"])
def test_what_begins_as_the_parameters(name):
    from numadam.cuda_loop import make_begin

    ptx = code_of(make_begin(plan_of(OPTIONS[name]), averages=True))
    check_common(ptx)
    assert ".f64" not in ptx


@pytest.mark.parametrize("name", ["frozen", "by element"])
def test_lazy_steps(name):
    from numadam.cuda_loop import make_lazy

    ptx = code_of(make_lazy(plan_of(OPTIONS[name])))
    check_common(ptx)
    assert ".f64" not in ptx


def test_products_and_sums_are_contracted():
    """The choice in cuda_loop: GPU and CPU agree to a bound, not bit for bit."""
    assert "fma.rn.f32" in code_of(make_step(plan_of(CASES[0])))


def test_the_index_has_64_bits():
    ptx = code_of(make_step(plan_of(Case("SGD"))))
    assert re.search(r"mul\.wide\.[su]32", ptx), "block number times block size, widened"
    assert "mad.lo.s32" not in ptx


def test_an_older_gpu(capability):
    capability.compute_capability = (8, 0)
    ptx = code_of(make_step(plan_of(CASES[0])), (8, 0))
    check_common(ptx)
    assert ".target sm_80" in ptx


def test_the_linked_kernel_keeps_these_promises():
    """On a GPU, numba-cuda links with nvJitLink, which compiles once more."""
    from numba.cuda.cudadrv import driver

    if not driver._have_nvjitlink():
        pytest.skip("nvJitLink is not installed")
    code = code_of(make_step(plan_of(Case("Adam", {"amsgrad": True}))), output="ltoir")
    linker = driver._Linker(cc=(9, 0), lto=True, additional_flags=["-ptx"])
    linker.add_ltoir(code)
    ptx = re.sub(r"\b_Z\w+", "name", linker.get_linked_ptx().decode())
    check_common(ptx)
    assert ".f64" not in ptx


@pytest.mark.parametrize("generation", [(8, 0), (9, 0)], ids=str)
def test_many_problems_in_one_kernel_step_in_float32(generation):
    import numba
    from numba import cuda

    from numadam.cuda_loop import array_types, step_slots
    from numadam.minimizer.bridge import WRITES
    from numadam.minimizer.cuda_kernel import make_solve
    from numadam.pieces import width_of
    from numadam.turn import SEED

    @numba.njit
    def fun(x, g):
        g[0] = np.float32(2) * x[0]
        return x[0] * x[0]

    plan, t = plan_of(CASES[0]), cuda.types
    widths = width_of(plan) - (SEED + 1), SEED + 4
    kernel = make_solve(plan, fun, WRITES, widths)
    f4, f8, i8 = t.float32, t.float64, t.int64
    lines = [t.Array(kind, 2, "C") for kind in (f4, f4, f4, f8, i8)]
    types = t.void(
        array_types(plan, step_slots(plan, has_out=False)),
        t.UniTuple(lines[0], 2),
        *lines[2:],
        t.Array(f4, 1, "C"),
        t.UniTuple(f4, 2),
        t.UniTuple(f8, 3),
        t.UniTuple(i8, 4),
        t.Tuple(()),
    )
    ptx = code_of((kernel, types), generation)
    check_common(ptx)
    assert "sqrt.rn.f32" in ptx
    assert "sqrt.rn.f64" not in ptx  # stop tests compare in float64, steps are float32
    assert "div.rn.f64" not in ptx
    assert "fma.rn.f64" not in ptx
