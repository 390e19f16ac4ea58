"""What two compilers make of a kernel, as text: PTX, and the machine code of a GPU.

numba-cuda-mlir is the successor of numba-cuda, and needs no Numba. It has no call of the class of a
named tuple, which is given to it here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from numadam._version import install_command
from tests import extras

COMPILERS = ("numba-cuda", "numba-cuda-mlir")
#: How a parameter is declared: what CuPy makes of a number of 8 bytes, and of others.
WIDTHS = {"q": "u64", "d": "f64", "f": "f32"}


@contextlib.contextmanager
def compiler_of(name, capability, scope):
    """Module `cuda` of a compiler and its types, without a GPU; `scope` are names of a text."""
    from numadam._cuda import private

    if name == COMPILERS[0]:
        from numba import cuda, types

        with private.without_gpu(capability):
            yield cuda, types
        return
    from numba_cuda_mlir import cuda, tools, types
    from numba_cuda_mlir.extending import lower_builtin, refresh_registries

    def made_of(kind):
        def lower(lowering, target, args, keywords):
            named = dict(keywords)
            given = [*args, *(named[name] for name in kind._fields[len(args) :])]
            lowering.store_var(target, tuple(map(lowering.load_var, given)))

        return lower

    of_rules = (getattr(value, "__globals__", {}).get("dict") for value in scope.values())
    for kind in (*scope.values(), *of_rules):
        if inspect.isclass(kind) and issubclass(kind, tuple):
            lower_builtin(kind, types.VarArg(types.Any))(made_of(kind))
    refresh_registries()
    # it asks for a GPU, though a compute capability is given
    before = tools.get_gpu_compute_capability
    tools.get_gpu_compute_capability = lambda kind=tuple: capability
    try:
        yield cuda, types
    finally:
        tools.get_gpu_compute_capability = before


def of_many_problems(plan, fun, norm, capability=(9, 0), compiler=COMPILERS[0]):
    """The kernel of many problems of one axis, which gets arrays, as `Code`."""
    from numadam._core.text import Text, scope_of
    from numadam._minimize import device
    from numadam._minimize.compiled.objective import WRITES

    before = device.cuda
    with compiler_of(compiler, capability, scope_of(plan)) as (device.cuda, t):
        real, f8, i8 = getattr(t, plan.real.name), t.float64, t.int64
        lines = [t.Array(kind, 2, "C") for kind in (real, real, f8, i8)]
        types = t.void(
            t.UniTuple(t.Array(real, 1, "C"), len(Text(plan).arrays)),
            t.UniTuple(lines[0], 2),
            *lines[1:],
            t.UniTuple(t.Array(real, 1, "C"), 4),
            t.UniTuple(real, 2),
            t.UniTuple(f8, 5),
            t.UniTuple(i8, 3),
            t.Tuple(()),
        )
        kernel = device.make_solve(plan, fun, WRITES, norm, 1, 0)
        given = {"device": False, "abi": "numba", "output": "ptx"}
        ptx, _ = device.cuda.compile(kernel, types, cc=capability, **given)
    device.cuda = before
    most = device.most_registers(plan, norm)
    ptx = ptx if isinstance(ptx, str) else ptx.decode()
    limit = rf"\1 .maxnreg {most} {{" if most else r"\1{"
    return Code(re.sub(r"(\.entry [^{]*)\{", limit, ptx, count=1), capability)


def of_fits(fun, n, capability):
    """The kernel of fits by exact derivatives of ``fun(x, r, i, t, y)``, as `Code`."""
    from numadam._least_squares import device

    kernel = device.kernel_for(fun, (False, True), n, n, np.dtype("f8"), False)
    with compiler_of(COMPILERS[0], capability, {}) as (cuda, t):
        line, rows, blocks, memory = (t.Array(t.float64, axes, "C") for axes in (1, 2, 3, 4))
        points, counts = (t.Array(t.int64, axes, "C") for axes in (1, 2))
        types = t.void(
            t.UniTuple(t.int64, 8),
            t.UniTuple(t.float64, 4),
            t.Tuple((rows, rows, rows, points)),
            t.Tuple((counts, rows, blocks, rows, blocks)),
            t.Tuple((blocks, memory)),
            t.Tuple((line, rows)),
        )
        given = {"device": False, "abi": "numba", "output": "ptx"}
        ptx, _ = cuda.compile(kernel.py_func, types, cc=capability, **given)
    return Code(ptx if isinstance(ptx, str) else ptx.decode(), capability)


class Code:
    """What a compiler makes of a kernel: PTX without the mangled names, and the assembler's."""

    def __init__(self, ptx, capability=(9, 0)):
        self._ptx, self._capability = ptx, capability
        assert f".target sm_{capability[0]}{capability[1]}" in ptx
        self.text = re.sub(r"\b_Z\w+", "name", ptx)  # which may spell anything

    @classmethod
    def of(cls, kernel, capability=(9, 0), compiler=COMPILERS[0]):
        from numadam._cuda.compiler import letters_of, ptx_of

        with compiler_of(compiler, capability, kernel.scope(lambda function: function)) as given:
            ptx, name = ptx_of(kernel, capability, *given)
        head = re.search(rf"\.entry {name}\((.*?)\)", ptx, re.DOTALL)[1]
        declared = re.findall(r"\.param \.(\w+)(?: \.\w+)*(?: \.align \d+)? \w+", head)
        assert declared == [WIDTHS[letter] for letter in letters_of(kernel)]
        return cls(ptx, capability)

    def machine_code(self):
        """What a GPU runs, disassembled: one instruction a line."""
        from numadam._cuda.compiler import cubin_of

        return disassembled(cubin_of(self._ptx, self._capability)[0])

    def assembled(self):
        """Registers of a thread, and bytes of its stack and its spills."""
        from numadam._cuda.compiler import cubin_of

        _, log = cubin_of(self._ptx, self._capability)
        said = r"Used (\d+) registers", r"(\d+) bytes stack frame", r"(\d+) bytes spill stores"
        return tuple(int(re.search(line, log)[1]) for line in said)

    def check(self, most=64):
        """Roots and quotients are rounded correctly, and a thread has no memory of its own."""
        for word in (".local", "call", ".ftz"):
            assert word not in self.text
        assert not re.search(r"sqrt\.(?!rn)", self.text)
        assert not re.search(r"div\.(?!rn|[su](32|64))", self.text)  # integers have other suffixes
        registers, *in_memory = self.assembled()
        assert in_memory == [0, 0]
        assert registers <= most  # so that 1024 threads fit

    def accesses(self, word):
        """Number of reads ("ld") or writes ("st") of the GPU's memory."""
        # the compiler knows that all memory is the GPU's own
        assert not re.search(r"\b(ld|st)\.(?!global|param|shared)", self.text)
        return len(re.findall(rf"\b{word}\.global\.\w+", self.text))


def disassembled(image):
    """Instructions of a cubin by nvdisasm, of its package or else of the system."""
    root = importlib.util.find_spec("nvidia")
    places = [Path(place) / "cu13" / "bin" for place in root.submodule_search_locations or ()]
    path = os.pathsep.join([*map(str, places), os.environ["PATH"]])
    program = shutil.which("nvdisasm", path=path)
    if program is None:
        extras.stop("cuda", f"nvdisasm is not installed: {install_command('test-cuda')}")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(image)
        file.flush()
        shown = subprocess.run(
            [program, "-c", file.name], check=True, capture_output=True, text=True
        ).stdout
    # functions that it calls, where a root or a quotient is denormal, have sections of their own
    (own,) = (part for part in shown.split("\t.section\t") if part.startswith(".text._Z"))
    return re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?!\s|NOP)(.*?);", own, re.MULTILINE)


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
