"""The table of PTX's instructions: mnemonics, and a translator for each family.

A translator gets the function, for its operands, and the instruction, and returns C. A word of a
mnemonic that its row does not list is an error: the instruction is then one without a translation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ptx_parse import Instruction, PtxError

Translator = Callable[[Any, "Operation"], str]
TABLE: dict[str, tuple[Translator, frozenset[str], frozenset[str]]] = {}
INTEGERS = "u16 u32 u64 s16 s32 s64"
FLOATS = "f32 f64"
BITS = "b16 b32 b64"
ROUNDINGS = {"rz": "ROUND_TO_ZERO", "rm": "ROUND_DOWN", "rp": "ROUND_UP"}


class Operation:
    """An instruction with its name, its type (the last word) and the words between."""

    def __init__(self, instruction: Instruction, has_type: bool) -> None:
        words = instruction.words
        self.name, self.line, self.operands = words[0], instruction.line, instruction.operands
        self.type = words[-1] if has_type else ""
        self.words = words[1:-1] if has_type else words[1:]

    def any(self, *words: str) -> str:
        """The first of these words that the mnemonic has, or nothing."""
        return next((word for word in words if word in self.words), "")

    def is_float(self) -> bool:
        return self.type in ("f32", "f64")


def row(names: str, words: str = "", types: str = "") -> Callable[[Translator], Translator]:
    """Enter a translator in the table: the words that may follow the name, and the types."""

    def enter(translator: Translator) -> Translator:
        for name in names.split():
            TABLE[name] = translator, frozenset(words.split()), frozenset(types.split())
        return translator

    return enter


def translate_instruction(f: Any, instruction: Instruction) -> str:
    """The instruction in C."""
    name, *words = instruction.words
    if name not in TABLE:
        raise PtxError("unknown instruction")
    translator, known, types = TABLE[name]
    operation = Operation(instruction, bool(types))
    if types and (not words or words[-1] not in types):
        raise PtxError("unknown type")
    for word in operation.words:
        if word not in known and not re.match(r"L[12]::", word):
            raise PtxError(f"unknown .{word}")
    try:
        return translator(f, operation)
    except (IndexError, ValueError):
        raise PtxError("unexpected operands") from None


def finish(op: Operation, value: str) -> str:
    """The modifiers .ftz and .sat on a result, and the NaN of a GPU."""
    if op.any("ftz"):
        value = f"flush({value})"
    if op.any("sat"):
        value = f"SATURATE({value})"
    return f"one_nan({value})" if op.type == "f32" else value


def read_float(f: Any, op: Operation, operand: str, type_: str = "") -> str:
    """An operand of a float instruction: with .ftz a subnormal one is zero."""
    value = f.read(operand, type_ or op.type)
    return f"flush({value})" if op.any("ftz") and (type_ or op.type) == "f32" else value
