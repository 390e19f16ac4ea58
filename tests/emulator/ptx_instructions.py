"""Instructions of PTX -> C: conversions, memory, control, and threads that wait."""

from __future__ import annotations

from typing import Any

from ptx_parse import C_TYPES, SIZES, PtxError, identifier, split
from ptx_table import BITS, FLOATS, INTEGERS, ROUNDINGS, Operation, read_float, row

_SPACES = "global shared shared::cta local param param::entry param::func const"
_ORDER = "weak volatile relaxed acquire release acq_rel cta cluster gpu sys"
_CACHE = "ca cg cs cv wb wt lu nc"


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
        if op.any("sat"):
            value = saturated_integer(value, source, to)
        return f.write(op.operands[0], to, value, narrow=True)
    return f.write(op.operands[0], to, convert_to_float(op, value, source, to))


def saturated_integer(value: str, source: str, to: str) -> str:
    """The nearest number that a type has."""
    bits = 8 * SIZES[to]
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if to[0] == "s" else (0, (1 << bits) - 1)
    return f"(__int128)CLAMP((__int128){value}, -(__int128){-low}ull, (__int128){high}ull)"


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
    return op.any(*_SPACES.split()).split("::")[0]


@row("ld", f"{_ORDER} {_SPACES} {_CACHE} v2 v4 v8", _MEMORY_TYPES)
def load(f: Any, op: Operation) -> str:
    registers = split(op.operands[0].strip("{}"))
    size, c_type = SIZES[op.type], C_TYPES[op.type]
    access = "EMU_ATOMIC" if op.any("relaxed", "acquire") else "EMU_READ"
    at = f.address(op.operands[1], _space(op), size * len(registers), access, op.line)
    if len(registers) == 1:
        return f.write(registers[0], op.type, f"*({c_type} *){at}", narrow=True)
    # all are read before the first register changes: it may be that of the address
    code = f"const {c_type} *from_ = ({c_type} *){at};"
    for place, register in enumerate(registers):
        if register != "_":
            code += " " + f.write(register, op.type, f"from_[{place}]", narrow=True)
    return code


@row("st", f"{_ORDER} {_SPACES} {_CACHE} v2 v4 v8", _MEMORY_TYPES)
def store(f: Any, op: Operation) -> str:
    values = split(op.operands[1].strip("{}"))
    size, c_type = SIZES[op.type], C_TYPES[op.type]
    access = "EMU_ATOMIC" if op.any("relaxed", "release") else "EMU_WRITE"
    at = f.address(op.operands[0], _space(op), size * len(values), access, op.line)
    if len(values) == 1:
        return f"*({c_type} *){at} = {f.read(values[0], op.type, narrow=True)};"
    code = f"{c_type} *to_ = ({c_type} *){at};"
    for place, value in enumerate(values):
        code += f" to_[{place}] = {f.read(value, op.type, narrow=True)};"
    return code


_ATOMIC = {
    "add": "old_ + new_", "exch": "new_", "min": "old_ < new_ ? old_ : new_",
    "max": "old_ > new_ ? old_ : new_",
}  # fmt: skip


@row("atom red", f"{_ORDER} {_SPACES} noftz cas {' '.join(_ATOMIC)}",
     f"{BITS} u32 u64 s32 s64 {FLOATS}")  # fmt: skip
def atomic(f: Any, op: Operation) -> str:
    operands = op.operands if op.name == "atom" else ["_", *op.operands]
    target, address, *values = operands
    bits = f"b{8 * SIZES[op.type]}"
    at = f.address(address, _space(op), SIZES[op.type], "EMU_ATOMIC", op.line)
    code = f"{C_TYPES[bits]} *at_ = ({C_TYPES[bits]} *){at}, whole_ = *at_;"
    if word := op.any(*_ATOMIC):
        code += _atomic_update(f, op, word, values[0])
    else:
        expected, new = (f.read(value, bits) for value in values)
        code += f" if (whole_ == {expected}) *at_ = {new};"
    return code + " " + f.write(target, bits, "whole_")


