"""Names of other packages that are not public: all stand in one file, with a reason each."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

import numadam

PACKAGE = Path(numadam.__file__).parent
#: The file of all, and that of the GPU.
HOME, GPU = PACKAGE / "_jit" / "private.py", PACKAGE / "_cuda" / "private.py"
#: Each may go with a release: the next one is tried before it comes.
NAMES = {
    "llvmlite.binding.get_host_cpu_name",
    "llvmlite.ir",
    "numba.core.cgutils",
    "numba.core.compiler",
    "numba.core.registry.cpu_target",
    "numba.core.typed_passes.type_inference_stage",
    "numba.misc.appdirs.user_cache_dir",
    "numba.np.ufunc.parallel",
    "scipy.optimize._numdiff",
}
NAMES_OF_GPU = {
    "cupy.cuda.function",  # its CNumpyArray
    "numba.cuda.cudadrv.error.CCSupportError",
    "numba.cuda.cudadrv.error.CudaSupportError",
    "numba.cuda.cudadrv.error.NvvmSupportError",
    "numba.cuda.cudadrv.nvvm.NVVM",
    "numba.cuda.dispatcher",
    "numba_cuda",
}
#: The lock of Numba's compiler, where it is loaded: a forked child asks, which imports nothing.
LOADED = {PACKAGE / "_jit" / "process.py": {"numba.core.compiler_lock"}}
ATTRIBUTES = {"_can_compile", "_get_num_threads", "_getvalue"}
#: Of the standard library, whose changes Python announces.
STANDARD = {
    "_asdict",
    "_exit",
    "_field_defaults",
    "_fields",
    "_getframe",
    "_make",
    "_option_string_actions",
    "_replace",
}
_INNER = r"numba\.(?:cuda\.\w+\.|core|np|misc)"
_OF_GPU = r"numba\.cuda\.dispatcher|numba_cuda|cupy\.cuda\.function"
_PRIVATE = re.compile(rf"{_INNER}|{_OF_GPU}|llvmlite|(\w+\.)+_[a-z]")


@cache
def nodes(path):
    return list(ast.walk(ast.parse(path.read_text())))


def imported(path):
    """Names that a file imports from other packages."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {"numadam", *sys.stdlib_module_names}
    return {name for name in found if name.partition(".")[0] not in ours}


def told(path):
    """Private modules that a file names in a text."""
    texts = {node.value for node in nodes(path) if isinstance(node, ast.Constant)}
    return {x for x in texts if isinstance(x, str) and re.fullmatch(rf"({_INNER})[\w.]*", x)}


def attributes(path):
    """Attributes that begin with one underscore."""
    names = (node.attr for node in nodes(path) if isinstance(node, ast.Attribute))
    return {name for name in names if re.match("_[a-z]", name)}


def defined(path):
    """Names that a file itself gives to something."""
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.ImportFrom | ast.Import):
            yield from (alias.asname or alias.name for alias in node.names)


def test_private_names_of_other_packages_stand_in_one_file():
    found = {path: set(filter(_PRIVATE.match, imported(path))) for path in PACKAGE.rglob("*.py")}
    assert found.pop(HOME) == NAMES
    assert found.pop(GPU) == NAMES_OF_GPU
    assert not {str(path): names for path, names in found.items() if names}
    assert {path: names for path in PACKAGE.rglob("*.py") if (names := told(path))} == LOADED
    assert len(NAMES) + len(LOADED) <= 12
    assert len(NAMES_OF_GPU) <= 8


def test_attributes_of_others_with_an_underscore_stand_in_one_file():
    files = [*PACKAGE.rglob("*.py")]
    ours = STANDARD.union({"_hash"}, *map(defined, files))  # set by `object.__setattr__`
    found = {path: attributes(path) - ours for path in files}
    assert found.pop(HOME) == ATTRIBUTES
    assert not {str(path): names for path, names in found.items() if names}
