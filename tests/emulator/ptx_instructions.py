"""Instructions of PTX -> C: conversions, memory, control, and threads that wait."""

from __future__ import annotations

from typing import Any

from ptx_parse import C_TYPES, SIZES, PtxError, identifier, split
from ptx_table import BITS, FLOATS, INTEGERS, ROUNDINGS, Operation, read_float, row

_SPACES = "global shared local param const"


# --- moves and conversions ------------------------------------------------------------------------


@row("mov", "", f"pred {INTEGERS} {BITS} f32 f64")
def mov(f: Any, op: Operation) -> str:
    target, source = op.operands
    if target[0] == "{":
        parts = split(target[1:-1])
        bits = 8 * SIZES[op.type] // len(parts)
        code = f"{C_TYPES[op.type]} whole_ = {f.read(source, op.type)};"
        for place, part in enumerate(parts):
            code += f.write(part, f"b{bits}", f"({C_TYPES[f'b{bits}']})(whole_ >> {place * bits})")
        return code
    if source[0] == "{":
        parts = split(source[1:-1])
        bits, whole = 8 * SIZES[op.type] // len(parts), C_TYPES[op.type]
        values = [f.read(part, f"b{bits}") for part in parts]
        terms = [f"({whole}){value} << {place * bits}" for place, value in enumerate(values)]
        return f.write(target, op.type, " | ".join(terms))
    return f.write(target, op.type, f.read(source, op.type))


_INTEGRAL = {"rni": "__builtin_rint", "rzi": "__builtin_trunc", "rmi": "__builtin_floor"}
_INTEGRAL |= {"rpi": "__builtin_ceil"}
_CVT_TYPES = f"u8 s8 {INTEGERS} {FLOATS}"


@row("cvt", f"rn rz rm rp rni rzi rmi rpi ftz sat {_CVT_TYPES}", _CVT_TYPES)
def cvt(f: Any, op: Operation) -> str:
    to, source = op.words.pop(), op.type
    from_float, to_float = op.is_float(), to in FLOATS.split()
    value = (
        read_float(f, op, op.operands[1])
        if from_float
        else f.read(op.operands[1], source, narrow=True)
    )
    if from_float and not to_float:
        return f.write(op.operands[0], to, float_to_integer(op, value, to), narrow=True)
    if not to_float:
        return f.write(op.operands[0], to, value, narrow=True)
    return f.write(op.operands[0], to, convert_to_float(op, value, source, to))


def float_to_integer(op: Operation, value: str, to: str) -> str:
    """NaN is 0, or only the highest bit where 64 bits are involved."""
    bits = 8 * SIZES[to]
    word = op.any(*_INTEGRAL)
    if not word:
        raise PtxError("no rounding to an integer")
    whole = f"{_INTEGRAL[word]}((double){value})"
    of_nan = f"1ull << {bits - 1}" if op.type == "f64" or bits == 64 else "0"
    if to[0] == "s":
        return f"to_signed({whole}, 0x1p{bits - 1}, (int64_t)({of_nan}))"
    return f"to_unsigned({whole}, 0x1p{bits}, {of_nan})"


def convert_to_float(op: Operation, value: str, source: str, to: str) -> str:
    """A float or an integer as a float."""
    kind = "double" if to == "f64" else "float"
    if word := op.any(*_INTEGRAL):
        return finish_cvt(op, to, f"({kind}){_INTEGRAL[word]}((double){value})")
    mode = next((ROUNDINGS[word] for word in op.words if word in ROUNDINGS), "")
    if mode:
        types = f"{C_TYPES[source]}, {kind}"
        return finish_cvt(op, to, f"ROUNDED({mode}, {types}, ({kind})x, {value}, 0, 0)")
    return finish_cvt(op, to, f"({kind}){value}")


def finish_cvt(op: Operation, to: str, value: str) -> str:
    if op.any("ftz") and to == "f32":
        value = f"flush({value})"
    value = f"SATURATE({value})" if op.any("sat") else value
    return f"one_nan({value})" if to == "f32" and op.is_float() else value


