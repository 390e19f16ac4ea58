"""What the CPU loops compile to: packed, single precision where the arrays are, and no FMA.

x86-64 only: on other machines the bits are tested, not the instructions.
"""

import platform
import re
from typing import Any

import numba
import pytest
from numba import float32, float64, int64, none, types

from numadam import loops, rules

VARIANTS = {
    "Adam": [
        {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "amsgrad": amsgrad, "eps_form": "paper"}
        for amsgrad in (False, True)
    ],
    "RMSprop": [{"beta2": 0.99, "eps": 1e-8}],
    "SGD": [
        {"momentum": 0.0, "nesterov": False},
        {"momentum": 0.9, "nesterov": False},
        {"momentum": 0.9, "nesterov": True},
    ],
}
CASES = [
    pytest.param(cls.rule, options, out, id=f"{name}-{k}{'-out' if out else ''}")
    for name, cls in rules.classes().items()
    for k, options in enumerate(VARIANTS[name])
    for out in (False, True)
]
pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="reads x86-64 instructions"
)


def instructions(rule: Any, options: dict[str, Any], out: bool, real: Any) -> list[str]:
    """Mnemonics of the compiled loop of a rule over arrays of this type."""
    scalars = rule.scalars(rule.control_values(options), 0.1, 3.0) + (0.0, 0.0)
    array = real[::1]
    slots = [array if used else none for used in rule.slots(options)]
    signature = types.void(
        int64, array, array, *slots, array if out else none, types.UniTuple(real, len(scalars))
    )
    function = loops.make_run(rule, options, "tested").py_func
    compiled = numba.njit(signature, error_model="numpy", no_cpython_wrapper=True)(function)
    (text,) = compiled.inspect_asm().values()
    return re.findall(r"^\s+([a-z][a-z0-9]+)\s", text, re.MULTILINE)


def arithmetic(codes: list[str], ending: str) -> set[str]:
    pattern = rf"v?(add|sub|mul|div|sqrt|max|min|cvt\w*2){ending}"
    return {code for code in codes if re.fullmatch(pattern, code)}


def uses_root(rule: Any) -> bool:
    return rule.name in ("adam", "rmsprop")


@pytest.mark.parametrize(("rule", "options", "out"), CASES)
def test_float32_loop_is_packed_and_single(rule: Any, options: dict[str, Any], out: bool) -> None:
    codes = instructions(rule, options, out, float32)
    assert not arithmetic(codes, "(sd|pd)"), "double arithmetic in a float32 loop"
    assert arithmetic(codes, "ps"), "the loop was not vectorised"
    if uses_root(rule):
        assert any(code.endswith("sqrtps") for code in codes), "the root is not packed"
        assert any(code.endswith("divps") for code in codes), "the division is not packed"


@pytest.mark.parametrize("real", [float32, float64], ids=str)
@pytest.mark.parametrize(("rule", "options", "out"), CASES)
def test_no_fma_and_no_approximation(
    rule: Any, options: dict[str, Any], out: bool, real: Any
) -> None:
    codes = instructions(rule, options, out, real)
    assert codes
    assert not [code for code in codes if re.match(r"v?fn?m(add|sub)|v?rsqrt|v?rcp", code)]


def test_every_rule_has_a_row() -> None:
    assert set(VARIANTS) == set(rules.classes())


def test_the_reader_sees_doubles_and_scalars() -> None:
    """The checks above can fail: a loop that promotes to double is caught."""

    def promoting(n: int, p: Any, g: Any) -> None:
        for i in range(n):
            p[i] = p[i] * 0.5 + g[i] / 3.0

    compiled = numba.njit(types.void(int64, float32[::1], float32[::1]))(promoting)
    (text,) = compiled.inspect_asm().values()
    codes = re.findall(r"^\s+([a-z][a-z0-9]+)\s", text, re.MULTILINE)
    assert arithmetic(codes, "(sd|pd)")
