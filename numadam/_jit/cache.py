"""Disk cache of compiled loops that is right where Numba's own is not.

Numba keys an entry on the bytecode of one function: it shares one entry between the serial and
the parallel form of a loop, never finds closures again, and does not see a formula that changed
in another file. Its index can point at another process's entry. Here each loop is one file, named
by a hash of everything that it depends on, written whole and checked when read.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import re
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import compiler, config
from numba.core.caching import _Cache
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

from numadam._jit.reports import Compiling, logger, reported, warn_once
from numadam._version import __version__

_PACKAGE = Path(__file__).parents[1]
_CODEGEN = (
    *("OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "LOOP_VECTORIZE", "SLP_VECTORIZE"),
    "USING_SVML",  # Intel's functions, in a library that may be gone later
)

#: Packages whose source may be compiled into a loop, by the package that the loop is in.
_COMPILED = ("_jit", "_core", "rules")
_COMPILED_INTO = {
    "_jit": ("_jit",),
    "_core": _COMPILED,
    "_cpu": (*_COMPILED, "_cpu"),
    "_cuda": (*_COMPILED, "_cuda"),
    "_minimize": (*_COMPILED, "_cpu", "_cuda", "_minimize"),
    "_least_squares": ("_jit", "_minimize", "_least_squares"),
    "nopython": (*_COMPILED, "nopython"),
}


@functools.cache
def source_stamp(package: str) -> str:
    """A hash of the version and of all source that may be compiled into a loop of a package."""
    digest = hashlib.sha256(__version__.encode())
    if not _PACKAGE.is_dir():  # imported from a zip file: all of it is the source
        archive = next(path for path in _PACKAGE.parents if path.is_file())
        return hashlib.sha256(digest.digest() + archive.read_bytes()).hexdigest()
    folders = _COMPILED_INTO[package]
    for path in sorted(path for name in folders for path in (_PACKAGE / name).rglob("*.py")):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


#: First word of the names of loops of users' formulas. Of these, and of objectives, so many are
#: kept, 20 to 200 kB each: one that is edited or made anew around other data is another entry.
OWN, MOST_ENTRIES = "own", 500


@functools.cache
def folders() -> list[Path]:
    """Folders that may hold entries: of `NUMBA_CACHE_DIR`, else the package's and the user's.

    All are read, as a container image or an administrator may have filled one that this process
    cannot write to.
    """
    from numba.misc.appdirs import user_cache_dir

    if config.CACHE_DIR:
        return [Path(config.CACHE_DIR) / "numadam"]
    found = [_PACKAGE / "__pycache__", Path(user_cache_dir("numadam", False)) / "__pycache__"]
    # without a home it is "~/.cache" in whatever folder the program runs in
    return [folder for folder in found if folder.is_absolute()]


#: Folders that cannot be written, each with the reason.
refused: list[str] = []


@functools.cache
def directory() -> Path | None:
    """The first of `folders` that can be written; None: loops are compiled in every process."""
    refused.clear()
    for folder in folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError as error:
            refused.append(f"{folder}: {error.strerror}")
    return None


def entry(name: str, key: object, package: str) -> str:
    """The file name of a loop of a package that depends on `key`."""
    versions = (sys.version, numba.__version__, llvmlite.__version__, np.__version__)
    whole = repr((key, versions, source_stamp(package)))
    return f"{name}-{hashlib.sha256(whole.encode()).hexdigest()[:32]}.loop"


def signed(name: str, content: bytes) -> bytes:
    """All bytes of the file of an entry: a hash of its name and content, and the content."""
    return hashlib.sha256(name.encode() + content).digest() + content


def read(name: str) -> bytes | None:
    """The content of an entry, or None where there is no whole one."""
    for folder in folders():
        try:
            stored = (folder / name).read_bytes()
        except OSError:
            continue
        # truncated, damaged, or another's file: compiled again, and written over
        if signed(name, stored[32:]) == stored:
            return stored[32:]
    return None


#: Seconds after which a temporary file has no writer any more; one writes for less than one.
_LEFT_OVER = 3600.0
_TEMPORARY = re.compile(r"-[0-9a-f]{32}-\d+-[0-9a-f]{8}[.]tmp$")


@functools.cache
def remove_left_over(folder: Path) -> None:
    """Remove temporary files of writers that were killed: by age, for they may be other hosts'."""
    with contextlib.suppress(OSError):  # another process removes them, too
        for path in folder.glob("*.tmp"):
            old = path.stat().st_mtime < time.time() - _LEFT_OVER
            if old and _TEMPORARY.search(path.name):
                path.unlink()