def _atomic_update(f: Any, op: Operation, word: str, value: str) -> str:
    """Puts into *at_ what an operation makes of whole_ and a value."""
    expression = _ATOMIC[word]
    c_type = C_TYPES[op.type]
    code = f" {c_type} old_ = *({c_type} *)&whole_, new_ = {f.read(value, op.type)};"
    if op.type == "f32":
        expression = f"one_nan({expression})" if word == "add" else expression
    return f"{code} *({c_type} *)at_ = {expression};"


@row("membar fence nanosleep prefetch", f"{_ORDER} {_SPACES} gl sc u32 L1 L2")
def nothing(f: Any, op: Operation) -> str:
    return ";"


# --- control --------------------------------------------------------------------------------------


@row("bra", "uni")
def bra(f: Any, op: Operation) -> tuple[str, list[str], bool]:
    label = f.label(op.operands[0])
    return f"goto {label};", [label], True


@row("brx", "idx uni")
def brx(f: Any, op: Operation) -> tuple[str, list[str], bool]:
    labels = f.branch_table(op.operands[1])
    cases = "".join(f" case {k}: goto {label};" for k, label in enumerate(labels))
    trap = f'emu_trap(thread, "branch outside of its table", {op.line});'
    return f"switch ({f.read(op.operands[0], 'u32')}) {{{cases} }} {trap}", labels, False


@row("ret exit", "uni")
def leave(f: Any, op: Operation) -> tuple[str, list[str], bool]:
    if op.name == "exit" and not f.function.is_entry:
        raise PtxError("exit in a function")
    return "return 0;", [], True


@row("trap brkpt")
def trap(f: Any, op: Operation) -> str:
    return f'emu_trap(thread, "{op.name}", {op.line});'


@row("call", "uni")
def call(f: Any, op: Operation) -> str:
    operands = list(op.operands)
    result = f.call_parameter(operands.pop(0).strip("() ")) if operands[0][0] == "(" else "0"
    name = operands[0]
    arguments = split(operands[1].strip()[1:-1]) if len(operands) > 1 else []
    if name == "__assertfail":
        return f'emu_trap(thread, "a failed assertion", {op.line});'
    if name == "vprintf":
        return f"*(uint32_t *){result} = 0;"
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
        f.add(f"thread->exchange_mask = {f.read(op.operands[0], 'b32')};")
        f.stop("EMU_AT_WARP_BARRIER")
        return ""
    # a second number would be that of the threads which take part
    if len(op.operands) != 1 or not op.any("sync"):
        raise PtxError("a barrier of a part of the block")
    f.stop("EMU_AT_BARRIER")
    return ""


@row("shfl", "sync up down bfly idx", "b32")
def shfl(f: Any, op: Operation) -> str:
    """Give a value to the lanes of a mask, take that of one, and wait until all have taken."""
    target, source, by, bounds, mask = op.operands
    mode = op.any("up", "down", "bfly", "idx")
    register, *inside = target.split("|")
    value, lanes = f.read(source, "b32"), f.read(mask, "b32")
    f.add(f"thread->exchanged = {value}; thread->exchange_mask = {lanes};")
    f.stop("EMU_AT_EXCHANGE")
    amount, limits = f.read(by, "u32"), f.read(bounds, "u32")
    code = f"int from_ = shuffle_source(thread->lane, SHUFFLE_{mode}, {amount}, {limits});"
    taken = "emu_exchanged(thread, from_ < 0 ? thread->lane : from_)"
    code += f" uint32_t taken_ = (uint32_t){taken};" + f.write(register, "b32", "taken_")
    code += f.write(inside[0], "pred", "from_ >= 0") if inside else ""
    f.add(f"{{ {code} }}")
    f.stop("EMU_AT_EXCHANGE")
    return ""
