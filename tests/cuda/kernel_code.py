"""What the compiler makes of a kernel, as text: PTX, and the machine code of a GPU."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from numadam._version import install_command
from tests import extras

#: How a parameter is declared: what CuPy makes of an int, and of a float.
WIDTHS = {"int64": "u64", "float64": "f64", "float32": "f32"}
#: How `struct` writes it.
STRUCT = {"int64": "q", "float64": "d", "float32": "f"}


def numbers(types):
    """The types of what is passed at a launch: a tuple's one by one, in their order."""
    for kind in types:
        if hasattr(kind, "types"):
            yield from numbers(kind.types)
        else:
            yield str(kind)


def parameters(ptx, name):
    """The types of a kernel's parameters, as it declares them."""
    head = re.search(rf"\.entry {name}\((.*?)\)", ptx, re.DOTALL)[1]
    return re.findall(r"\.param \.(\w+)(?: \.\w+)*(?: \.align \d+)? \w+", head)


class Code:
    """What the compiler makes of a kernel: PTX without the mangled names, and the assembler's."""

    def __init__(self, make, *arguments, capability=(9, 0), by_cupy=True):
        from numadam._cuda.compiler import kinds_of, ptx_of

        self._ptx, name, types = ptx_of(make, capability, *arguments)
        self._capability = capability
        if by_cupy:  # test_table asks for the same types of what is passed
            kinds_passed = list(numbers(types))
            assert parameters(self._ptx, name) == [WIDTHS[kind] for kind in kinds_passed]
            assert [STRUCT[kind] for kind in kinds_passed] == list(kinds_of(types))
        self.text = re.sub(r"\b_Z\w+", "name", self._ptx)  # which may spell anything

    def machine_code(self):
        """What a GPU runs, disassembled: one instruction a line."""
        from numadam._cuda.compiler import cubin_of

        image, _ = cubin_of(self._ptx, self._capability)
        return disassembled(image)

    def assembled(self):
        """Registers of a thread, and bytes of its stack and its spills."""
        from numadam._cuda.compiler import cubin_of, registers_of, spilled

        _, log = cubin_of(self._ptx, self._capability)
        stack = re.search(r"(\d+) bytes stack frame", log)
        return registers_of(log), int(stack[1]), spilled(log)

    def check_registers(self, most=64):
        """At most 64 registers, so that 1024 threads fit; nothing is spilled."""
        registers, stack, spilled = self.assembled()
        assert registers <= most
        assert stack == spilled == 0


def disassembler():
    """The path of nvdisasm, of its package or else of the system."""
    root = importlib.util.find_spec("nvidia")
    places = [Path(place) / "cu13" / "bin" for place in root.submodule_search_locations or ()]
    return shutil.which("nvdisasm", path=os.pathsep.join([*map(str, places), os.environ["PATH"]]))


def disassembled(image):
    found = disassembler()
    if found is None:
        extras.stop("cuda", f"nvdisasm is not installed: {install_command('test-cuda')}")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(image)
        file.flush()
        shown = subprocess.run(
            [found, "-c", file.name], check=True, capture_output=True, text=True
        ).stdout
    return re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(.*?);", shown, re.MULTILINE)


def operations(code, name):
    """Instructions of a name, with whatever follows it after a dot."""
    return [line for line in code if re.search(rf"(^|\s){name}\b", line)]


def check_arithmetic(ptx):
    assert ".local" not in ptx
    assert "call" not in ptx
    assert ".approx" not in ptx
    assert ".ftz" not in ptx
    # rounded correctly; integers have other suffixes
    assert not re.search(r"sqrt\.(?!rn)", ptx)
    assert not re.search(r"div\.(?!rn|[su](32|64))", ptx)


def check_common(ptx):
    check_arithmetic(ptx)
    # the compiler knows that all memory is the GPU's own
    assert not re.search(r"\b(ld|st)\.(?!global|param|shared)", ptx)


def widths(ptx, word):
    """Bytes of each read ("ld") or write ("st") of the GPU's memory."""
    found = re.findall(rf"\b{word}\.global(?:\.v(\d))?\.[a-z](\d+)", ptx)
    return [int(n or 1) * int(bits) // 8 for n, bits in found]


def check_tiles(ptx, reads, writes, nbytes=16):
    """So many arrays are read and written, each with one instruction a tile."""
    # the compiler may unroll the loop: several tiles, each with all its reads and writes
    tiles, rest = divmod(widths(ptx, "ld").count(nbytes), reads)
    assert tiles >= 1
    assert rest == 0
    assert widths(ptx, "st").count(nbytes) == tiles * writes