def remove_oldest(prefix: str) -> None:
    """Remove the entries of a kind that were written first, where there are too many.

    Those of a clock that was ahead go first: they would outlast all that come now.
    """
    folder, now = directory(), time.time() + _LEFT_OVER
    if folder is None:
        return

    def written(path: Path) -> float:
        then = path.stat().st_mtime
        return then if then < now else 0.0

    with contextlib.suppress(OSError):  # another process removes them, too
        found = sorted(folder.glob(f"{prefix}-*.loop"), key=written)
        for path in found[: max(0, len(found) - MOST_ENTRIES)]:
            path.unlink(missing_ok=True)


def write(name: str, content: bytes) -> bool:
    """Write an entry under a temporary name, then move it into place; False if it is not kept."""
    folder = directory()
    if folder is None:
        warn_once(f"no folder can be written ({'; '.join(refused)})")
        return False
    remove_left_over(folder)
    path = folder / name
    temporary = path.with_name(f"{path.stem}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)  # somebody may have emptied the cache
            with temporary.open("xb") as file:
                file.write(signed(name, content))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        warn_once(f"{folder} could not be written to ({error.strerror})")
        return False
    return True


def compile_cached(function: Any, name: str, package: str, *signature: Any) -> None:
    """Compile a dispatcher or callback of a package, or load it from the disk; reported."""
    with contextlib.ExitStack() as stack:
        function._cache = LoopCache(name, package, stack)  # noqa: SLF001  # Numba offers no other
        function.compile(*signature)


class LoopCache(_Cache):  # type: ignore[misc]  # Numba has no types for it
    """The cache of one compiled loop of a package, known by `name` (rule, options, dtype).

    `compiling` is open while the loop is compiled; `shown` is its name for people.
    """

    _report: Compiling
    _logger = logger

    def __init__(
        self, name: str, package: str, compiling: contextlib.ExitStack, shown: str = ""
    ) -> None:
        self._name, self._package, self._compiling = name, package, compiling
        self._shown = shown or name
        self.hit = False

    def _entry(self, signature: Any, codegen: Any) -> str:
        settings = [str(getattr(config, key)) for key in _CODEGEN]
        key = (self._name, str(signature), codegen.magic_tuple(), settings)
        return entry(self._name.split("-")[0], key, self._package)

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The compiled loop, or None where there is no whole entry for it."""
        # as Numba's own cache without `refresh`, which loads 0.4 s of what only compiling needs
        rtsys.initialize(target_context)
        data = read(self._entry(signature, target_context.codegen()))
        loop = None if data is None else self._rebuilt(target_context, data)
        self.hit = loop is not None
        if self.hit:
            self._logger.debug("loaded %s", self._shown)
        else:
            report = reported(self._shown, directory(), self._logger)
            self._report = self._compiling.enter_context(report)
        return loop

    def _rebuilt(self, target_context: Any, data: bytes) -> Any:
        try:
            parts = pickle.loads(data)
            rebuild = compiler.CompileResult._rebuild  # noqa: SLF001  # as Numba's own cache
            return rebuild(target_context, *parts) if self._usable(parts) else None
        except Exception:  # another build of Numba may raise anything: compiled again
            return None

    def save_overload(self, signature: Any, data: Any) -> None:
        """Write a compiled loop to the disk."""
        content = dumps(data._reduce())  # noqa: SLF001  # as Numba's own cache
        if not write(self._entry(signature, data.codegen), content):
            self._report.folder = None
        if self._name.startswith(f"{OWN}-"):
            remove_oldest(OWN)

    @staticmethod
    def _usable(parts: Any) -> bool:
        """Whether the parts of an entry can be put together in this process."""
        return True

    @property
    def cache_path(self) -> str:
        """The folder of the entries, as Numba's statistics ask for it."""
        return str(directory() or "")

    def enable(self) -> None:
        """Nothing: it is never disabled, nor flushed."""

    disable = flush = enable
