"""Compile the text of a loop by Numba: once, for one signature, and kept on the disk.

A text is a module of its own in a folder, and Numba keeps its code beside it. Numba's cache does
not see that a formula changed in another file, fails for ever where a file of it is damaged, and
mixes up signatures that processes add at once. So the module's name is a hash of all that the code
depends on, it has one function and one signature, and files that do not load are removed.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import importlib.metadata
import os
import re
import secrets
import shutil
import sys
import tempfile
import threading
import time

# One C call: where an exception comes in `threading.Thread.start`, the thread may hang
from _thread import start_new_thread
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeVar

import numba
import numpy as np
from numba import config, njit

from numadam._jit import private
from numadam._jit.process import compile_lock, refuse_lost, wait_for_compiling
from numadam._jit.reports import logger, reported, warn_once
from numadam._version import __version__

Kind = TypeVar("Kind")

# --- what code depends on ------------------------------------------------------------------------

_PACKAGE = Path(__file__).parents[1]
#: Packages whose source may be compiled.
_COMPILED = ("_core", "_cpu", "_cuda", "_jit", "_least_squares", "_minimize", "nopython", "rules")
#: Settings of Numba that change its code. Intel's functions are in a library that may go.
_SETTINGS = ["CPU_NAME", "CPU_FEATURES", "OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT"]
_SETTINGS += ["LOOP_VECTORIZE", "SLP_VECTORIZE", "USING_SVML"]
#: Names of what is kept begin so.
PREFIX = "numadam_text_"


@functools.cache
def source_stamp() -> str:
    """A hash of the version and of all source that may be compiled."""
    digest = hashlib.sha256(__version__.encode())
    if not _PACKAGE.is_dir():  # imported from a zip file: all of it is the source
        archive = next(path for path in _PACKAGE.parents if path.is_file())
        return hashlib.sha256(digest.digest() + archive.read_bytes()).hexdigest()
    for path in sorted(path for name in _COMPILED for path in (_PACKAGE / name).rglob("*.py")):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _versions() -> tuple[str, ...]:
    packages = ("numba", "llvmlite", "numpy")
    return sys.version, *map(importlib.metadata.version, packages), private.PROCESSOR


def hashed(*parts: object) -> str:
    """The hash of parts, of the source and of all versions: a word for names of files."""
    settings = [getattr(config, name) for name in _SETTINGS]
    whole = repr((parts, _versions(), settings, source_stamp()))
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def _marks(x: Any, name: str) -> Any:
    """Marks of a value that a text reads by `name`; of a closure those of its cells, too."""
    x = getattr(x, "py_func", x)
    if x is None or isinstance(x, (bool, int, float, str, np.generic, np.dtype)):
        return repr(x)
    if isinstance(x, (tuple, numba.types.Type)):
        return str(x) if not isinstance(x, tuple) else [_marks(item, name) for item in x]
    if isinstance(x, ModuleType):
        return x.__name__
    if not hasattr(x, "__qualname__"):
        raise TypeError(f"{name}: a text cannot read {x!r}, which no other process has.")
    cells = [cell.cell_contents for cell in getattr(x, "__closure__", None) or ()]
    inner = [_marks(cell, name) for cell in cells]
    return x.__module__, x.__qualname__, getattr(x, "_fields", ()), inner


# --- files ---------------------------------------------------------------------------------------

#: Modules that are kept, 20 to 200 kB each: those of old versions go.
MOST_MODULES = 1000


@functools.cache
def folders() -> list[Path]:
    """Folders that may hold files: of `NUMBA_CACHE_DIR`, else the package's and the user's.

    All are read, as a container image or an administrator may have filled one that this process
    cannot write to.
    """
    if config.CACHE_DIR:
        return [Path(config.CACHE_DIR) / "numadam"]
    places = [_PACKAGE / "__pycache__", Path(private.USER_CACHE) / "__pycache__"]
    # without a home it is "~/.cache" in whatever folder the program runs in
    return [folder for folder in places if folder.is_absolute()]


#: Folders that cannot be written, each with the reason.
refused: list[str] = []


@functools.cache
def directory() -> Path | None:
    """The first of `folders` that can be written; None: every process compiles."""
    refused.clear()
    for folder in folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError as error:
            refused.append(f"{folder}: {error.strerror}")
    return None


def _write(path: Path, text: str) -> None:
    """Write a file under a temporary name, then move it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)  # somebody may have emptied the cache
    temporary = path.with_name(f"{path.name}.tmp.{secrets.token_hex(8)}")  # as Numba names its own
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _files(folder: Path, module: str = f"{PREFIX}*") -> list[Path]:
    """Numba's files for modules of a folder: below it or, with `NUMBA_CACHE_DIR`, beside it."""
    beside = folder.parent.glob(f"{folder.name}_*/{module}.*")
    return [*folder.glob(f"__pycache__/{module}.*"), *beside]


