"""Rounding and flush-to-zero that another library has left on change no bit, and stay."""

from __future__ import annotations

import ast
import platform
import re
from textwrap import dedent

import pytest
from llvmlite import binding, ir

from numadam._jit import loops
from tests.processes import python

KNOWN = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64", "aarch64", "arm64"),
    reason="the mode of other processors is left alone",
)
IMPORT = "\nfrom tests.faults.float_mode_runs import *"


@pytest.fixture(scope="module")
def found() -> list[dict[str, str]]:
    """Digests in each mode; the first is that of a process in which nobody has changed it."""
    code = "\nprint(list(map(digests, MODES)))"
    of_modes: list[dict[str, str]] = ast.literal_eval(python(IMPORT + code))
    return of_modes


@KNOWN
def test_no_mode_changes_a_bit(found: list[dict[str, str]]) -> None:
    """Of any form of our compiled code."""
    assert found == found[:1] * 4


@KNOWN
@pytest.mark.parametrize("layer", ["omp", "workqueue", "default"])
def test_threads_that_were_started_in_another_mode(layer: str, found: list[dict[str, str]]) -> None:
    """Worker threads inherit the mode of the thread that starts them."""
    code = "\nprint([digests(name, THREADED) for name in ('flush', 'default', 'down')])"
    # NumPy 2.0 says so itself where it is imported in such a mode
    quiet = "error,ignore:The value of the smallest subnormal:UserWarning"
    layers = {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"}
    for of_mode in ast.literal_eval(python(IMPORT + code, PYTHONWARNINGS=quiet, **layers)):
        assert of_mode == {name: found[0][name] for name in of_mode}


@KNOWN
def test_the_caller_keeps_its_mode() -> None:
    """Where a step is refused, and where numadam calls a `fun` in Python."""
    code = """
    opt = na.Adam(START[:9].copy(), clip_norm=1.0, nonfinite="raise")
    for bad in (np.ones(8, "f4"), np.full(9, np.nan, "f4")):
        with in_mode("flush"):
            try:
                opt.step(bad)
            except (ValueError, FloatingPointError) as error:
                print(type(error).__name__)
    seen = set()
    def fun(x):
        seen.add(mode())
        return float(x @ x), 2 * x
    with in_mode("down"):
        na.minimize(fun, np.ones(2), jac=True, maxiter=5)
    print(*seen)
    """
    wanted = ["ValueError", "FloatingPointError", "down"]
    assert python(IMPORT + dedent(code)).split() == wanted


# --- the machine code of each processor -----------------------------------------------------------

LONG = ir.IntType(64)


def code_for(triple: str) -> ir.Module:
    """``f(mode)``: set a mode and return the one before."""
    module = ir.Module()
    module.triple = triple
    function = ir.Function(module, ir.FunctionType(LONG, [LONG]), "f")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    builder.ret(loops._exchange(builder, function.args[0]))
    return module


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
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    try:
        target = binding.Target.from_triple(triple)
    except RuntimeError:
        pytest.skip(f"this LLVM makes no code for {triple}")
    parsed = binding.parse_assembly(str(code_for(triple)))
    code = target.create_target_machine(opt=2).emit_assembly(parsed).lower()
    assert len(re.findall(read, code)) == 1
    assert len(re.findall(write, code)) == 1


@pytest.mark.parametrize("triple", ["powerpc64le-unknown-linux-gnu", "riscv64-unknown-linux-gnu"])
def test_other_processors_are_left_alone(triple: str) -> None:
    assert "call" not in str(code_for(triple))
