"""Instructions of PTX -> C: floats, integers, bits, and comparisons."""

from __future__ import annotations

import re
from typing import Any

from ptx_parse import C_TYPES, SIZES, PtxError, unsigned
from ptx_table import BITS, FLOATS, INTEGERS, ROUNDINGS, Operation, finish, read_float, row

# --- floats ---------------------------------------------------------------------------------------


def rounded(op: Operation, expression: str, *values: str) -> str:
    """An expression in x, y, z of these values, rounded as the instruction says."""
    mode = next((ROUNDINGS[word] for word in op.words if word in ROUNDINGS), "")
    kind = "double" if op.type == "f64" else "float"
    if mode:
        filled = ", ".join([*values, "0", "0"][:3])
        return f"ROUNDED({mode}, {kind}, {kind}, {expression}, {filled})"
    names = dict(zip("xyz", values, strict=False))
    return re.sub(r"\b[xyz]\b", lambda name: names[name[0]], expression)


_ARITHMETIC = {"add": "x + y", "sub": "x - y", "mul": "x * y", "div": "x / y"}
_ROUNDING = "rn rz rm rp ftz sat"


def float_arithmetic(f: Any, op: Operation) -> str:
    values = (read_float(f, op, operand) for operand in op.operands[1:3])
    value = rounded(op, _ARITHMETIC[op.name], *values)
    return f.write(op.operands[0], op.type, finish(op, value))


@row("fma", _ROUNDING, FLOATS)
def fma(f: Any, op: Operation) -> str:
    values = [read_float(f, op, operand) for operand in op.operands[1:4]]
    name = "__builtin_fmaf" if op.type == "f32" else "__builtin_fma"
    value = rounded(op, f"{name}(x, y, z)", *values)
    return f.write(op.operands[0], op.type, finish(op, value))


_UNARY = {
    "sqrt": "__builtin_sqrt{s}(x)", "rcp": "1 / x", "rsqrt": "1 / __builtin_sqrt((double)(x))",
    "ex2": "__builtin_exp2{s}(x)",
}  # fmt: skip


@row("sqrt rcp rsqrt ex2", "approx rn ftz", FLOATS)
def unary(f: Any, op: Operation) -> str:
    double, approximate = op.type == "f64", bool(op.any("approx"))
    value = read_float(f, op, op.operands[1])
    if double and approximate:  # has the upper half of its bits
        value = f"upper_half({value})"
    value = rounded(op, _UNARY[op.name].format(s="" if double else "f"), value)
    if double and approximate:
        return f.write(op.operands[0], op.type, f"upper_half({value})")
    return f.write(op.operands[0], op.type, finish(op, value))


# --- integers -------------------------------------------------------------------------------------


def _wide(type_: str) -> tuple[str, str]:
    """The type of twice the size, and how C spells it."""
    size = SIZES[type_]
    if size == 8:
        return "", "__int128" if type_[0] == "s" else "unsigned __int128"
    wide = f"{type_[0]}{16 * size}"
    return wide, C_TYPES[wide]


def with_carry(f: Any, op: Operation, x: str, y: str, subtract: bool) -> str:
    """A sum or difference that reads (addc, subc, madc) or sets (.cc) the carry flag."""
    type_ = unsigned(op.type)
    _, wide = _wide(type_)
    flag = "carry" if op.name in ("addc", "subc", "madc") else "0"
    sign = "-" if subtract else "+"
    code = f"{wide} sum_ = ({wide}){x} {sign} {y} {sign} {flag};"
    if op.any("cc"):
        code += f" carry = sum_ >> {8 * SIZES[type_]} & 1;"
    return code + f.write(op.operands[0], type_, f"({C_TYPES[type_]})sum_")


@row("add sub mul div", f"{_ROUNDING} cc lo hi wide approx full", f"{INTEGERS} {FLOATS}")
def arithmetic(f: Any, op: Operation) -> str:
    if op.is_float():
        return float_arithmetic(f, op)
    if op.name == "mul":
        return product(f, op)
    if op.name == "div":
        x, y = (f.read(operand, op.type) for operand in op.operands[1:3])
        return f.write(op.operands[0], op.type, f"DIVIDE({x}, {y})")
    return add_integers(f, op)


