"""Kernels as two compilers make them, without a GPU: registers, memory, precision."""

from __future__ import annotations

import inspect
import math
import re

import numba
import numpy as np
import pytest

from numadam import nopython
from numadam.rules import CLASSES
from tests.cuda.cuda_cases import CASES, OPTIONS, RULES, Case, plan_of
from tests.cuda.kernel_code import COMPILERS, Code, in_flight, of_fits, of_many_problems
from tests.variants import compile_nothing

pytestmark = pytest.mark.cuda

#: Compute capabilities: the oldest and the newest of CUDA 13, and others with units of their own.
GENERATIONS = [(7, 5), (8, 0), (9, 0), (12, 0)]
ROWS = {"sparse": "lazy"}
#: By name a kernel, its plan, and reads of memory besides those of the arrays.
KERNELS = {
    "step": (lambda k, n, plan: k.make_step(plan, True, False, False), OPTIONS["l2"], 2),
    "over many arrays": (
        lambda k, n, plan: k.make_step(plan, True, True, False),
        OPTIONS["frozen"],
        3 + 4,  # the leaf, its numbers, and the addresses
    ),
    "out": (lambda k, n, plan: k.make_step(plan, True, False, True), OPTIONS["frozen"], 0),
    "by element": (
        lambda k, n, plan: k.make_step(plan, True, False, False),
        OPTIONS["by element"],
        2,
    ),
    "average": (lambda k, n, plan: k.make_step(plan, True, False, False), OPTIONS["decoupled"], 2),
    "modulus": (
        lambda k, n, plan: k.make_step(plan, True, False, False),
        OPTIONS["complex modulus"],
        2,
    ),
    "rows of a sparse gradient": (
        lambda k, n, plan: k.make_lazy(plan, True),
        Case("Adam", ROWS),
        1,  # the number of the row
    ),
    "rows that count": (
        lambda k, n, plan: k.make_rows(plan),
        Case("Adam", ROWS | {"count": "row"}),
        None,
    ),
    "sums": (lambda k, n, plan: n.make_sums(plan, True, True), OPTIONS["bounds of each"], None),
    "norms": (lambda k, n, plan: n.make_norms(plan), OPTIONS["bounds of each"], None),
}


@pytest.fixture(autouse=True)
def _no_back_end(monkeypatch):
    compile_nothing(monkeypatch)


def step_of(plan, many=False):
    from numadam._cuda.kernel import make_step

    return make_step(plan, True, many, False)


def check_accesses(code, plan, has_out=False, more=0):
    """Each array in use is read once an element and written once, and nothing else is."""
    from numadam._core.text import Text

    numbers = 2 if plan.modulus else 1
    text = Text(plan, has_out)
    count = sum(1 if plan.whole(slot) else numbers for slot in text.slots)
    left = sum(numbers for name in text.arrays if name in ("g", "rate", "low", "high"))
    left -= plan.modulus and "rate" in text.arrays  # one number for both parts
    left += numbers if has_out else 0
    unread = numbers * (1 + (not plan.decay and not plan.bounds)) if has_out else 0
    assert code.accesses("ld") == count - unread + more
    assert code.accesses("st") == count - left


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_compiles_for_every_generation(name, compiler):
    from numadam._cuda import kernel, norms

    make, option, more = KERNELS[name]
    plan = plan_of(option)
    for generation in GENERATIONS if name in ("step", "sums", "norms") else GENERATIONS[2:3]:
        code = Code.of(make(kernel, norms, plan), generation, compiler)
        code.check() if more is not None else code.assembled()
        assert code.assembled()[1:] == (0, 0)
    if compiler == COMPILERS[0] and more is not None:
        check_accesses(code, plan, name == "out", more)
        assert (".f64" in code.text) == (plan.real == np.float64)
        assert "fma.rn" in code.text  # GPU and CPU agree to a bound, not bit for bit
        assert "mad.lo.s32" not in code.text or name == "step"  # an index has 64 bits


@pytest.mark.parametrize("case", RULES, ids=str)
def test_rules_hold_one_precision_and_no_approximation(case):
    for real, other, compiler in (("f32", "f64", 0), ("f32", "f64", 1), ("f64", "f32", 0)):
        plan = plan_of(case.of(f"float{real[1:]}"))
        code = Code.of(step_of(plan), compiler=COMPILERS[compiler])
        code.check()
        assert f".{other}" not in code.text
        assert ".approx" not in code.text
        check_accesses(code, plan)


