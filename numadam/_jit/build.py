"""Compile the text of a loop by Numba: once, for one signature, and kept on the disk.

Numba's own cache does not see that a formula changed in another file, and a file of it that is
damaged fails in every later process. Here an entry is one file, named by a hash of everything that
it depends on, written whole and checked when it is read.
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
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeVar

import numba
import numpy as np
from numba import config, njit

from numadam._jit import private, process
from numadam._jit.reports import logger, reported, warn_once
from numadam._version import __version__

Kind = TypeVar("Kind")

# --- what code depends on ------------------------------------------------------------------------

_PACKAGE = Path(__file__).parents[1]
#: Packages whose source may be compiled.
_COMPILED = ("_core", "_cpu", "_cuda", "_jit", "_least_squares", "_minimize", "nopython", "rules")
_VERSIONS = (sys.version, numba.__version__, private.LLVMLITE, np.__version__)
#: Settings of Numba that change the code that it makes.
_SETTINGS = (
    *("OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "LOOP_VECTORIZE", "SLP_VECTORIZE"),
    "USING_SVML",  # Intel's functions, in a library that may be gone later
)


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


def hashed(*parts: object) -> str:
    """The hash of parts, of the source and of all versions: a word for names of files."""
    whole = repr((parts, _VERSIONS, source_stamp()))
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def _told(x: Any, name: str) -> Any:
    """What tells a value that a text reads by `name` from all others; of closures, their cells."""
    x = getattr(x, "py_func", x)
    if x is None or isinstance(x, (bool, int, float, str, np.generic, np.dtype)):
        return repr(x)
    if isinstance(x, (tuple, numba.types.Type)):
        return str(x) if not isinstance(x, tuple) else [_told(item, name) for item in x]
    if isinstance(x, ModuleType):
        return x.__name__
    if not hasattr(x, "__qualname__"):
        raise TypeError(f"{name}: a text cannot read {x!r}, which no other process has.")
    cells = [cell.cell_contents for cell in getattr(x, "__closure__", None) or ()]
    told = [_told(cell, name) for cell in cells]
    return x.__module__, x.__qualname__, getattr(x, "_fields", ()), told


# --- files ---------------------------------------------------------------------------------------

#: Files that are kept, 20 to 200 kB each: those of old versions go.
MOST_FILES = 1000


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


def signed(name: str, content: bytes) -> bytes:
    """All bytes of a file: a hash of its name and content, and the content."""
    return hashlib.sha256(name.encode() + content).digest() + content


def read(name: str) -> bytes | None:
    """The content of a file, or None where there is no whole one."""
    for folder in folders():
        try:
            stored = (folder / name).read_bytes()
        except OSError:
            continue
        # truncated, damaged, or another's file: compiled again, and written over
        if signed(name, stored[32:]) == stored:
            return stored[32:]
    return None


def write(name: str, content: bytes) -> str:
    """Write a file under a temporary name, then move it into place; why not, if it is not kept."""
    folder = directory()
    if folder is None:
        return f"no folder can be written ({'; '.join(refused)})"
    _remove_old(folder)
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
        return f"{folder} could not be written to ({error.strerror})"
    return ""


#: Seconds after which a temporary file has no writer any more; one writes for less than one.
_LEFT_OVER = 3600.0
_TEMPORARY = re.compile(r"-[0-9a-f]{32}-\d+-[0-9a-f]{8}[.]tmp$")


@functools.cache
def _remove_old(folder: Path) -> None:
    """Remove the files that were written first, where there are too many, and killed writers'.

    By age, for they may be other hosts'. Files of a clock that was ahead go first: they would
    outlast all that come now.
    """
    now = time.time()

    def written(path: Path) -> float:
        then = path.stat().st_mtime
        return then if then < now + _LEFT_OVER else 0.0

    with contextlib.suppress(OSError):  # another process removes them, too
        left = [path for path in folder.glob("*.tmp") if _TEMPORARY.search(path.name)]
        for path in [path for path in left if written(path) < now - _LEFT_OVER]:
            path.unlink(missing_ok=True)
        files = sorted(folder.glob("*.loop"), key=written)
        for path in files[: max(0, len(files) - MOST_FILES)]:
            path.unlink(missing_ok=True)


# --- compiling -----------------------------------------------------------------------------------

#: What was compiled or loaded in this process, by the name of its file. The results keep the code.
_results: dict[str, Any] = {}

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
) -> Callable[..., Any]:
    """Compile a function of a text for one signature, or load it from the disk.

    Parameters
    ----------
    name : str
        First words of the names of its file and module.
    text : str
        A whole module, whose helpers have their decorators and whose `entry` has none.
    scope : mapping
        The names that the text reads: modules, classes of named tuples, numbers, intrinsics.
        Python functions (formulas, say) are compiled, under names of their own: Numba would take
        one for another where they are closures of the same code.
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

    Returns
    -------
    callable
        The compiled function itself: it converts numbers, never compiles, and does not check the
        types of arrays.
    """
    result = _result(
        name, text, scope, signature, entry=entry, parallel=parallel, keep=keep, shown=shown
    )
    callable_result: Callable[..., Any] = result.entry_point
    return callable_result


def address(*what: Any, **how: Any) -> int:
    """Compile as `compiled` does: the address of the function, for calls from compiled code."""
    return private.address(_result(*what, **how))


def _result(
    name: str,
    text: str,
    scope: Mapping[str, Any],
    signature: Any,
    *,
    entry: str,
    parallel: bool = False,
    keep: bool = True,
    shown: str = "",
) -> Any:
    """What Numba has compiled, or what the disk had."""
    refuse_without_jit()
    if parallel:
        numba.get_num_threads()  # starts the threads: from this one, as tbb asks at a fork
    told = sorted((word, _told(value, word)) for word, value in scope.items()) if keep else []
    key = hashed(name, text, told, str(signature), entry, parallel)
    if key not in _results:

        def make() -> str:
            with process.compile_lock():
                if key in _results:  # another thread was faster
                    return ""
                function = _function(f"{name}_{key}", text, scope, entry)
                how = njit(parallel=parallel, nogil=True, error_model="numpy")
                _results[key], why = _made(key, how(function), signature, shown or name, keep)
                return why

        unkept = in_thread(make)
        if unkept:
            warn_once(unkept)  # here: the warning names the user's line
    return _results[key]


def _function(module: str, text: str, scope: Mapping[str, Any], entry: str) -> Any:
    """The function of a text, in a module that code from the disk is loaded into."""
    made = ModuleType(module)
    own = {name: _own(x, module) for name, x in scope.items() if isinstance(x, FunctionType)}
    vars(made).update({**scope, **own, "njit": njit})
    sys.modules[module] = made
    exec(compile(text, f"<{module}>", "exec"), vars(made))
    return vars(made)[entry]


def _own(function: FunctionType, module: str) -> Any:
    """A function for one module: symbols of the same name are one for the linker.

    Numba names them after the function and a counter of the process. Closures share the first, and
    code from the disk brings the counter of another process.
    """
    if function.__module__.partition(".")[0] == "numba":
        return function
    rest = function.__name__, function.__defaults__, function.__closure__
    copy = FunctionType(function.__code__, function.__globals__, *rest)
    copy.__module__ = function.__module__
    copy.__qualname__ = f"{function.__name__}_{module}"
    return njit(error_model="numpy")(copy)


def _made(key: str, function: Any, signature: Any, shown: str, keep: bool) -> tuple[Any, str]:
    """A function loaded or compiled, reported, and why it is not kept though it should be."""
    settings = [str(getattr(config, setting)) for setting in _SETTINGS]
    file = f"{shown.partition('-')[0]}-{hashed(key, settings, private.processor(function))}.loop"
    result = _loaded(function, read(file)) if keep else None
    if result is not None:
        logger.debug("loaded %s", shown)
        return result, ""
    with reported(shown, directory() if keep else None) as report:
        function.compile(signature)
        (result,) = function.overloads.values()
        unkept = write(file, private.reduced(result)) if keep else ""
        if unkept:
            report.folder = None
    return result, unkept


def _loaded(function: Any, content: bytes | None) -> Any:
    if content is None:
        return None
    try:
        return private.rebuilt(function, pickle.loads(content))
    except Exception:  # another build of Numba may raise anything: compiled again
        return None


def in_thread(work: Callable[[], Kind]) -> Kind:
    """Do something in a thread of its own: an exception in this one ends the wait, not the work.

    Numba and LLVM hand objects over in several calls. An exception between two of them, of Ctrl-C
    or of a timeout by SIGALRM, say, crashes the process.
    """
    done, results, errors = threading.Lock(), list[Kind](), list[BaseException]()
    done.acquire()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # raised where it is waited for
            errors.append(error)
        done.release()

    threading.Thread(target=run, name="numadam: compiling").start()
    while not done.acquire(timeout=_LOOK):
        process.refuse_cut_off()
    if errors:
        raise errors.pop()
    return results.pop()
