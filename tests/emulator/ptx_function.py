"""A function of a PTX module -> a function in C.

Registers are fields of a local structure. A kernel with barriers returns at each of them: it saves
its registers in its frame, and gets them back when it is called again.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import suppress

import ptx_arithmetic  # noqa: F401  they fill the table of instructions
import ptx_instructions  # noqa: F401
import ptx_parse
from ptx_parse import (
    C_TYPES,
    SIZES,
    Function,
    Module,
    PtxError,
    Statement,
    Variable,
    identifier,
)
from ptx_table import translate_instruction

_SPECIAL = {
    **{f"%{name}.{axis}": f"thread->{field}[{place}]" for name, field in
       (("tid", "thread_index"), ("ntid", "block_size"), ("ctaid", "block_index"),
        ("nctaid", "grid_size")) for place, axis in enumerate("xyz")},
    "%laneid": "thread->lane", "WARP_SZ": "EMU_WARP_SIZE",
}  # fmt: skip
_ADDRESS = re.compile(r"\[\s*([\w$%.]+)\s*(?:\+\s*(-?\w+)|(-\s*\w+))?\s*\]$")


class Register:
    """A register: its C variable and its type."""

    def __init__(self, field: str, type_: str) -> None:
        self.field, self.name, self.type = field, f"r.{field}", type_

    @property
    def c_type(self) -> str:
        return "uint8_t" if self.type == "pred" else f"reg{8 * SIZES[self.type]}"


class FunctionTranslator:
    """Makes C of the statements of one function."""

    def __init__(self, module: Module, function: Function, report: set[str]) -> None:
        self.module, self.function = module, function
        self.calls: set[str] = set()
        self._report = report  # takes the instructions without a translation
        self._code: list[str] = []
        self._registers: dict[str, Register] = {}  # those in use
        self._scopes: list[int] = [0]
        self._names: list[dict[str, Register | tuple[str, int]]] = [{}]
        self._labels: dict[tuple[int, str], str] = {}
        self._stops = 0

    # --- what the translators of instructions call ------------------------------------------------

    def read(self, operand: str, type_: str, *, narrow: bool = False) -> str:
        """The value of an operand, in C. `narrow`: the register may be wider than the type."""
        if operand[0] == "!" and type_ == "pred":
            return f"!{self.read(operand[1:], 'pred')}"
        register = self._name(operand)
        if isinstance(register, Register):
            self._check(register, type_, narrow)
            return self._value(register, type_)
        if operand in _SPECIAL:
            return f"(({C_TYPES[type_]}){_SPECIAL[operand]})"
        if re.match(r"-?\d", operand):
            return _constant(operand, type_)
        if type_[0] in "fp":
            raise PtxError(f"operand {operand}")
        return f"(({C_TYPES[type_]}){self._address_of(operand)})"

    def write(self, register: str, type_: str, value: str, *, narrow: bool = False) -> str:
        """An assignment to a register. `narrow`: it may be wider than the type."""
        if register == "_":
            return f"(void)({value});"
        target = self._name(register)
        if not isinstance(target, Register):
            raise PtxError(f"{register} is no register")
        self._check(target, type_, narrow)
        if type_ == "pred":
            return f"{target.name} = !!({value});"
        if narrow and type_[0] != "f":
            value = f"({C_TYPES[type_]})({value})"
        return f"{target.name}.{_member(type_)} = {value};"

    def address(self, operand: str, space: str, size: int, access: str, line: int) -> str:
        """A pointer to memory of a state space, checked."""
        match = _ADDRESS.match(operand)
        if not match:
            raise PtxError(f"address {operand}")
        base, offset = match[1], int((match[2] or match[3] or "0").replace(" ", ""), 0)
        if space == "param" and not re.match(r"\d", base):
            known = self._parameter(base)
            if known:
                begin, room = known
                if not 0 <= offset <= room - size:
                    raise PtxError("outside of the parameter")
                return f"({begin} + {offset})"
        register = self._name(base)
        type_ = register.type if isinstance(register, Register) else "u64"
        begin = f"(uint64_t){self.read(base, f'u{8 * SIZES[type_]}')} + {offset}"
        if space == "param":
            return f"own_at(thread, params, PARAMS_SIZE, {begin}, {size}, {line})"
        if space == "local":
            return f"own_at(thread, local, LOCAL_SIZE, {begin}, {size}, {line})"
        if space == "shared":
            return f"shared_at(thread, {begin}, {size}, {access}, {line})"
        if space in ("global", "const"):
            return f"global_at(thread, {begin}, {size}, {access}, {line})"
        return f"generic_at(thread, local, {begin}, {size}, {access}, {line})"

    def label(self, name: str) -> str:
        """The C label of a label, which may be that of an outer scope."""
        for scope in reversed(self._scopes):
            if (scope, name) in self._labels:
                return self._labels[scope, name]
        raise PtxError(f"no label {name}")

    def call_parameter(self, name: str) -> str:
        """The C array that stands for a .param variable of a call."""
        known = self._name(name)
        if not isinstance(known, tuple):
            raise PtxError(f"no parameter {name}")
        return known[0]

    def add(self, code: str) -> None:
        """Append lines."""
        self._code.append(code)

    def stop(self, why: str) -> None:
        """Let the thread wait here."""
        if not self.function.is_entry:
            raise PtxError("a barrier in a function")
        self._stops += 1
        self.add(f"frame->registers = r; thread->resume_at = {self._stops}; return {why};")
        self.add(f"resume_{self._stops}: r = frame->registers;")

    # --- statements -------------------------------------------------------------------------------

    def translate(self) -> str:
        """The function in C."""
        self._find_labels()
        for statement in self.function.statements:
            self._statement(statement)
        return "\n".join([*self._head(), *self._code, "return 0;", "}"])

    def prototype(self) -> str:
        """The C function's head."""
        name = self.function.name
        if self.function.is_entry:
            return (
                f"static int {identifier('kernel_', name)}"
                "(struct emu_thread *thread, void *memory, const char *params)"
            )
        return (
            f"static int {identifier('function_', name)}"
            "(struct emu_thread *thread, const char *params, char *result, char *local)"
        )

    def table_row(self) -> str:
        """The kernel's element of emu_kernels, behind the arrays that it refers to."""
        function, kernel = self.function, identifier("kernel_", self.function.name)
        offsets = ", ".join(str(param.offset) for param in function.params) or "0"
        sizes = ", ".join(str(param.size) for param in function.params) or "0"
        frame = f"sizeof(struct frame_{kernel})" if self._stops else "0"
        return (
            f'{{.name = "{function.name}", .run = {kernel}, .frame_size = {frame},'
            f" .stops = {int(self._stops > 0)}, .static_shared_size = STATIC_SHARED_SIZE,"
            f" .max_threads = {function.max_threads}, .param_count = {len(function.params)},"
            f" .param_offsets = (const uint32_t[]){{{offsets}}},"
            f" .param_sizes = (const uint32_t[]){{{sizes}}}}}"
        )

    def _head(self) -> Iterator[str]:
        name = self.function.name
        kernel, registers = identifier("kernel_", name), identifier("struct registers_", name)
        end = max([param.offset + param.size for param in self.function.params], default=0)
        fields = "".join(f" {used.c_type} {used.field};" for used in self._registers.values())
        yield f"{registers} {{{fields} char none; }};"
        if self._stops:
            yield f"struct frame_{kernel} {{{registers} registers; char local[LOCAL_SIZE + 1]"
            yield " __attribute__((aligned(16))); };"
        yield "#undef PARAMS_SIZE"
        yield f"#define PARAMS_SIZE {end}"
        yield self.prototype() + " {"
        yield f"{registers} r; uint32_t carry = 0;"
        if self._stops:
            yield f"struct frame_{kernel} *frame = memory;"
            yield "char *local = frame->local;"
            places = " ".join(f"case {k}: goto resume_{k};" for k in range(1, self._stops + 1))
            yield f"switch (thread->resume_at) {{ {places} }}"
        elif self.function.is_entry:
            yield "char local[LOCAL_SIZE + 1] __attribute__((aligned(16)));"

    def _statement(self, statement: Statement) -> None:
        if statement.kind == "open":
            self._scopes.append(self._scope_numbers[id(statement)])
            self._names.append({})
            self.add("{")
        elif statement.kind == "close":
            self._scopes.pop()
            self._names.pop()
            self.add("}")
        elif statement.kind == "label":
            self.add(f"{self.label(statement.text)}:;")
        elif statement.kind == "directive":
            self._directive(statement.text)
        else:
            self._instruction(statement)

    def _instruction(self, statement: Statement) -> None:
        before = len(self._code)
        try:
            parts = ptx_parse.instruction(statement)
            guard = ""
            if parts.guard:
                guard = f"if ({self.read(('!' if parts.negated else '') + parts.guard, 'pred')}) "
            self.add(f"{guard}{{")
            self.add(translate_instruction(self, parts))
            self.add("}")
        except PtxError as error:
            del self._code[before:]
            self._report.add(f"line {statement.line}: {statement.text} ({error})")
            text = statement.text[:100].replace("\\", "").replace('"', "'")
            self.add(f'emu_trap(thread, "not translated: {text}", {statement.line});')

    def _directive(self, text: str) -> None:
        if text.startswith(".reg"):
            for name, type_ in ptx_parse.registers(text):
                scope = str(self._scopes[-1] or "")
                self._names[-1][name] = Register(identifier("", name) + f"_{scope}", type_)
        elif text.startswith(".param"):
            declared = ptx_parse.variable(text[len(".param") :])
            name = identifier("param_", declared.name) + f"_{self._scopes[-1]}"
            self._names[-1][declared.name] = name, declared.size
            self.add(f"char {name}[{declared.size}] __attribute__((aligned(16)));")
        elif not text.startswith((".shared", ".local", ".pragma")):
            raise PtxError(f"not understood: {text}")

    def _find_labels(self) -> None:
        """Number the scopes, and note the labels of each."""
        scopes, count = [0], 0
        self._scope_numbers: dict[int, int] = {}
        for statement in self.function.statements:
            if statement.kind == "open":
                count += 1
                scopes.append(count)
                self._scope_numbers[id(statement)] = count
            elif statement.kind == "close":
                scopes.pop()
            elif statement.kind == "label":
                name = statement.text
                self._labels[scopes[-1], name] = identifier("to_", name) + f"_{scopes[-1]}"

    # --- names ------------------------------------------------------------------------------------

    def _name(self, name: str) -> Register | tuple[str, int] | None:
        for scope in reversed(self._names):
            if name in scope:
                known = scope[name]
                if isinstance(known, Register):
                    self._registers[known.field] = known
                return known
        return None

    def _parameter(self, name: str) -> tuple[str, int] | None:
        """Where a parameter of this function or of a call is, and its size."""
        known = self._name(name)
        if isinstance(known, tuple):
            return known
        result = self.function.result
        if result and result.name == name:
            return "result", result.size
        for param in self.function.params:
            if param.name == name:
                return f"params + {param.offset}", param.size
        return None

    def _address_of(self, operand: str) -> str:
        name, _, offset = operand.partition("+")
        if offset:
            return f"({self._address_of(name.strip())} + {int(offset, 0)})"
        if parameter := self._parameter(name):
            return f"(uint64_t)({parameter[0]})"
        space, known = self.function.memory.get(name, ("", None))
        if space == "local":
            return f"(uint64_t)(local + {known.offset})"
        known = known or self.module.shared.get(name)
        if isinstance(known, Variable):
            return "DYNAMIC_SHARED" if known.offset is None else str(known.offset)
        if name in self.module.variables:
            return f"(uint64_t){identifier('global_', name)}"
        raise PtxError(f"unknown operand {operand}")

    @staticmethod
    def _check(register: Register, type_: str, narrow: bool) -> None:
        size, wanted = SIZES[register.type], SIZES[type_]
        fits = size == wanted or (narrow and size > wanted and type_[0] in "bus")
        mixed = {register.type[0], type_[0]} in ({"f", "u"}, {"f", "s"})
        if not fits or mixed or (register.type == "pred") != (type_ == "pred"):
            raise PtxError(f".{type_} in a register .{register.type}")

    @staticmethod
    def _value(register: Register, type_: str) -> str:
        if type_ == "pred":
            return register.name
        value = f"{register.name}.{_member(type_)}"
        return value if SIZES[register.type] == SIZES[type_] else f"(({C_TYPES[type_]}){value})"


