"""PTX that the compiler makes of the CUDA loops, without a GPU, for every rule and option."""

from __future__ import annotations

import inspect
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest

import numadam as na
from numadam import nopython
from numadam._core import plan as pl
from numadam.rules import CLASSES
from tests.cuda.cuda_cases import CASES, OPTIONS, Case
from tests.cuda.kernel_code import Code, check_arithmetic, check_common, check_tiles, operations
from tests.variants import compile_nothing

pytestmark = pytest.mark.cuda


@pytest.fixture(autouse=True)
def capability(monkeypatch):
    """A GPU to compile for: device functions ask for the current one. No back end compiles."""
    import numba.cuda.dispatcher as dispatcher

    device = SimpleNamespace(compute_capability=(9, 0))
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)
    compile_nothing(monkeypatch)
    return device


def plan_of(option):
    """The plan of a `Case`, or of an `Option` of its own dtype."""
    if isinstance(option, Case):
        return option.make(np.zeros(3, "f4"))._settings.plan
    params = {
        "w": np.zeros((3, 4), option.dtype),
        "b": np.zeros(5, option.dtype),
    }
    return getattr(na, option.name)(params, **option.options)._settings.plan


def wide(case):
    return case.make(np.zeros(3))._settings.plan


def make_step():
    from numadam._cuda import kernel as cuda_loop

    return cuda_loop.make_step


#: Each rule with the most arrays that it takes.
RULES = [Case("Adam"), *{case.name: case for case in CASES}.values()]


@pytest.mark.parametrize(
    ("case", "real", "other"),
    [
        *((case, "f32", "f64") for case in RULES),
        *((case, "f64", "f32") for case in RULES[::5]),
    ],
    ids=str,
)
def test_rules_hold_one_precision_and_no_approximation(case, real, other):
    plan = plan_of(case) if real == "f32" else wide(case)
    code = Code(make_step(), plan, True, False, False)
    ptx = code.text
    check_common(ptx)
    assert f".{other}" not in ptx
    state = len(plan.present)
    check_tiles(ptx, 2 + state, 1 + state)
    if case.name in ("Adam", "RMSprop"):
        assert f"sqrt.rn.{real}" in ptx
        assert f"div.rn.{real}" in ptx
    code.check_registers()


@pytest.mark.parametrize("generation", [(8, 0), (9, 0), (10, 0)], ids=str)
def test_machine_code_of_a_step(capability, generation):
    """A tile in one instruction an array, and nothing in memory of a thread's own."""
    capability.compute_capability = generation
    plan = plan_of(Case("Adam"))
    compiled = Code(make_step(), plan, True, True, False, capability=generation)
    check_common(compiled.text)
    assert f".target sm_{generation[0]}{generation[1]}" in compiled.text
    check_tiles(compiled.text, 4, 3)
    compiled.check_registers()
    code = compiled.machine_code()
    reads, writes = operations(code, r"LDG\.E\.128"), operations(code, r"STG\.E\.128")
    assert reads
    assert len(reads) % 4 == 0  # p, g, m, v
    assert 4 * len(writes) == 3 * len(reads)
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
    from numadam._cuda.kernel import step_slots

    plan = plan_of(OPTIONS[name])
    code = Code(make_step(), plan, True, False, False)
    ptx = code.text
    check_common(ptx)
    assert (".f64" in ptx) == (plan.real == np.float64)
    code.check_registers()
    sizes = {plan.stride(slot) for slot in step_slots(plan, has_out=False)}
    if len(sizes) == 1:
        read_only = {pl.G, pl.LOW, pl.HIGH, pl.RATE}
        slots = step_slots(plan, has_out=False)
        check_tiles(ptx, len(slots), len(set(slots) - read_only))


@pytest.mark.parametrize("name", ["l2", "by element"])
def test_norms_are_summed_in_double_precision(name):
    from numadam._cuda.norms import make_sums, norm_slots

    plan = plan_of(OPTIONS[name])
    code = Code(make_sums, plan, True, True)
    ptx = code.text
    check_common(ptx)
    assert "add.f64" in ptx or "fma.rn.f64" in ptx  # squares of float32 are exact
    assert ("mul.rn.f64" in ptx) == (plan.real == np.float64)
    assert ".shared" in ptx
    if len({plan.stride(slot) for slot in norm_slots(plan)}) == 1:
        check_tiles(ptx, len(norm_slots(plan)), 0)
    assert code.assembled()[1:] == (0, 0)


