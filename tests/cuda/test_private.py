"""Names of other packages that the GPU path takes though they are not public."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numadam

PACKAGE = Path(numadam.__file__).parent
#: All of them: each may go with a release, and is tried with the newest.
NAMES = {
    "numba_cuda",
    "numba.cuda.dispatcher",
    "numba.cuda.cudadrv.error.CCSupportError",
    "numba.cuda.cudadrv.error.CudaSupportError",
    "numba.cuda.cudadrv.error.NvvmSupportError",
    "numba.cuda.cudadrv.nvvm.NVVM",
    "cupy.cuda.function",  # its CNumpyArray
}
_PRIVATE = r"numba\.(cuda\.|core|np|misc)|numba_cuda|llvmlite|cupy\.cuda\.function"


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_private_names_stand_in_one_file():
    own = {path: set(imported(path)) for path in (PACKAGE / "_cuda").glob("*.py")}
    own[PACKAGE / "_minimize" / "device.py"] = set(imported(PACKAGE / "_minimize" / "device.py"))
    found = {
        path.name: {name for name in names if re.match(_PRIVATE, name)}
        for path, names in own.items()
    }
    assert found.pop("private.py") == NAMES
    assert not any(found.values())
    assert len(NAMES) <= 8