@contextlib.contextmanager
def _folder_for(module: str) -> Iterator[Path]:
    """A folder to load a module from and to keep it in.

    Numba reads no file where it cannot write. A module that another folder has, which an image or
    an administrator has filled, is copied; where nothing can be written, for as long as it takes.
    """
    folder = directory()
    filled = [other for other in folders() if other != folder and _files(other, module)]
    with contextlib.ExitStack() as stack:
        if folder is None:
            if not filled:
                raise OSError(f"no folder can be written ({'; '.join(refused)})")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _remove_old(folder)
        if filled and not _files(folder, module):
            (folder / "__pycache__").mkdir(parents=True, exist_ok=True)
            for file in _files(filled[0], module):
                shutil.copy(file, folder / "__pycache__")
            # with its date: older releases of Numba know a source by it
            shutil.copy2(filled[0] / f"{module}.py", folder)
        yield folder


#: Seconds after which a temporary file has no writer any more; one writes for less than one.
LEFT_OVER = 3600.0


@functools.cache
def _remove_old(folder: Path) -> None:
    """Remove the modules that were written first, where there are too many.

    And files of killed writers: by age, for they may be other hosts'. Files of a clock that was
    ahead go first: they would outlast all that come now.
    """
    now = time.time()

    def written(path: Path) -> float:
        then = path.stat().st_mtime
        return then if then < now + LEFT_OVER else 0.0

    with contextlib.suppress(OSError):  # another process removes them, too
        files = [*folder.glob(f"{PREFIX}*"), *_files(folder)]
        for path in [path for path in files if ".tmp." in path.name]:
            if written(path) < now - LEFT_OVER:
                path.unlink(missing_ok=True)
        kernels = folder.glob(f"{PREFIX}*.cubin")  # of a GPU: one file each
        modules = sorted([*folder.glob(f"{PREFIX}*.py"), *kernels], key=written)
        for path in modules[: max(0, len(modules) - MOST_MODULES)]:
            for file in [path, *_files(folder, path.stem)]:
                file.unlink(missing_ok=True)


# --- compiling -----------------------------------------------------------------------------------

#: What was compiled or loaded in this process, by the name of its module; it keeps the code alive.
_made: dict[str, Any] = {}

# LLVM would end the process that takes its memory away in the middle
atexit.register(wait_for_compiling)

#: Of functions that compiled code alone calls: without wrappers for Python and C, a fifth of the
#: time to compile is saved.
INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

#: Seconds between two looks whether a fork has lost the thread that compiles.
_LOOK = 0.2


def refuse_without_jit() -> None:
    if config.DISABLE_JIT:
        raise RuntimeError(
            "NUMBA_DISABLE_JIT is set, but numadam's loops exist only compiled: unset it, or set "
            "it only for the process that you debug."
        )


def compiled(
    name: str,
    text: str,
    scope: Mapping[str, Any],
    signature: Any,
    *,
    entry: str,
    parallel: bool = False,
    keep: bool = True,
    shown: str = "",
    nogil: bool = True,
) -> Callable[..., Any]:
    """Compile a function of a text for one signature, or load it from the disk.

    Parameters
    ----------
    name : str
        First words of the name of its module.
    text : str
        A whole module, whose helpers have their decorators and whose `entry` has none.
    scope : mapping
        The names that the text reads: modules, classes of named tuples, numbers, intrinsics.
        Python functions (formulas, say) are compiled, under names of their own.
    signature : numba signature
        Types of the arguments and of the result.
    entry : str
        The function of the text.
    parallel : bool
        Whether Numba spreads its ``prange`` loops over threads.
    keep : bool
        Whether it is kept on the disk. Without, `name` tells it from all others of its text.
    shown : str
        What reports call it; its name unless said otherwise.
    nogil : bool
        Whether other threads of Python run meanwhile: for a short function, taking the GIL back
        may take longer than all they could do.

    Returns
    -------
    callable
        The compiled function itself: it converts numbers, never compiles, and does not check the
        types of arrays.
    """
    text_of = _Text(name, text, scope, signature, entry, parallel, keep, shown, nogil)
    dispatcher = text_of.made()
    function: Callable[..., Any] = dispatcher.get_overload(signature)
    return function