@row("addc subc", "cc", "u32 s32 u64 s64")
def add_integers(f: Any, op: Operation) -> str:
    sign = "-" if op.name.startswith("sub") else "+"
    x, y = (f.read(operand, unsigned(op.type)) for operand in op.operands[1:3])
    if op.any("cc") or op.name.endswith("c"):
        return with_carry(f, op, x, y, sign == "-")
    return f.write(op.operands[0], unsigned(op.type), f"{x} {sign} {y}")


def _high(f: Any, op: Operation) -> str:
    """The upper half of a product."""
    x, y = (f.read(operand, op.type) for operand in op.operands[1:3])
    _, wide = _wide(op.type)
    return f"({C_TYPES[unsigned(op.type)]})(({wide}){x} * {y} >> {8 * SIZES[op.type]})"


def _low(f: Any, op: Operation) -> str:
    x, y = (f.read(operand, unsigned(op.type)) for operand in op.operands[1:3])
    return f"(uint32_t){x} * {y}" if SIZES[op.type] == 2 else f"{x} * {y}"


def _wide_product(f: Any, op: Operation) -> tuple[str, str]:
    """A product of twice the size, and its type."""
    if SIZES[op.type] == 8:
        raise PtxError("a product of 128 bits")
    wide, c_type = _wide(op.type)
    x, y = (f.read(operand, op.type) for operand in op.operands[1:3])
    return f"({c_type}){x} * {y}", wide


def product(f: Any, op: Operation) -> str:
    if op.any("wide"):
        value, wide = _wide_product(f, op)
        return f.write(op.operands[0], wide, value)
    value = _high(f, op) if op.any("hi") else _low(f, op)
    return f.write(op.operands[0], unsigned(op.type), value)


@row("mad madc", f"{_ROUNDING} cc lo hi wide", f"{INTEGERS} f32 f64")
def mad(f: Any, op: Operation) -> str:
    if op.is_float():
        return fma(f, op)
    if op.any("wide"):
        value, wide = _wide_product(f, op)
        return f.write(op.operands[0], wide, f"{value} + {f.read(op.operands[3], wide)}")
    value = _high(f, op) if op.any("hi") else _low(f, op)
    third = f.read(op.operands[3], unsigned(op.type))
    if op.any("cc") or op.name == "madc":
        return with_carry(f, op, f"({C_TYPES[unsigned(op.type)]})({value})", third, False)
    return f.write(op.operands[0], unsigned(op.type), f"{value} + {third}")


@row("min max", "ftz", f"{INTEGERS} {FLOATS}")
def extreme(f: Any, op: Operation) -> str:
    x, y = (read_float(f, op, operand) for operand in op.operands[1:3])
    if op.is_float():
        name = "MINIMUM" if op.name == "min" else "MAXIMUM"
        return f.write(op.operands[0], op.type, finish(op, f"{name}({x}, {y})"))
    sign = "<" if op.name == "min" else ">"
    return f.write(op.operands[0], op.type, f"{x} {sign} {y} ? {x} : {y}")


_SIGN_BITS = {"f32": "0x80000000u", "f64": "0x8000000000000000ull"}


@row("neg abs", "ftz", f"s16 s32 s64 {FLOATS}")
def sign(f: Any, op: Operation) -> str:
    bits = f"b{8 * SIZES[op.type]}"
    if op.any("ftz"):
        x = read_float(f, op, op.operands[1])
        value = f"-{x}" if op.name == "neg" else f"__builtin_fabsf({x})"
        return f.write(op.operands[0], op.type, value)
    x = f.read(op.operands[1], bits)
    if op.type in _SIGN_BITS:
        change = "^ " if op.name == "neg" else "& ~"
        return f.write(op.operands[0], bits, f"{x} {change}{_SIGN_BITS[op.type]}")
    if op.name == "abs":
        return f.write(
            op.operands[0], bits, f"{f.read(op.operands[1], op.type)} < 0 ? 0 - {x} : {x}"
        )
    return f.write(op.operands[0], bits, f"0 - {x}")


