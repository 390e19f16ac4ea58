"""Disk cache of compiled loops that is right where Numba's own is not.

Numba keys an entry on the bytecode of one function: it shares one entry between the serial and
the parallel form of a loop, never finds closures again, and does not see a formula that changed
in another file. Its index can point at another process's entry. Here each loop is one file, named
by a hash of everything that it depends on, written whole and checked when read.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import secrets
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import compiler, config
from numba.core.caching import _Cache
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

from numadam._version import __version__

_PACKAGE = Path(__file__).parents[1]
_CODEGEN = ("OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "LOOP_VECTORIZE", "SLP_VECTORIZE")

#: Packages whose source may be compiled into a loop, by the package that the loop is in.
_COMPILED = ("_jit", "_core", "rules")
_COMPILED_INTO = {
    "_jit": ("_jit",),
    "_cpu": (*_COMPILED, "_cpu"),
    "_cuda": (*_COMPILED, "_cuda"),
    "_minimize": (*_COMPILED, "_cpu", "_cuda", "_minimize"),
    "nopython": (*_COMPILED, "nopython"),
}


@functools.cache
def source_stamp(package: str) -> str:
    """A hash of the version and of all source that may be compiled into a loop of a package."""
    digest = hashlib.sha256(__version__.encode())
    folders = _COMPILED_INTO[package]
    for path in sorted(path for name in folders for path in (_PACKAGE / name).rglob("*.py")):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def directory() -> Path | None:
    """Folder of the entries: ``NUMBA_CACHE_DIR``, else in the package, else the user's cache.

    None where none of them can be written: loops are then compiled in every process.
    """
    from numba.misc.appdirs import user_cache_dir

    given = config.CACHE_DIR
    places = [Path(given)] if given else [_PACKAGE, Path(user_cache_dir("numadam", False))]
    for place in places:
        folder = place / ("numadam" if given else "__pycache__")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return None


def entry(name: str, key: object, package: str) -> Path | None:
    """The file of a loop of a package that depends on `key`; None where none can be written."""
    folder = directory()
    if folder is None:
        return None
    versions = (sys.version, numba.__version__, llvmlite.__version__, np.__version__)
    whole = repr((key, versions, source_stamp(package)))
    return folder / f"{name}-{hashlib.sha256(whole.encode()).hexdigest()[:32]}.loop"


def read(path: Path | None) -> bytes | None:
    """The content of an entry, or None where there is no whole one."""
    if path is None:
        return None
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    content = stored[32:]
    # truncated or damaged: compiled again, and written over
    return content if hashlib.sha256(content).digest() == stored[:32] else None


def write(path: Path | None, content: bytes) -> None:
    """Write an entry under a temporary name, then move it into place."""
    if path is None:
        return
    temporary = path.with_name(f"{path.stem}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        try:
            with temporary.open("xb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        warnings.warn(
            f"numadam could not keep a compiled loop in {path.parent} ({error}); it will be "
            "compiled again in the next process. Set NUMBA_CACHE_DIR to a writable folder.",
            RuntimeWarning,
            stacklevel=2,
        )


class LoopCache(_Cache):  # type: ignore[misc]  # Numba has no types for it
    """The cache of one compiled loop of a package, known by `name` (rule, options, dtype)."""

    def __init__(self, name: str, package: str) -> None:
        self._name, self._package = name, package
        self._enabled = True
        self.hit = False

    def _path(self, signature: Any, codegen: Any) -> Path | None:
        if not self._enabled:
            return None
        settings = [str(getattr(config, key)) for key in _CODEGEN]
        key = (self._name, str(signature), codegen.magic_tuple(), settings)
        return entry(self._name.split("-")[0], key, self._package)

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The compiled loop, or None where there is no whole entry for it."""
        # as Numba's own cache without `refresh`, which loads 0.4 s of what only compiling needs
        rtsys.initialize(target_context)
        data = read(self._path(signature, target_context.codegen()))
        if data is None:
            return None
        try:
            rebuild = compiler.CompileResult._rebuild  # noqa: SLF001  # as Numba's own cache
            loop = rebuild(target_context, *pickle.loads(data))
        except Exception:  # another build of Numba may raise anything: compiled again
            return None
        self.hit = True
        return loop

    def save_overload(self, signature: Any, data: Any) -> None:
        """Write a compiled loop to the disk."""
        path = self._path(signature, data.codegen)
        if path is not None:
            write(path, dumps(data._reduce()))  # noqa: SLF001  # as Numba's own cache

    @property
    def cache_path(self) -> str:
        """The folder of the entries, as Numba's statistics ask for it."""
        return str(directory() or "")

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        """Forget this loop: its entries of this source are deleted, all signatures."""
        folder = directory()
        if folder is not None:
            for path in folder.glob(f"{self._name.split('-')[0]}-*.loop"):
                path.unlink(missing_ok=True)