def address(name: str, text: str, scope: Mapping[str, Any], signature: Any, **how: Any) -> int:
    """Compile as `compiled` does: the address of the function, for `numadam._jit.calls`."""
    result = _Text(name, text, scope, signature, **how).made().overloads[signature.args]
    return private.address(result)


@dataclass
class _Text:
    """A text that is compiled: the arguments of `compiled`, and the name of its module."""

    name: str
    text: str
    scope: Mapping[str, Any]
    signature: Any
    entry: str
    parallel: bool = False
    keep: bool = True
    shown: str = ""
    nogil: bool = True
    module: str = ""

    def made(self) -> Any:
        """The compiled dispatcher, once a process."""
        refuse_without_jit()
        if self.parallel:
            numba.get_num_threads()  # starts the threads: from this one, as tbb asks at a fork
        scope = self.scope if self.keep else {}
        marks = sorted((name, _marks(x, name)) for name, x in scope.items())
        how = self.parallel, self.nogil
        key = hashed(self.text, marks, str(self.signature), self.entry, how)
        words = re.sub("[^a-z0-9]+", "_", self.name.lower())
        self.module, self.shown = f"{PREFIX}{words}_{key}", self.shown or self.name
        if self.module not in _made:
            unkept = in_thread(self._make)
            if unkept:
                warn_once(unkept)  # here: the warning names the user's line
        return _made[self.module]

    def _make(self) -> str:
        """Make it; why it is not kept, though it should be."""
        unkept = ""
        with compile_lock():
            if self.module in _made:  # another thread was faster
                return ""
            if self.keep:
                try:
                    with _folder_for(self.module) as folder:
                        _made[self.module] = self._kept(folder)
                except (OSError, RuntimeError) as error:  # Numba finds no place
                    unkept = str(error)
            if self.module not in _made:
                with reported(self.shown, None):
                    _made[self.module] = self._compiled(f"<{self.module}>", cache=False)
        return unkept

    def _kept(self, folder: Path) -> Any:
        """Load it from a folder, or compile it there."""
        path = folder / f"{self.module}.py"
        if not path.is_file() or path.read_text() != self.text:
            _write(path, self.text)
        files = _files(folder, self.module)
        if files:
            try:
                dispatcher = self._compiled(str(path), cache=True)
                hit = dispatcher.stats.cache_hits
                (logger.debug if hit else logger.info)(
                    "%s %s", "loaded" if hit else "compiled", self.shown
                )
                return dispatcher
            except Exception:  # a damaged file may raise anything
                for file in files:
                    file.unlink(missing_ok=True)
        with reported(self.shown, folder):
            return self._compiled(str(path), cache=True)

    def _compiled(self, file: str, cache: bool) -> Any:
        how = {"parallel": self.parallel, "nogil": self.nogil, "error_model": "numpy"}
        return njit(self.signature, cache=cache, **how)(self._function(file))

    def _function(self, file: str) -> Any:
        """The function of the text, in a module that code from the disk is loaded into."""
        module = ModuleType(self.module)
        vars(module).update(self.scope, njit=njit)
        for name, x in self.scope.items():
            if isinstance(x, FunctionType) and not x.__module__.startswith("numba."):
                vars(module)[name] = njit(error_model="numpy", **INNER)(self._own(x))
        sys.modules[self.module] = module
        exec(compile(self.text, file, "exec"), vars(module))
        return vars(module)[self.entry]

    def _own(self, function: FunctionType) -> FunctionType:
        """A function under a name of this module's: symbols of the same name are one for LLVM.

        Numba names them after the function and a counter of the process. Closures share the first,
        and code from the disk brings the counter of another process.
        """
        rest = function.__name__, function.__defaults__, function.__closure__
        copy = FunctionType(function.__code__, function.__globals__, *rest)
        copy.__module__ = function.__module__
        copy.__qualname__ = f"{function.__name__}_{self.module}"
        return copy


def in_thread(work: Callable[[], Kind]) -> Kind:
    """Do something in a thread of its own: an exception in this one ends the wait, not the work.

    Numba and LLVM hand objects over in several calls. An exception between two of them, of Ctrl-C
    or of a timeout by SIGALRM, say, crashes the process.
    """
    done, results, errors = threading.Lock(), list[Kind](), list[BaseException]()
    done.acquire()

    def run() -> Iterator[None]:
        try:
            yield  # the thread begins here: an exception set for its maker may be its own at once
            results.append(work())
        except BaseException as error:  # raised where it is waited for
            errors.append(error)
        finally:
            done.release()

    process, running = os.getpid(), run()
    next(running)
    start_new_thread(next, (running, None))
    while not done.acquire(timeout=_LOOK):
        refuse_lost(process)
    if errors:
        raise errors.pop()
    return results.pop()