# --- bits -----------------------------------------------------------------------------------------


@row("not", "", f"pred {BITS}")
def complement(f: Any, op: Operation) -> str:
    symbol = "!" if op.type == "pred" else "~"
    return f.write(op.operands[0], op.type, f"{symbol}{f.read(op.operands[1], op.type)}")


@row("shl shr", "", f"{BITS} {INTEGERS}")
def shift(f: Any, op: Operation) -> str:
    bits = 8 * SIZES[op.type]
    x, by = f.read(op.operands[1], op.type), f.read(op.operands[2], "u32")
    if op.name == "shl":
        return f.write(op.operands[0], op.type, f"{by} >= {bits}u ? 0 : {x} << {by}")
    if op.type[0] == "s":
        return f.write(op.operands[0], op.type, f"{x} >> ({by} >= {bits}u ? {bits - 1}u : {by})")
    return f.write(op.operands[0], op.type, f"{by} >= {bits}u ? 0 : {x} >> {by}")


@row("popc clz", "", "b32 b64")
def count_bits(f: Any, op: Operation) -> str:
    x, suffix = f.read(op.operands[1], op.type), "ll" if op.type == "b64" else ""
    if op.name == "popc":
        return f.write(op.operands[0], "u32", f"__builtin_popcount{suffix}({x})")
    return f.write(
        op.operands[0], "u32", f"{x} ? __builtin_clz{suffix}({x}) : {8 * SIZES[op.type]}"
    )


# --- comparisons and choices ----------------------------------------------------------------------

_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_COMPARE_WORDS = " ".join([*_COMPARE, *(f"{word}u" for word in _COMPARE), "nan ftz"])


@row("setp", _COMPARE_WORDS, f"{INTEGERS} {BITS} {FLOATS}")
def setp(f: Any, op: Operation) -> str:
    x, y = (read_float(f, op, operand) for operand in op.operands[1:3])
    word = op.words[0]
    ordered = f"({x} == {x} && {y} == {y})"
    if word == "nan":
        test = f"!{ordered}"
    elif word == "neu":
        test = f"{x} != {y}"
    elif word in _COMPARE:  # C's != is true of NaN, that of PTX is not
        test = f"{x} {_COMPARE[word]} {y}"
        test = f"({test}) && {ordered}" if op.is_float() and word == "ne" else test
    else:
        test = f"{x} {_COMPARE[word[:-1]]} {y} || !{ordered}"
    return f.write(op.operands[0], "pred", test)


# --- what one expression of C says ----------------------------------------------------------------


def simple(names: str, types: str, formula: str, *kinds: str) -> None:
    """Enter an instruction whose result is an expression of its operands.

    `kinds` are the types of the operands: "" is that of the instruction. In the formula are also
    {bits}, {sign} and the suffix {f} of C's functions for float.
    """

    @row(names, "", types)
    def translate(f: Any, op: Operation) -> str:
        values = [
            f.read(operand, kind or op.type)
            for operand, kind in zip(op.operands[1:], kinds, strict=True)
        ]
        suffix, bits = "f" * (op.type == "f32"), 8 * SIZES[op.type]
        value = formula.format(*values, bits=bits, f=suffix, sign=int(op.type[0] == "s"))
        return f.write(op.operands[0], op.type, value)


simple("rem", INTEGERS, "REMAINDER({0}, {1})", "", "")
simple("copysign", "f32 f64", "__builtin_copysign{f}({1}, {0})", "", "")
for _name, _symbol in {"and": "&", "or": "|", "xor": "^"}.items():
    simple(_name, f"pred {BITS}", f"{{0}} {_symbol} {{1}}", "", "")
simple("selp", f"{INTEGERS} {BITS} f32 f64", "{2} ? {0} : {1}", "", "", "pred")
simple("bfi", "b32 b64", "insert_bits({0}, {1}, {2}, {3}, {bits})", "", "", "u32", "u32")
