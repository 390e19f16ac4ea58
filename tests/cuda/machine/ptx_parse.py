"""PTX text as a list of instructions. What is not understood is an error."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any


class PtxError(Exception):
    """The program, or what it was about to do, is wrong."""


@dataclass(frozen=True)
class Register:
    """A register, or a parameter in the call of a function."""

    name: str
    type: str


@dataclass(frozen=True)
class Number:
    """A number of the text: an integer, or the bits of a float of so many bits."""

    value: int
    bits: int  # 0 for an integer


@dataclass(frozen=True)
class Address:
    """A register or a name, and what is added to it."""

    base: Any
    offset: int


@dataclass(frozen=True)
class Instruction:
    """A line of the program."""

    name: str  # with all modifiers
    operands: tuple[Any, ...]
    guard: Register | None
    negated: bool
    text: str


@dataclass
class Program:
    """A kernel, and the functions that it calls, one behind the other."""

    name: str
    #: what messages call it
    title: str = ""
    code: list[Instruction] = field(default_factory=list)
    #: where a label or a function is
    labels: dict[str, int] = field(default_factory=dict)
    registers: dict[str, str] = field(default_factory=dict)
    #: name and type of what is passed at the launch
    parameters: list[tuple[str, str]] = field(default_factory=list)
    #: by function what it takes and what it returns
    functions: dict[str, tuple[list[Register], list[Register]]] = field(default_factory=dict)
    #: by name of an array of a block its size and alignment, and the same of a thread's own
    shared: dict[str, tuple[int, int]] = field(default_factory=dict)
    local: dict[str, tuple[int, int]] = field(default_factory=dict)


_HEAD = re.compile(
    r"\.(entry|func)\s*(?:\(([^)]*)\))?\s*([\w$]+)\s*\(([^)]*)\)\s*([^{;]*)([{;])", re.DOTALL
)
_ARRAY = re.compile(r"\.(shared|local)\s+\.align\s+(\d+)\s+\.b8\s+([\w$]+)\[(\d+)\]\s*;")
_STATEMENT = re.compile(r"\s*(?:([{}])|([\w$]+):|([^;]*);)")
_DECLARATION = re.compile(r"\.(reg|param)\s+\.(\w+)\s+([%\w$]+)(?:<(\d+)>)?$")
_INSTRUCTION = re.compile(r"(?:@(!?)([%\w$]+)\s+)?([a-z][\w.]*)\s*(.*)$", re.DOTALL)
_PARAMETER = re.compile(r"\.param\s+\.(\w+)\s+([\w$]+)$")


def parse(ptx: str, name: str, title: str = "") -> Program:
    """The program of a kernel, which messages call `title`."""
    text, program = re.sub(r"//[^\n]*|/\*.*?\*/", "", ptx, flags=re.DOTALL), Program(name)
    for space, align, array, size in _ARRAY.findall(text):
        getattr(program, space)[array] = int(size), int(align)
    bodies = []
    for head in _HEAD.finditer(text):
        kind, returned, function, taken, more, opening = head.groups()
        if kind == "entry" and function != name:
            raise PtxError(f"a kernel besides {name}: {function}")
        if more.strip():
            raise PtxError(f"{function}: not understood: {more.strip()}")
        given = _parameters(taken)
        if kind == "entry":
            program.parameters = given
        else:
            program.functions[function] = tuple(
                [Register(f"{function}:{one}", type_) for one, type_ in group]
                for group in (given, _parameters(returned or ""))
            )
        if opening == "{":
            bodies.append((kind == "func", function, _body(text, head.end())))
    for _, function, body in sorted(bodies):  # the kernel comes first
        _Function(program, function).read(body)
    if all(is_function for is_function, _, _ in bodies):
        raise PtxError(f"no kernel {name}")
    program.title = title or name
    return program


def _parameters(text: str) -> list[tuple[str, str]]:
    found = []
    for part in filter(None, map(str.strip, text.split(","))):
        match = _PARAMETER.match(part)
        if not match:
            raise PtxError(f"a parameter that is no number: {part}")
        found.append((match[2], match[1]))
    return found


def _body(text: str, begin: int) -> str:
    depth = 1
    for brace in re.finditer("[{}]", text[begin:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[begin : begin + brace.start()]
    raise PtxError("a function without an end")


class _Function:
    """Reads the body of one function; names have the function's before them."""

    def __init__(self, program: Program, name: str) -> None:
        self._program, self._name = program, name
        self._scopes: list[dict[str, Register]] = [{}]
        self._made = 0
        for group in program.functions.get(name, ()):
            for one in group:
                self._scopes[0][one.name.split(":")[1]] = one
                program.registers[one.name] = one.type

    def read(self, body: str) -> None:
        program, at = self._program, 0
        program.labels[self._name] = len(program.code)
        while body[at:].strip():
            match = _STATEMENT.match(body, at)
            if not match:
                raise PtxError(f"not understood: {body[at : at + 80]}")
            at, (brace, label, statement) = match.end(), match.groups()
            if brace == "{":
                self._scopes.append({})
            elif brace:
                self._scopes.pop()
            elif label:
                program.labels[label] = len(program.code)
            else:
                self._statement(" ".join(statement.split()))

    def _statement(self, text: str) -> None:
        if text.startswith((".reg", ".param")):
            self._declare(text)
        elif _ARRAY.match(f"{text};") or text == '.pragma "nounroll"':
            return  # known already; says how to compile
        else:
            match = _INSTRUCTION.match(text)
            if not match:
                raise PtxError(f"not understood: {text}")
            negated, guard, name, rest = match.groups()
            operands = tuple(map(self._operand, _split(rest)))
            held = self._register(guard) if guard else None
            self._program.code.append(Instruction(name, operands, held, bool(negated), text))

    def _declare(self, text: str) -> None:
        match = _DECLARATION.match(text)
        if not match:
            raise PtxError(f"not understood: {text}")
        _, type_, name, count = match.groups()
        for one in [name] if count is None else [f"{name}{k}" for k in range(int(count))]:
            self._made += 1
            register = Register(f"{self._name}:{one}:{self._made}", type_)
            self._scopes[-1][one] = register
            self._program.registers[register.name] = type_

    def _register(self, name: str) -> Register:
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        raise PtxError(f"no register {name}")

    def _operand(self, text: str) -> Any:
        if text[0] in "{(":
            return list(map(self._operand, _split(text[1:-1])))
        if text[0] == "[":
            base, _, offset = text[1:-1].replace(" ", "").partition("+")
            return Address(self._operand(base), int(offset or 0))
        if match := re.fullmatch(r"0([fFdD])([0-9A-Fa-f]+)", text):
            return Number(int(match[2], 16), 32 if match[1] in "fF" else 64)
        if re.fullmatch(r"-?(0x[0-9A-Fa-f]+|\d+)", text):
            return Number(int(text, 0), 0)
        if any(text in scope for scope in self._scopes):
            return self._register(text)
        return text  # a label, a function, an array, a special register


def _split(text: str) -> list[str]:
    """At the commas that stand in no bracket."""
    return [part.strip() for part in re.split(r",\s*(?![^({\[]*[)}\]])", text) if part.strip()]
