"""A machine that runs the PTX of a kernel on host memory, with the checks of hardware and more.

All threads of a launch go through the program together, as NumPy arrays of one number a thread.
Each has its own place in it; those that are furthest behind go first, so that they meet again
behind a branch. A thread waits at a barrier until all of its block that still run do.

It is slow, and right or refuses: see `ptx_memory` for what it asks of an access, and `ptx_ops`
for how it rounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tests.cuda.machine.ptx_memory import MemoryFault, global_space, own_space, race
from tests.cuda.machine.ptx_ops import DTYPES, OPS
from tests.cuda.machine.ptx_parse import Address, Instruction, Number, Program, PtxError, Register
from tests.cuda.machine.ptx_registers import Registers

#: Instructions of a launch, after which a thread is taken to run for ever.
LIMIT = 300_000

#: Where no space is named it is the global one: an array of another is no address there.
_MEMORY = re.compile(r"(ld|st)(?:\.(global|shared|local))?(?:\.v([24]))?\.([busf](?:8|16|32|64))")
_PARAM = re.compile(r"(ld|st)\.param\.([busf](?:32|64))")
_MOVE = re.compile(r"mov\.([busf](?:16|32|64)|pred)")


def _passed(value: Any) -> np.generic:
    """A number as CuPy passes it to a kernel."""
    if isinstance(value, np.generic):
        return value
    known = {bool: np.bool_, int: np.int64, float: np.float64}
    if type(value) not in known:
        raise PtxError(f"a launch takes numbers, got {type(value).__name__}")
    return known[type(value)](value)


def bind(program: Program, values: Sequence[Any]) -> dict[str, np.generic]:
    """Arguments of a launch, by the name of the parameter."""
    if len(values) != len(program.parameters):
        raise PtxError(
            f"{program.title} takes {len(program.parameters)} numbers, got {len(values)}"
        )
    found = {}
    for k, (name, type_) in enumerate(program.parameters):
        value = _passed(values[k])
        wanted = DTYPES[type_]
        if value.itemsize != wanted.itemsize or (value.dtype.kind == "f") != (wanted.kind == "f"):
            raise PtxError(f"{program.title}: number {k} is a .{type_}, got {value.dtype}")
        found[name] = value.view(f"u{wanted.itemsize}")
    return found


class Launch:
    """One launch of a kernel.

    Parameters
    ----------
    program : Program
    blocks, threads : int
    values : sequence of numbers
    allocations : iterable of (address, bytes)
        What the kernel may touch.
    """

    def __init__(
        self,
        program: Program,
        blocks: int,
        threads: int,
        values: Sequence[Any],
        allocations: Iterable[tuple[int, int]],
        limit: int = LIMIT,
    ) -> None:
        if not (1 <= blocks < 2**31 and 1 <= threads <= 1024):
            raise PtxError(f"{program.title}: {blocks} blocks of {threads} threads")
        self._program, self._limit = program, limit
        self._given = bind(program, values)
        n = blocks * threads
        self._block, self._thread = np.divmod(np.arange(n), threads)
        numbers = (self._thread, self._block, threads, blocks)
        names = ("%tid.x", "%ctaid.x", "%ntid.x", "%nctaid.x")
        special = {
            name: np.broadcast_to(np.asarray(number, np.uint32), n)
            for name, number in zip(names, numbers, strict=True)
        }
        shared, of_block = own_space(program.shared, self._block)
        local, of_thread = own_space(program.local, np.arange(n))
        self._spaces = {"global": global_space(allocations), "shared": shared, "local": local}
        self._registers = Registers(program.registers, special, of_block | of_thread)
        self._pc = np.zeros(n, np.int64)
        self._ended, self._waiting = np.zeros(n, bool), np.zeros(n, bool)
        self._epoch = np.zeros(blocks, np.int64)
        self._returns = {name: np.zeros(n, np.int64) for name in program.functions}
        self.steps = 0

    def run(self) -> int:
        """Run all threads to their ends; how many instructions that took."""
        with np.errstate(all="ignore"):
            while not self._ended.all():
                able = ~self._ended & ~self._waiting
                here = int(self._pc[able].min())
                behind = able & (self._pc > here)
                stop = int(self._pc[behind].min()) if behind.any() else len(self._program.code)
                self._straight(here, stop, np.flatnonzero(able & (self._pc == here)))
        for name in ("global", "shared"):
            raced = race(self._spaces[name].log, self._block, alike_is_fine=name == "shared")
            if raced:
                one, other, at, then = raced
                self._fail(f"races with {self._where(other, then)}", one, at)
        return self.steps

    # --- control ----------------------------------------------------------------------------------

    def _straight(self, pc: int, stop: int, lanes: np.ndarray) -> None:
        """Run some threads until they branch, or meet others."""
        code = self._program.code
        while pc < stop:
            one = code[pc]
            self.steps += 1
            if self.steps > self._limit:
                self._fail("does not end", int(lanes[0]), pc)
            lanes_now = lanes
            if one.guard is not None:
                lanes_now = lanes[self._registers[one.guard][lanes] != one.negated]
            try:
                jumped = self._control(one, pc, lanes, lanes_now)
                if jumped:
                    return
                if len(lanes_now):
                    self._execute(one, pc, lanes_now)
            except MemoryFault as error:
                self._fail(str(error), error.lane, pc, error)
            except (PtxError, KeyError, ZeroDivisionError) as error:
                self._fail(str(error), int(lanes[0]), pc, error)
            pc += 1
        if pc == len(code):
            self._fail("runs beyond the end", int(lanes[0]), pc - 1)
        self._pc[lanes] = pc

    def _control(self, one: Instruction, pc: int, lanes: np.ndarray, now: np.ndarray) -> bool:
        """Whether this was an instruction after which threads go on elsewhere."""
        if one.name in ("bra", "bra.uni"):
            self._pc[lanes] = pc + 1
            self._pc[now] = self._program.labels[one.operands[0]]
        elif one.name == "ret":
            self._pc[lanes] = pc + 1
            self._return(now, pc)
        elif one.name == "call.uni":
            self._pc[lanes] = pc + 1
            self._call(one, now, pc)
        elif one.name == "bar.sync":
            if one.operands != (Number(0, 0),) or one.guard is not None:
                raise PtxError("a barrier of some threads")
            self._pc[lanes] = pc + 1
            self._waiting[lanes] = True
            self._release()
        else:
            return False
        return True

    def _release(self) -> None:
        """Let go on the blocks of which every thread waits, or has ended."""
        for block in np.unique(self._block[self._waiting]):
            of_block = (self._block == block) & ~self._ended
            if not self._waiting[of_block].all():
                continue
            at = np.unique(self._pc[of_block])
            if len(at) > 1:
                raise PtxError(f"block {block} waits at {len(at)} barriers at a time")
            self._waiting[of_block] = False
            self._epoch[block] += 1

    def _call(self, one: Instruction, lanes: np.ndarray, pc: int) -> None:
        returned, function, given = one.operands
        taken, gives = self._program.functions[function]
        if len(taken) != len(given) or len(gives) != len(returned):
            raise PtxError(f"{function} takes {len(taken)} numbers")
        for into, out_of in zip(taken, given, strict=True):
            self._registers[into][lanes] = self._registers[out_of][lanes]
        self._returns[function][lanes] = pc
        self._pc[lanes] = self._program.labels[function]

    def _return(self, lanes: np.ndarray, pc: int) -> None:
        begin = {self._program.labels[name]: name for name in self._program.functions}
        inside = [at for at in begin if at <= pc]
        if not inside:
            self._ended[lanes] = True
            self._release()
            return
        function = begin[max(inside)]
        calls = self._returns[function][lanes]
        for pc in np.unique(calls):
            back = lanes[calls == pc]
            returned, _, _ = self._program.code[pc].operands
            gives = self._program.functions[function][1]
            for into, out_of in zip(returned, gives, strict=True):
                self._registers[into][back] = self._registers[out_of][back]
        self._pc[lanes] = calls + 1

    # --- one instruction --------------------------------------------------------------------------

    def _execute(self, one: Instruction, pc: int, lanes: np.ndarray) -> None:
        name, operands = one.name, one.operands
        if name in OPS:
            op = OPS[name]
            if len(operands) != len(op.arguments) + 1:
                raise PtxError("takes other operands")
            wide = name.startswith("cvt")
            pairs = zip(operands[1:], op.arguments, strict=True)
            given = [self._registers.read(operand, type_, lanes, wide) for operand, type_ in pairs]
            self._registers.write(operands[0], op.function(*given), op.result, lanes, wide)
        elif match := _MEMORY.fullmatch(name):
            self._memory(match, operands, lanes, pc)
        elif match := _PARAM.fullmatch(name):
            self._parameter(match, operands, lanes)
        elif match := _MOVE.fullmatch(name):
            self._registers.move(match[1], operands, lanes)
        else:
            raise PtxError("an unknown instruction")

    def _parameter(self, match: Any, operands: Sequence[Any], lanes: np.ndarray) -> None:
        """A number of the launch, or of the call of a function."""
        word, type_ = match.groups()
        register, address = operands if word == "ld" else operands[::-1]
        bits = f"b{type_[1:]}"
        if address.offset:
            raise PtxError("a part of a parameter")
        if word == "st":
            self._registers.write(
                address.base, self._registers.read(register, bits, lanes), bits, lanes
            )
        elif isinstance(address.base, Register):
            self._registers.write(
                register, self._registers.read(address.base, bits, lanes), bits, lanes
            )
        else:
            self._registers.write(
                register, self._given[address.base].view(DTYPES[bits]), bits, lanes
            )

    def _memory(self, match: Any, operands: Sequence[Any], lanes: np.ndarray, pc: int) -> None:
        word, where, count, type_ = match.groups()
        address, given = operands[::-1] if word == "ld" else operands
        numbers = given if count else (given,)
        if not isinstance(address, Address) or len(numbers) != int(count or 1):
            raise PtxError("takes other operands")
        at = np.broadcast_to(self._registers.read(address.base, "u64", lanes), len(lanes))
        at = at + np.uint64(address.offset % 2**64)
        space = self._spaces[where or "global"]
        size, epochs = DTYPES[type_].itemsize, self._epoch[self._block[lanes]]
        if word == "ld":
            found = space.load(at, size, len(numbers), lanes, epochs, pc)
            for one, value in zip(numbers, found, strict=True):
                self._registers.write(one, value.view(DTYPES[type_]), type_, lanes, wide=True)
        else:
            bits = f"b{8 * size}"
            values = [
                np.broadcast_to(self._registers.read(one, bits, lanes, wide=True), len(lanes))
                for one in numbers
            ]
            space.store(at, values, lanes, epochs, pc)

    # --- errors -----------------------------------------------------------------------------------

    def _where(self, lane: int, pc: int) -> str:
        return (
            f"thread {self._thread[lane]} of block {self._block[lane]} at instruction {pc} "
            f"({self._program.code[pc].text})"
        )

    def _fail(self, what: str, lane: int, pc: int, cause: Exception | None = None) -> None:
        raise PtxError(f"{self._program.title}: {self._where(lane, pc)}: {what}") from cause
