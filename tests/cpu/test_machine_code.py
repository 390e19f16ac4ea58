"""Machine code of the CPU loops: packed, single precision where the arrays are, and no FMA.

x86-64 only: on other machines the bits are tested, not the instructions.
"""

import functools
import inspect
import platform
import re
from types import FunctionType
from typing import Any

import numba
import pytest
from llvmlite import binding
from numba import float32, float64, int64, none, types

from numadam._core.text import parameters_of
from numadam._cpu import loop
from tests import extras
from tests.variants import CASES, VARIANTS, plan_of

#: each formula; with `out` the first one of each rule, since the loop makes the difference
ROWS = [pytest.param(case, False, id=case) for case in CASES] + [
    pytest.param(case, True, id=f"{case} out", marks=pytest.mark.sweep)
    for case, (name, options) in CASES.items()
    if options is VARIANTS[name][0]
]
pytestmark = extras.machine(platform.machine() in ("x86_64", "AMD64"), "x86-64 instructions")


@functools.cache
def compiled(case: str, out: bool, real: Any) -> Any:
    """The compiled loop of a rule over a part of an array of this type."""
    text = loop.text_of(plan_of(*CASES[case], str(real)), out)
    wrap = numba.njit(error_model="numpy")
    scope = {
        name: wrap(x) if isinstance(x, FunctionType) and x.__module__[:5] != "numba" else x
        for name, x in text.scope.items()
    }
    scope["njit"] = numba.njit
    exec(text.text, scope)
    signature = types.void(int64[:, ::1], int64, int64, int64, int64, real[::1])
    how = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return numba.njit(signature, **how)(scope["part"].py_func)


def mnemonics(assembly: str) -> list[str]:
    return re.findall(r"^\s+([a-z][a-z0-9]+)\s", assembly, re.MULTILINE)


@functools.cache
def instructions(case: str, out: bool, real: Any) -> list[str]:
    """Mnemonics of the compiled loop, on the processor at hand."""
    (text,) = compiled(case, out, real).inspect_asm().values()
    return mnemonics(text)


def for_aarch64(code: str) -> list[str]:
    """Mnemonics that LLVM makes of its intermediate code for another processor."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    target = binding.Target.from_triple("aarch64-unknown-linux-gnu")
    code = re.sub("^target .*", "", code, flags=re.MULTILINE)
    machine = target.create_target_machine(opt=3)
    return mnemonics(machine.emit_assembly(binding.parse_assembly(code)))


def arithmetic(codes: list[str], ending: str) -> set[str]:
    pattern = rf"v?(add|sub|mul|div|sqrt|max|min|cvt\w*2){ending}"
    return {code for code in codes if re.fullmatch(pattern, code)}


def has_root(case: str) -> bool:
    """Whether the formula of a case takes a square root, as its source says."""
    formula = plan_of(*CASES[case], "float32").rule.formula
    return "sqrt" in inspect.getsource(formula)


@pytest.mark.parametrize(("case", "out"), ROWS)
def test_float32_loop_is_packed_and_single(case: str, out: bool) -> None:
    codes = instructions(case, out, float32)
    assert not arithmetic(codes, "(sd|pd)"), "double arithmetic in a float32 loop"
    assert arithmetic(codes, "ps"), "the loop was not vectorised"
    if has_root(case):
        assert any(code.endswith("sqrtps") for code in codes), "the root is not packed"
        assert any(code.endswith("divps") for code in codes), "the division is not packed"


@pytest.mark.parametrize(
    ("case", "real"),
    [(case, float32) for case in CASES] + [extras.sweep(case, float64) for case in CASES],
)
def test_no_fma_and_no_approximation(case: str, real: Any) -> None:
    codes = instructions(case, False, real)
    assert codes
    assert not [code for code in codes if re.match(r"v?fn?m(add|sub)|v?rsqrt|v?rcp", code)]


@pytest.mark.parametrize("real", [float32, extras.sweep(float64)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_no_fma_on_aarch64(case: str, real: Any) -> None:
    """There every processor has it, and some compilers use it unasked."""
    plan = plan_of(*CASES[case], str(real))
    kind = plan.rule.scalar_type
    known = dict.fromkeys(set(plan.rule.state) - set(plan.present), none)
    known["h"] = types.NamedUniTuple(real, len(kind._fields), kind)
    element = plan.element()
    arguments = [known.get(name, real) for name in parameters_of(plan.rule, element)]
    how = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    (code,) = numba.njit(tuple(arguments), **how)(element).inspect_llvm().values()
    codes = for_aarch64(code)
    assert {"fmul", "fadd", "fsub", "fdiv", "fsqrt", "fcmp"} & set(codes)
    assert not [one for one in codes if re.match(r"fn?m(add|sub)|fml[as]|bfm", one)]
