"""PTX that the compiler makes of the CUDA kernels, without a GPU, for every rule and option."""

from __future__ import annotations

import inspect
import math
import re

import numpy as np
import pytest

from numadam import nopython
from numadam.rules import CLASSES
from tests.cuda.cuda_cases import CASES, OPTIONS, RULES, Case, plan_of
from tests.cuda.kernel_code import (
    Code,
    accesses,
    check_arithmetic,
    check_common,
    in_flight,
    operations,
    step_of,
)
from tests.variants import compile_nothing

pytestmark = pytest.mark.cuda

#: Compute capabilities: the oldest and the newest of CUDA 13, and others with units of their own.
GENERATIONS = [(7, 5), (8, 0), (9, 0), (10, 0), (12, 0)]


@pytest.fixture(autouse=True)
def _no_back_end(monkeypatch):
    compile_nothing(monkeypatch)


def check_accesses(ptx, plan, has_out=False, more=0):
    """Each array in use is read once an element and written once, and nothing else is."""
    from numadam._core.text import Text

    numbers = 2 if plan.modulus else 1
    text = Text(plan, has_out)
    count = sum(1 if plan.whole(slot) else numbers for slot in text.slots)
    left = sum(numbers for name in text.arrays if name in ("g", "rate", "low", "high"))
    left -= plan.modulus and "rate" in text.arrays  # one number for both parts
    left += numbers if has_out else 0
    unread = numbers * (1 + (not plan.decay and not plan.bounds)) if has_out else 0
    assert len(accesses(ptx, "ld")) == count - unread + more
    assert len(accesses(ptx, "st")) == count - left


@pytest.mark.parametrize(
    ("case", "real", "other"),
    [
        *((case, "f32", "f64") for case in RULES),
        *((case, "f64", "f32") for case in RULES[::5]),
    ],
    ids=str,
)
def test_rules_hold_one_precision_and_no_approximation(case, real, other):
    plan = plan_of(case, f"f{int(real[1:]) // 8}")
    code = Code.of(step_of(plan))
    check_common(code.text)
    assert f".{other}" not in code.text
    check_accesses(code.text, plan)
    if case.name in ("Adam", "RMSprop"):
        assert f"sqrt.rn.{real}" in code.text
        assert f"div.rn.{real}" in code.text
    code.check_registers()


@pytest.mark.parametrize("generation", GENERATIONS, ids=str)
def test_machine_code_of_a_step(generation):
    """All arrays are asked for before any is used, and a thread has no memory of its own."""
    compiled = Code.of(step_of(plan_of(Case("Adam")), many=True), generation)
    check_common(compiled.text)
    compiled.check_registers()
    code = compiled.machine_code()
    assert in_flight(code) >= 4  # p, g, m, v
    assert len(operations(code, r"STG\.E")) == 3
    assert operations(code, "FFMA")
    for name in ("LDL", "STL", "DADD", "DMUL", "DFMA", "ATOM", "ATOMG", "RED"):
        assert not operations(code, name)


#: Options whose kernels differ in all, and those that share arrays and numbers with one of them.
PLANS = ["l2", "decoupled", "by element", "complex modulus"]
ALIKE = ["complex parts"]


@pytest.mark.parametrize(
    "name", [*PLANS, *(pytest.param(name, marks=pytest.mark.sweep) for name in ALIKE)]
)
def test_options(name):
    plan = plan_of(OPTIONS[name])
    code = Code.of(step_of(plan))
    check_common(code.text)
    assert (".f64" in code.text) == (plan.real == np.float64)
    check_accesses(code.text, plan, more=2 * plan.clip_norm)
    code.check_registers()