def _member(type_: str) -> str:
    return "f" if type_ in ("f32", "f64") else "s" if type_[0] == "s" else "u"


def _constant(text: str, type_: str) -> str:
    """A number of the text as a C constant of a type."""
    size = SIZES[type_]
    bits = None
    if match := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", text):
        bits, width = int(match[1], 16), 4
    elif match := re.fullmatch(r"0[dD]([0-9a-fA-F]{16})", text):
        bits, width = int(match[1], 16), 8
    if bits is not None:
        if width != size or type_[0] in "us":
            raise PtxError(f"{text} as .{type_}")
        if type_[0] == "b":
            return f"0x{bits:x}ull"
        name, code = ("bits_to_float", "<f") if size == 4 else ("bits_to_double", "<d")
        (value,) = struct.unpack(code, bits.to_bytes(size, "little"))
        finite = value - value == 0
        return f"{value.hex()}{'f' * (size == 4)}" if finite else f"{name}(0x{bits:x}ull)"
    value = None
    with suppress(ValueError):
        digits = text.rstrip("U")
        value = int(digits, 8 if re.fullmatch(r"-?0[0-7]+", digits) else 0)
    if value is None or type_[0] == "f":
        raise PtxError(f"{text} as .{type_}")
    if type_ == "pred":
        return str(int(value != 0))
    value &= (1 << 8 * size) - 1
    return f"(({C_TYPES[type_]})0x{value:x}ull)"
