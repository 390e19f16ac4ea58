"""Disk cache of compiled loops that is right where Numba's own is not.

Numba keys an entry on the bytecode of one function: it shares one entry between the serial and
the parallel form of a loop, never finds closures again, and does not see a formula that changed
in another file. Its index can point at another process's entry. Here each loop is one file, named
by a hash of everything that it depends on, written whole and checked when read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import secrets
import time
from pathlib import Path
from typing import Any

from numba.core import compiler
from numba.core.caching import _Cache
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

from numadam._jit import build
from numadam._jit.build import LEFT_OVER, directory, folders, refused, setting_values
from numadam._jit.reports import Compiling, logger, reported, warn_once

#: First word of the names of loops of users' formulas. Of these, and of objectives, so many are
#: kept, 20 to 200 kB each: one that is edited or made anew around other data is another entry.
OWN, MOST_ENTRIES = "own", 500


def entry(name: str, key: object) -> str:
    """The file name of a loop that depends on `key`."""
    return f"{name}-{build.hashed(key)}.loop"


def remove_oldest(prefix: str) -> None:
    """Remove the entries of a kind that were written first, where there are too many.

    Those of a clock that was ahead go first: they would outlast all that come now.
    """
    folder, now = directory(), time.time() + LEFT_OVER
    if folder is None:
        return

    def written(path: Path) -> float:
        then = path.stat().st_mtime
        return then if then < now else 0.0

    with contextlib.suppress(OSError):  # another process removes them, too
        found = sorted(folder.glob(f"{prefix}-*.loop"), key=written)
        for path in found[: max(0, len(found) - MOST_ENTRIES)]:
            path.unlink(missing_ok=True)


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


def write(name: str, content: bytes) -> bool:
    """Write an entry under a temporary name, then move it into place; False if it is not kept."""
    folder = directory()
    if folder is None:
        warn_once(f"no folder can be written ({'; '.join(refused)})")
        return False
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
        key = (self._name, self._package, str(signature), codegen.magic_tuple(), setting_values())
        return entry(self._name.split("-")[0], key)

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