@pytest.mark.parametrize("generation", GENERATIONS, ids=str)
@pytest.mark.parametrize("name", ["l2", "by element", "decoupled"])
def test_norms_are_summed_in_double_precision_with_many_reads_under_way(name, generation):
    from numadam._cuda.norms import make_sums

    plan = plan_of(OPTIONS[name])
    code = Code.of(make_sums(plan, True, True), generation)
    check_common(code.text)
    assert "fma.rn.f64" in code.text  # squares of float32 are exact
    assert ".shared" in code.text
    registers, *in_memory = code.assembled()
    assert in_memory == [0, 0]
    # of a multiprocessor, 64 KB: four reads of 16 bytes of each of 1024 threads
    threads = min(65_536 // registers, {(7, 5): 1024, (12, 0): 1536}.get(generation, 2048))
    assert in_flight(code.machine_code()) * plan.real.itemsize * threads >= 65_536


def test_what_follows_the_norm_is_formed_on_the_gpu():
    """It may take double precision, and no memory of a thread's own."""
    from numadam._cuda.norms import make_norms

    for name in ("l2", "decoupled"):
        code = Code.of(make_norms(plan_of(OPTIONS[name])))
        # with which the division of doubles begins, and several corrections follow
        assert ".approx" not in code.text.replace("rcp.approx.ftz.f64", "")
        assert ".local" not in code.text
        assert code.assembled()[1:] == (0, 0)


def test_other_kernels_of_a_step():
    from numadam._cuda.kernel import make_lazy

    plan = plan_of(OPTIONS["frozen"])
    many = Code.of(step_of(plan, many=True)).text
    check_accesses(many, plan, more=3 + 4)  # the leaf, its numbers, and the addresses
    check_accesses(Code.of(step_of(plan, has_out=True)).text, plan, has_out=True)
    lazy = Code.of(make_lazy(plan, True)).text
    check_accesses(lazy, plan, more=1)  # the row
    for ptx in (many, lazy):
        check_common(ptx)
        assert "fma.rn.f32" in ptx  # GPU and CPU agree to a bound, not bit for bit
        assert "mad.lo.s32" not in ptx  # the index has 64 bits


@pytest.mark.parametrize("norm", [math.inf, 2])
def test_many_problems_in_one_kernel_step_in_float32(norm):
    import numba
    from numba import cuda

    from numadam._core.text import Text
    from numadam._cuda import private
    from numadam._minimize.compiled.objective import WRITES
    from numadam._minimize.device import make_solve

    @numba.njit
    def fun(x, g):
        g[0] = np.float32(2) * x[0]
        return x[0] * x[0]

    plan, t = plan_of(CASES[0]), cuda.types
    f4, f8, i8 = t.float32, t.float64, t.int64
    lines = [t.Array(kind, 2, "C") for kind in (f4, f4, f4, f8, i8)]
    types = t.void(
        t.UniTuple(t.Array(f4, 1, "C"), len(Text(plan).arrays)),
        t.UniTuple(lines[0], 2),
        *lines[2:],
        t.UniTuple(t.Array(f4, 1, "C"), 4),
        t.UniTuple(f4, 2),
        t.UniTuple(f8, 5),
        t.UniTuple(i8, 3),
        t.Tuple(()),
    )
    with private.without_gpu((9, 0)):
        kernel, given = make_solve(plan, fun, WRITES, norm), {"abi": "numba", "output": "ptx"}
        text, _ = cuda.compile(kernel, types, device=False, cc=(9, 0), **given)
    code = Code(text)
    ptx = code.text
    check_arithmetic(ptx)
    assert "sqrt.rn.f32" in ptx
    assert "div.rn.f64" not in ptx
    # a 2-norm is summed in float64
    for name in ("fma.rn.f64", "sqrt.rn.f64"):
        assert (name in ptx) == (norm == 2)
    # f and a limit that is passed are float64; the row of a problem is read and written once
    assert [len(re.findall(rf"{word}.global.f64", ptx)) for word in ("ld", "st")] == [5, 5]
    # not 64: with 768 threads, which takes problems that are many; a 2-norm is compared in float64
    code.check_registers(80 if norm == 2 else 66)


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
    ptx = ptx_of_own(rule, formed=False)
    check_arithmetic(ptx)
    doubles = set(re.findall(r"[a-z][a-z0-9.]*\.f64", ptx)) - {"ld.param.f64", "cvt.rn.f32.f64"}
    # compares the decay with 0, before it is rounded
    assert doubles <= {"setp.eq.f64", "setp.neu.f64"}


@pytest.mark.parametrize("rule", ["adam", "radam", "lion"])
def test_scalars_are_formed_in_double_precision(rule):
    ptx = ptx_of_own(rule, formed=True)
    assert ".local" not in ptx
    assert ".f64" in ptx or rule == "lion"
