"""PTX text -> a tree: a module of variables and functions, whose bodies are statements."""

from __future__ import annotations

import re
from collections import namedtuple  # dataclasses take longer to import than a kernel to parse


class PtxError(Exception):
    """Text that the translator does not understand; the message says which."""


#: Bytes of the fundamental types.
SIZES = {f"{kind}{bits}": bits // 8 for kind in "bus" for bits in (8, 16, 32, 64)}
SIZES |= {"pred": 1, "f32": 4, "f64": 8}

C_TYPES = {name: f"{'int' if name[0] == 's' else 'uint'}{8 * SIZES[name]}_t" for name in SIZES}
C_TYPES |= {"f32": "float", "f64": "double"}


def identifier(prefix: str, name: str) -> str:
    """A C identifier for a name of PTX, which may have $ and %, and may be a word of C."""
    return prefix + re.sub(r"[^\w$]", "_", name.lstrip("%"))


def unsigned(type_: str) -> str:
    """The unsigned integer type of the same size."""
    return f"u{8 * SIZES[type_]}"


#: Memory with a name. `initial` is the text behind "=" or None; `offset` counts from the begin of
#: the parameters, of the block's shared memory, or of the thread's local memory.
Variable = namedtuple("Variable", "name type align size initial offset")
#: `kind` is "open" or "close" (a scope), "label", "directive", or "instruction".
Statement = namedtuple("Statement", "line kind text")
#: `words` is the mnemonic, split at the dots.
Instruction = namedtuple("Instruction", "line text guard negated words operands")
#: An .entry or a .func. `memory` has the variables of its body: name -> (space, Variable).
Function = namedtuple("Function", "name is_entry params result max_threads statements memory")


class Module:
    """What a PTX file defines."""

    def __init__(self) -> None:
        self.variables: dict[str, Variable] = {}  # .global and .const
        self.functions: dict[str, Function] = {}
        #: offsets from the begin of a block's shared memory; None for dynamic shared memory
        self.shared: dict[str, Variable] = {}
        self.shared_size = 0
        #: each function has its place in the local memory of a thread: none calls itself
        self.local_size = 0

    def place_shared(self, variable: Variable) -> Variable:
        """Put a variable at the end of the static shared memory."""
        if not variable.size:
            return variable  # dynamic: behind all others
        begin = _aligned(self.shared_size, variable.align)
        self.shared_size = begin + variable.size
        return variable._replace(offset=begin)

    def place_local(self, variable: Variable) -> Variable:
        """Put a variable at the end of the local memory of a thread."""
        begin = _aligned(self.local_size, variable.align)
        self.local_size = begin + variable.size
        return variable._replace(offset=begin)


_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_LINKAGE = r"\s*((?:\.(?:visible|extern|weak|common|linkonce)\s+)*)"
_HEAD = re.compile(_LINKAGE + r"\.(entry|func)\b([^{;]*)([{;])")
_FILE_DIRECTIVE = re.compile(
    r"\s*(?:\.(?:version|target|address_size|file|pragma)[^\n]*\n|\.section[^{]*\{[^}]*\})"
)
_MODULE_VARIABLE = re.compile(_LINKAGE + r"\.(global|const|shared)\s+([^;]*);")
_VARIABLE = re.compile(
    r"(?:\.attribute\([^)]*\)\s*)?(?:\.align\s+(\d+)\s+)?(?:\.v(\d)\s+)?\.(\w+)\s+"
    r"(?:\.ptr(?:\s+\.(?:global|shared|const|local))?(?:\s+\.align\s+\d+)?\s+)?"
    r"([\w$%.]+)\s*((?:\[\d*\]\s*)*)(?:=\s*(.*))?$",
    re.DOTALL,
)
_SIGNATURE = re.compile(r"\s*(?:\(([^)]*)\))?\s*([\w$%.]+)\s*(?:\(([^)]*)\))?(.*)$", re.DOTALL)
_MAX_THREADS = re.compile(r"\.(?:maxntid|reqntid)\s+(\d+(?:\s*,\s*\d+)*)")
_STATEMENT = re.compile(
    r"\s*(?:([{}])|([\w$%]+)\s*:(?!:)|\.loc\s[^\n]*\n|([^;{}]*(?:\{[^{}]*\}[^;{}]*)*);)"
)
_INSTRUCTION = re.compile(r"(?:@(!?)([\w$%]+)\s+)?([a-z][\w.:]*)\s*(.*)$", re.DOTALL)
_SPLIT = re.compile(r",\s*(?![^({\[]*[)}\]])")


def parse(text: str) -> Module:
    """The module that a PTX file defines."""
    # the newlines of comments stay: messages name the lines
    text = _COMMENT.sub(lambda comment: "\n" * comment[0].count("\n"), text)
    module, at = Module(), 0
    while text[at:].strip("\0 \t\r\n"):
        if match := _HEAD.match(text, at):
            at = match.end()
            if match[4] == "{":
                end = _end_of_body(text, at)
                line = text.count("\n", 0, at) + 1
                _function(module, match[2] == "entry", match[3], text[at:end], line)
                at = end + 1
        elif match := _MODULE_VARIABLE.match(text, at):
            _module_variable(module, *match.groups())
            at = match.end()
        elif match := _FILE_DIRECTIVE.match(text, at):
            at = match.end()
        else:
            line = text.count("\n", 0, at) + 1
            raise PtxError(f"line {line}: not understood: {text[at : at + 80].strip()}")
    return module


def split(text: str) -> list[str]:
    """The parts between the commas that are in no bracket."""
    return [part.strip() for part in _SPLIT.split(text)] if text.strip() else []


def instruction(statement: Statement) -> Instruction:
    """The parts of an instruction."""
    match = _INSTRUCTION.match(statement.text)
    if not match:
        raise PtxError("not understood")
    negated, guard, mnemonic, operands = match.groups()
    return Instruction(
        statement.line, statement.text, guard, bool(negated), mnemonic.split("."), split(operands)
    )


def registers(directive: str) -> list[tuple[str, str]]:
    """Names and types of the registers that a .reg directive declares."""
    match = re.match(r"\.reg\s+\.(\w+)\s+([^.].*)", directive)
    if not match or match[1] not in SIZES:
        raise PtxError(f"not understood: {directive}")
    names = []
    for name in split(match[2]):
        many = re.fullmatch(r"([\w$%]+)<(\d+)>", name)
        names += [f"{many[1]}{k}" for k in range(int(many[2]))] if many else [name]
    return [(name, match[1]) for name in names]


def variable(text: str) -> Variable:
    """A declaration of memory, without its state space."""
    match = _VARIABLE.match(text.strip())
    if not match or match[3] not in SIZES:
        raise PtxError(f"not understood: {text[:80]}")
    align, vector, type_, name, dimensions, initial = match.groups()
    size = SIZES[type_] * int(vector or 1)
    for dimension in re.findall(r"\[(\d*)\]", dimensions):
        size *= int(dimension or 0)
    return Variable(name, type_, int(align or SIZES[type_] * int(vector or 1)), size, initial, None)


def _aligned(offset: int, align: int) -> int:
    return -(-offset // align) * align


def _end_of_body(text: str, begin: int) -> int:
    depth = 1
    for brace in re.compile("[{}]").finditer(text, begin):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return brace.start()
    raise PtxError("a function without an end")


def _module_variable(module: Module, linkage: str, space: str, text: str) -> None:
    declared = variable(text)
    if space == "shared":
        module.shared[declared.name] = module.place_shared(declared)
    elif ".extern" in linkage:
        raise PtxError(f"{declared.name} is defined in another module")
    else:
        module.variables[declared.name] = declared


def _function(module: Module, is_entry: bool, head: str, body: str, line: int) -> None:
    match = _SIGNATURE.match(head)
    if not match:
        raise PtxError(f"line {line}: not understood: {head.strip()[:80]}")
    result, name, params, rest = match.groups()
    limit = 0
    if threads := _MAX_THREADS.search(rest):
        limit = 1
        for count in threads[1].split(","):
            limit *= int(count)
    results = _params(result)
    statements, memory = list(_statements(body, line)), {}
    for statement in statements:
        if declared := re.match(r"\.(shared|local)\s+(.*)", statement.text, re.DOTALL):
            place = module.place_shared if declared[1] == "shared" else module.place_local
            placed = place(variable(declared[2]))
            if placed.name in memory:
                raise PtxError(f"line {statement.line}: {placed.name} is declared twice")
            memory[placed.name] = (declared[1], placed)
    module.functions[name] = Function(
        name, is_entry, _params(params), results[0] if results else None, limit, statements, memory
    )


def _params(text: str | None) -> list[Variable]:
    """Parameters, one behind the other as their alignments demand."""
    placed, end = [], 0
    for part in split(text or ""):
        if not part.startswith(".param"):
            raise PtxError(f"not a .param: {part}")
        declared = variable(part[len(".param") :])
        begin = _aligned(end, declared.align)
        placed.append(declared._replace(offset=begin))
        end = begin + declared.size
    return placed


def _statements(body: str, line: int) -> list[Statement]:
    at = 0
    statements = []
    while match := _STATEMENT.match(body, at):
        brace, label, text = match.groups()
        start = match.start(match.lastindex) if match.lastindex else match.end()
        line += body.count("\n", at, start)
        if brace:
            statements.append(Statement(line, "open" if brace == "{" else "close", ""))
        elif label:
            statements.append(Statement(line, "label", label))
        elif text:
            kind = "directive" if text[0] == "." else "instruction"
            statements.append(Statement(line, kind, " ".join(text.split())))
        line += body.count("\n", start, match.end())
        at = match.end()
    if body[at:].strip():
        raise PtxError(f"line {line}: not understood: {body[at : at + 80].strip()}")
    return statements
