"""The C code of a PTX file, compiled: `python3 -S ptx_to_c.py in.ptx out.so [gcc options]`.

The emulated driver runs this for each module that it loads. It prints the instructions that have no
translation; they end the kernel if they are executed.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ptx_function import FunctionTranslator
from ptx_parse import SIZES, Module, PtxError, Variable, identifier, parse

HERE = Path(__file__).resolve().parent
#: -ffp-contract=off: products and sums are fused where the PTX says so, and nowhere else.
FLAGS = (
    "-O1 -w -x c -fPIC -shared -fno-strict-aliasing -fwrapv -ffp-contract=off -fno-math-errno"
    " -mfma -msse4.2 -mpopcnt"
)


def translate(ptx: str, report: set[str]) -> str:
    """C code with the tables `emu_kernels` and `emu_globals`; `report` takes what it cannot do."""
    module = parse(ptx)
    functions = [
        FunctionTranslator(module, function, report) for function in module.functions.values()
    ]
    code = [function.translate() for function in functions]
    _check_calls({function.function.name: function.calls for function in functions})
    kernels = [function for function in functions if function.function.is_entry]
    rows = [*(kernel.table_row() for kernel in kernels), "{0}"]
    return "\n".join(
        [
            (HERE / "driver" / "kernel_abi.h").read_text(),
            f"#define LOCAL_SIZE {module.local_size}",
            f"#define STATIC_SHARED_SIZE {module.shared_size}",
            f"#define DYNAMIC_SHARED {-(-module.shared_size // 16) * 16}",
            (HERE / "ptx_prelude.h").read_text(),
            *_variables(module),
            *(f"{function.prototype()};" for function in functions),
            *code,
            f"struct emu_kernel emu_kernels[] = {{{', '.join(rows)}}};",
            "",
        ]
    )


def _variables(module: Module) -> Iterator[str]:
    """The variables of a module, and their table."""
    rows = []
    for name, variable in module.variables.items():
        c_name = identifier("global_", name)
        yield (
            f"static char {c_name}[{max(variable.size, 1)}]"
            f" __attribute__((aligned({max(variable.align, 16)})));"
            if variable.initial is None
            else _initialized(module, c_name, variable)
        )
        rows.append(f'{{"{name}", {c_name}, {variable.size}}}, ')
    yield f"struct emu_global emu_globals[] = {{{''.join(rows)}{{0}}}};"


def _initialized(module: Module, c_name: str, variable: Variable) -> str:
    size = SIZES[variable.type]
    values = []
    for text in re.split(r"[\s,{}]+", variable.initial.strip(" \n\t{}")):
        match = re.fullmatch(r"(?:generic\()?([\w$]+?)\)?(?:\+(\d+))?", text)
        if re.fullmatch(r"-?\d\w*", text):
            digits = text[2:] if re.match(r"0[fFdD]", text) else ""
            values.append(f"0x{digits}ull" if digits else f"{text.rstrip('U')}")
        elif match and match[1] in module.variables and size == 8:
            values.append(f"(uint64_t){identifier('global_', match[1])} + {match[2] or 0}")
        else:
            raise PtxError(f"the initial value of {variable.name}: {text}")
    return (
        f"static uint{8 * size}_t {c_name}[{variable.size // size}]"
        f" __attribute__((aligned({max(variable.align, 16)}))) = {{{', '.join(values)}}};"
    )


def _check_calls(calls: dict[str, set[str]]) -> None:
    """Refuse functions that call themselves: each has one place in the local memory."""

    def visit(name: str, callers: tuple[str, ...]) -> None:
        if name in callers:
            raise PtxError(f"{name} calls itself")
        for called in calls.get(name, ()):
            visit(called, (*callers, name))

    for name in calls:
        visit(name, ())


def main(source: str, target: str, *options: str) -> None:
    """Translate a file, and become the compiler of the result."""
    report: set[str] = set()
    try:
        code = translate(Path(source).read_text(), report)
    except PtxError as error:
        sys.exit(f"{source}: {error}")
    Path(f"{target}.c").write_text(code)
    for line in sorted(report):
        print(f"not translated: {line}", file=sys.stderr)
    sys.stderr.flush()
    os.execvp("gcc", ["gcc", *FLAGS.split(), *options, "-o", target, f"{target}.c", "-lm"])


if __name__ == "__main__":
    main(*sys.argv[1:])