@row("cvta", "to global shared local const", "u64")
def cvta(f: Any, op: Operation) -> str:
    address = f.read(op.operands[1], "u64")
    if op.any("shared"):  # an offset; the others are addresses of the host
        address += f" {'-' if op.any('to') else '+'} (uint64_t)thread->shared"
    return f.write(op.operands[0], "u64", address)


# --- memory ---------------------------------------------------------------------------------------

_MEMORY_TYPES = f"b8 u8 s8 {BITS} {INTEGERS} f32 f64"


def _space(op: Operation) -> str:
    return op.any(*_SPACES.split())


@row("ld", f"{_SPACES} nc v2 v4", _MEMORY_TYPES)
def load(f: Any, op: Operation) -> str:
    registers = split(op.operands[0].strip("{}"))
    size, c_type = SIZES[op.type], C_TYPES[op.type]
    at = f.address(op.operands[1], _space(op), size * len(registers), "EMU_READ", op.line)
    if len(registers) == 1:
        return f.write(registers[0], op.type, f"*({c_type} *){at}", narrow=True)
    # all are read before the first register changes: it may be that of the address
    code = f"const {c_type} *from_ = ({c_type} *){at};"
    for place, register in enumerate(registers):
        if register != "_":
            code += " " + f.write(register, op.type, f"from_[{place}]", narrow=True)
    return code


@row("st", f"{_SPACES} v2 v4", _MEMORY_TYPES)
def store(f: Any, op: Operation) -> str:
    values = split(op.operands[1].strip("{}"))
    size, c_type = SIZES[op.type], C_TYPES[op.type]
    at = f.address(op.operands[0], _space(op), size * len(values), "EMU_WRITE", op.line)
    if len(values) == 1:
        return f"*({c_type} *){at} = {f.read(values[0], op.type, narrow=True)};"
    code = f"{c_type} *to_ = ({c_type} *){at};"
    for place, value in enumerate(values):
        code += f" to_[{place}] = {f.read(value, op.type, narrow=True)};"
    return code


# --- control --------------------------------------------------------------------------------------


@row("bra", "uni")
def bra(f: Any, op: Operation) -> str:
    return f"goto {f.label(op.operands[0])};"


@row("ret", "")
def leave(f: Any, op: Operation) -> str:
    return "return 0;"


@row("call", "uni")
def call(f: Any, op: Operation) -> str:
    operands = list(op.operands)
    result = f.call_parameter(operands.pop(0).strip("() ")) if operands[0][0] == "(" else "0"
    name = operands[0]
    arguments = split(operands[1].strip()[1:-1]) if len(operands) > 1 else []
    called = f.module.functions.get(name)
    if called is None or called.is_entry or len(called.params) != len(arguments):
        raise PtxError(f"call of {name}")
    f.calls.add(name)
    end = max([param.offset + param.size for param in called.params], default=0)
    code = f"char arguments_[{end + 1}] __attribute__((aligned(16)));"
    for param, argument in zip(called.params, arguments, strict=True):
        place = f"arguments_ + {param.offset}"
        code += f" __builtin_memcpy({place}, {f.call_parameter(argument)}, {param.size});"
    return f"{code} {identifier('function_', name)}(thread, arguments_, {result}, local);"


# --- threads that wait for each other ------------------------------------------------------------


@row("bar barrier", "sync warp cta aligned")
def barrier(f: Any, op: Operation) -> str:
    if op.any("warp"):
        f.add(f"thread->barrier_mask = {f.read(op.operands[0], 'b32')};")
        f.stop("EMU_AT_WARP_BARRIER")
        return ""
    # a second number would be that of the threads which take part
    if len(op.operands) != 1 or not op.any("sync"):
        raise PtxError("a barrier of a part of the block")
    f.stop("EMU_AT_BARRIER")
    return ""