def test_what_follows_the_norm_is_formed_on_the_gpu():
    """Kernels of one block: they may take double precision, and no memory of their own."""
    from numadam._cuda.norms import make_combine, make_finalize_norms

    plan = plan_of(OPTIONS["l2"])
    for make, more in ((make_combine, ()), (make_finalize_norms, (True,))):
        code = Code(make, plan, *more)
        ptx = code.text
        assert ".f64" in ptx
        # with which the division of doubles begins, and several corrections follow
        assert ".approx" not in ptx.replace("rcp.approx.ftz.f64", "")
        assert ".local" not in ptx
        assert code.assembled()[1:] == (0, 0)


#: Kernels beside the step over one array: the function that makes them, the option that they are
#: made for, what else it gets, and the arrays that are read and written by tiles, where known.
KERNELS = {
    "many arrays": ("make_step", "frozen", (True, True, False), (4, 3)),
    "out": ("make_step", "frozen", (True, False, True), (3, 3)),  # parameters are not read
    "lazy": ("make_lazy", "by element", (True,), ()),
}


@pytest.mark.parametrize("name", KERNELS)
def test_other_kernels_of_a_step(name):
    from numadam._cuda import kernel

    make, option, arguments, tiles = KERNELS[name]
    plan = plan_of(OPTIONS[option])
    ptx = Code(getattr(kernel, make), plan, *arguments).text
    check_common(ptx)
    assert (".f64" in ptx) == (plan.real == np.float64)
    if tiles:
        check_tiles(ptx, *tiles)
        assert "fma.rn.f32" in ptx  # GPU and CPU agree to a bound, not bit for bit
        assert "mad.lo.s32" not in ptx  # the index has 64 bits


@pytest.mark.parametrize("norm", [math.inf, 2])
def test_many_problems_in_one_kernel_step_in_float32(norm):
    import numba
    from numba import cuda

    from numadam._cuda.kernel import step_slots
    from numadam._minimize.compiled.objective import WRITES
    from numadam._minimize.device import make_solve

    @numba.njit
    def fun(x, g):
        g[0] = np.float32(2) * x[0]
        return x[0] * x[0]

    plan, t = plan_of(CASES[0]), cuda.types
    kernel = make_solve(plan, fun, WRITES, norm)
    f4, f8, i8 = t.float32, t.float64, t.int64
    lines = [t.Array(kind, 2, "C") for kind in (f4, f4, f4, f8, i8)]
    types = t.void(
        t.UniTuple(t.Array(f4, 1, "C"), len(step_slots(plan, has_out=False))),
        t.UniTuple(lines[0], 2),
        *lines[2:],
        t.UniTuple(t.Array(f4, 1, "C"), 4),
        t.UniTuple(f4, 2),
        t.UniTuple(f8, 5),
        t.UniTuple(i8, 3),
        t.Tuple(()),
    )
    code = Code(lambda: (kernel, types), by_cupy=False)
    ptx = code.text
    check_arithmetic(ptx)
    assert "sqrt.rn.f32" in ptx
    assert "div.rn.f64" not in ptx
    # a 2-norm is summed in float64
    for name in ("fma.rn.f64", "sqrt.rn.f64"):
        assert (name in ptx) == (norm == 2)
    # f and a limit that is passed are float64; the row of a problem is read and written once
    assert [len(re.findall(rf"{word}.global.f64", ptx)) for word in ("ld", "st")] == [5, 5]
    # a 2-norm is compared in float64, beside each number with its first gradient: 76
    code.check_registers(80 if norm == 2 else 64)


# --- the user's own kernels, with the functions of `numadam.nopython` ----------------------------


def ptx_of_own(rule, formed):
    """A kernel over one element a thread; `formed`: with the scalars formed in it."""
    from numba import cuda, types

    parameters = list(inspect.signature(getattr(nopython, f"{rule}_element")).parameters)
    names = parameters[: parameters.index("h")]
    scalars = getattr(nopython, f"{rule}_scalars")
    t = "t" if "t" in inspect.signature(scalars).parameters else ""
    values = ", ".join(f"{name}[i]" for name in names)
    kept = ", ".join(f"{name}[i]" for name in names if name != "g")
    text = (
        f"def kernel({', '.join(names)}, h, t):\n"
        "    i = cuda.grid(1)\n"
        "    if i < p.size:\n"
        f"        {kept} = {rule}_element({values}, {f'{rule}_scalars({t})' if formed else 'h'})\n"
    )
    scope = {"cuda": cuda, **vars(nopython)}
    exec(text, scope)
    count = len(scalars(1) if t else scalars())
    kinds = [types.float32[::1]] * len(names) + [types.UniTuple(types.float64, count), types.int64]
    return Code(lambda: (scope["kernel"], types.void(*kinds)), by_cupy=False).text


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
