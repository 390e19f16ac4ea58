"""The change of the floating-point mode in the machine code of each processor.

That it works is shown in `tests/faults/test_float_mode.py`, on the processor at hand.
"""

import re

import pytest
from llvmlite import binding, ir

from numadam._jit import loops

LONG = ir.IntType(64)


def code_for(triple: str) -> ir.Module:
    """``f(mode)``: set a mode and return the one before."""
    module = ir.Module()
    module.triple = triple
    function = ir.Function(module, ir.FunctionType(LONG, [LONG]), "f")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    builder.ret(loops._exchange(builder, function.args[0]))
    return module


def machine_code(triple: str) -> str:
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    try:
        target = binding.Target.from_triple(triple)
    except RuntimeError:
        pytest.skip(f"this LLVM makes no code for {triple}")
    parsed = binding.parse_assembly(str(code_for(triple)))
    return target.create_target_machine(opt=2).emit_assembly(parsed).lower()


@pytest.mark.parametrize(
    ("triple", "read", "write"),
    [
        ("x86_64-unknown-linux-gnu", r"\sv?stmxcsr\s", r"\sv?ldmxcsr\s"),
        ("x86_64-pc-windows-msvc", r"\sv?stmxcsr\s", r"\sv?ldmxcsr\s"),
        ("aarch64-unknown-linux-gnu", r"\smrs\s+x\d+, fpcr", r"\smsr\s+fpcr, x\d+"),
        ("arm64-apple-darwin", r"\smrs\s+x\d+, fpcr", r"\smsr\s+fpcr, x\d+"),
    ],
)
def test_the_mode_is_read_and_written(triple: str, read: str, write: str) -> None:
    code = machine_code(triple)
    assert len(re.findall(read, code)) == 1
    assert len(re.findall(write, code)) == 1


@pytest.mark.parametrize("triple", ["powerpc64le-unknown-linux-gnu", "riscv64-unknown-linux-gnu"])
def test_other_processors_are_left_alone(triple: str) -> None:
    assert "call" not in str(code_for(triple))
