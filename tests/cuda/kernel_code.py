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

#: How a parameter is declared: what CuPy makes of a number of 8 bytes, and of others.
WIDTHS = {"q": "u64", "d": "f64", "f": "f32"}


def step_of(plan, by_value=True, many=False, has_out=False):
    """The kernel of a step."""
    from numadam._cuda.kernel import make_step

    return make_step(plan, by_value, many, has_out)


def parameters(ptx, name):
    """The types of a kernel's parameters, as it declares them."""
    head = re.search(rf"\.entry {name}\((.*?)\)", ptx, re.DOTALL)[1]
    return re.findall(r"\.param \.(\w+)(?: \.\w+)*(?: \.align \d+)? \w+", head)


class Code:
    """What a compiler makes of a kernel: PTX without the mangled names, and the assembler's."""

    def __init__(self, ptx, capability=(9, 0)):
        self._ptx, self._capability = ptx, capability
        assert f".target sm_{capability[0]}{capability[1]}" in ptx
        self.text = re.sub(r"\b_Z\w+", "name", ptx)  # which may spell anything

    @classmethod
    def of(cls, kernel, capability=(9, 0), ptx_of=None):
        """What numba-cuda makes of a kernel, or ``ptx_of(kernel, capability)``."""
        from numadam._cuda import compiler, private

        with private.without_gpu(capability):
            ptx, name = (ptx_of or compiler.ptx_of)(kernel, capability)
        letters = compiler.letters_of(kernel)
        assert parameters(ptx, name) == [WIDTHS[letter] for letter in letters]
        return cls(ptx, capability)

    def machine_code(self):
        """What a GPU runs, disassembled: one instruction a line."""
        from numadam._cuda.compiler import cubin_of

        image, _ = cubin_of(self._ptx, self._capability)
        return disassembled(image)

    def assembled(self):
        """Registers of a thread, and bytes of its stack and its spills."""
        from numadam._cuda.compiler import cubin_of

        _, log = cubin_of(self._ptx, self._capability)
        said = r"Used (\d+) registers", r"(\d+) bytes stack frame", r"(\d+) bytes spill stores"
        return tuple(int(re.search(one, log)[1]) for one in said)

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
    # functions that it calls, where a root or a quotient is denormal, have sections of their own
    (own,) = (part for part in shown.split("\t.section\t") if part.startswith(".text._Z"))
    return re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?!\s|NOP)(.*?);", own, re.MULTILINE)


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


def accesses(ptx, word):
    """Reads ("ld") or writes ("st") of the GPU's memory."""
    return re.findall(rf"\b{word}\.global\.\w+", ptx)


def in_flight(code):
    """Most numbers of memory that a thread has asked for before it uses the first of them."""
    most, asked = 0, {}
    for line in code:
        name, *rest = re.findall(r"[\w.]+", line.replace("@P0", "").replace("@!P0", ""))
        read = set(re.findall(r"\bR\d+\b", line.partition(",")[2]))
        if name.startswith("LDG"):
            asked[rest[0]] = line
        elif asked.keys() & read:
            asked = {}
        most = max(most, len(asked))
    return most