@pytest.mark.parametrize("generation", GENERATIONS, ids=str)
def test_arrays_are_asked_for_before_any_is_used(generation):
    from numadam._cuda.norms import make_sums

    code = Code.of(step_of(plan_of(Case("Adam")), many=True), generation).machine_code()
    assert in_flight(code) >= 4  # p, g, m, v
    names = [line.split()[0] if line[0] != "@" else line.split()[1] for line in code]
    assert sum(name.startswith("STG.E") for name in names) == 3
    assert not {name.partition(".")[0] for name in names} & {"LDL", "STL", "DADD", "DFMA", "RED"}
    for name in ("l2", "by element", "decoupled"):
        plan = plan_of(OPTIONS[name])
        sums = Code.of(make_sums(plan, True, True), generation)
        assert "fma.rn.f64" in sums.text  # squares of float32 are exact
        # of a multiprocessor, 64 KB: four reads of 16 bytes of each of 1024 threads
        most = {(7, 5): 1024, (12, 0): 1536}.get(generation, 2048)
        threads = min(65_536 // sums.assembled()[0], most)
        assert in_flight(sums.machine_code()) * plan.real.itemsize * threads >= 65_536


@numba.njit
def valley(x, g):
    f = np.float32(0)
    for k in range(x.size - 1):
        d = x[k + 1] - x[k] * x[k]
        g[k] += np.float32(-4) * d * x[k]
        g[k + 1] += np.float32(2) * d
        f += d * d
    return f


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("norm", [math.inf, 2])
def test_many_problems_step_in_float32_and_fit_1024_threads(norm, compiler):
    code = of_many_problems(plan_of(CASES[0]), valley, norm, compiler=compiler)
    if compiler == COMPILERS[1]:  # it knows less of what is aligned: the assembler spills nothing
        assert code.assembled()[1:] == (0, 0)
        return
    code.check(64 if norm == math.inf else 80)
    assert "sqrt.rn.f32" in code.text
    assert "div.rn.f64" not in code.text
    for name in ("fma.rn.f64", "sqrt.rn.f64"):  # a 2-norm is summed in float64
        assert (name in code.text) == (norm == 2)


@numba.njit
def decay(x, r, i, t, y):
    for k in range(t.size):
        r[k] = x[0] * math.exp(-x[1] * t[k]) + x[2] - y[i, k]


@pytest.mark.parametrize("capability", GENERATIONS, ids=str)
def test_fits_spill_nothing(capability):
    """A fit of three unknowns has 57 numbers in memory, 185 (9.0) to 204 (7.5) registers."""
    registers, stack, spilled = of_fits(decay, 3, capability).assembled()
    assert registers <= 208  # so that 288 threads fit
    assert (stack, spilled) == (57 * 8, 0)


# --- the user's own kernels, with the functions of `numadam.nopython` ----------------------------


def ptx_of_own(rule, formed):
    """A kernel over one element a thread; `formed`: with the scalars formed in it."""
    from numadam._cuda.kernel import Kernel

    parameters = list(inspect.signature(getattr(nopython, f"{rule}_element")).parameters)
    names = parameters[: parameters.index("h")]
    scalars = getattr(nopython, f"{rule}_scalars")
    t = "t" if "t" in inspect.signature(scalars).parameters else ""
    values = ", ".join(f"{name}[i]" for name in names)
    kept = ", ".join(f"{name}[i]" for name in names if name != "g")
    text = (
        f"def kernel({', '.join(names)}, h, t, n):\n"
        "    i = cuda.grid(1)\n"
        "    if i < n:\n"
        f"        {kept} = {rule}_element({values}, {f'{rule}_scalars({t})' if formed else 'h'})\n"
    )
    count = len(scalars(1) if t else scalars())
    kinds = *["float32*"] * len(names), f"float64[{count}]", "int64", "int64"
    return Code.of(Kernel("kernel", text, kinds, lambda wrap: dict(vars(nopython)))).text


@pytest.mark.parametrize("rule", CLASSES)
def test_elements_are_calculated_in_single_precision(rule):
    doubles = set(re.findall(r"[a-z][a-z0-9.]*\.f64", ptx_of_own(rule, formed=False)))
    # compares the decay with 0, before it is rounded
    assert doubles <= {"ld.param.f64", "cvt.rn.f32.f64", "setp.eq.f64", "setp.neu.f64"}
    if rule in ("adam", "lion"):
        assert (".f64" in ptx_of_own(rule, formed=True)) or rule == "lion"
