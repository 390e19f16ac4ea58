"""Replacement of a file as a whole: whatever happens, its path has the old or the new one.

The new content goes to a temporary file beside it, to the disk, and only then under the name. A
temporary file is locked while its writer lives. So the next writer knows those that a killed one
has left, in another container or on another host, too, where a process number means nothing.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import re
import secrets
import stat
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any

try:
    fcntl: Any = import_module("fcntl")
except ImportError:  # Windows: it removes no file that is open, which is as good as a lock
    fcntl = None

#: Bytes of a name that a temporary name repeats; file systems take 255 in all.
_LONGEST_NAME = 200
#: Bytes after which the disk is told to begin with them; fewer at a time cost more.
_STARTED_BYTES = 1 << 26
_START = 2  # SYNC_FILE_RANGE_WRITE
#: Seconds after which a temporary file is a leftover, where no lock says so.
_OLD = 3600
#: End of a temporary name: process, random digits.
_OWNER = re.compile(r"\d+-[0-9a-f]{8}\.tmp")
#: Errors of systems that have no fsync of a folder, as PostgreSQL knows them.
_NO_SYNC = (errno.EACCES, errno.EBADF, errno.EINVAL)


class NewFile:
    """A file that is written from its beginning to its end, and once more at its beginning."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._at, self._started = file, 0, 0

    def seek(self, at: int) -> None:
        """Go on at this byte."""
        self._at = self._file.seek(at)

    def write(self, content: memoryview) -> None:
        """Write all of it."""
        while content:
            count = self._file.write(content)  # fewer bytes where the disk is nearly full
            if not count:
                raise OSError(errno.EIO, "the system wrote nothing")
            content = content[count:]
            self._at += count
        # Left to itself Linux begins at the fsync. With checksums computed meanwhile, a save of
        # 1.2 GB reaches 0.72 of the speed of plain writes, 0.60 without (medians, a busy machine).
        if self._at - self._started >= _STARTED_BYTES:
            start = _sync_file_range()
            if start is not None:
                # a refusal means nothing: fsync does all of it, and reports errors
                start(self._file.fileno(), self._started, self._at - self._started, _START)
            self._started = self._at


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Linux's call that starts to write a part of a file to the disk; None elsewhere."""
    if sys.platform != "linux":
        return None
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


@contextmanager
def replacing(path: str | os.PathLike[Any]) -> Iterator[NewFile]:
    """A new file for writing, which takes the place of `path` at the end of the block.

    Then it is on the disk. It has the permissions of the file that it replaces, or those that
    `open` gives a new one. A symbolic link stays: the file that it points to is replaced.

    Raises
    ------
    OSError
        As all other exceptions, with a note on what has become of the old and the new file.
    """
    target = Path(os.path.realpath(os.fsdecode(path)))
    mode = _check_target(target)
    made: list[Path] = []
    new: os.stat_result | None = None
    try:
        _remove_leftovers(target)
        with _created(target, mode, made) as file:
            new = os.fstat(file.fileno())
            yield NewFile(file)
            sync(file.fileno())
            if fcntl is None:
                file.close()  # Windows moves no file that is open
            made[-1].replace(target)
        sync_folder(target.parent)
    except BaseException as error:
        for temporary in made:
            with suppress(OSError):  # the first error is the one to show
                temporary.unlink()
        error.add_note(_note(target, mode, new))
        raise


def check_writable(path: str | os.PathLike[Any]) -> None:
    """Refuse a path that `replacing` could not write to: a temporary file is made and removed.

    Raises
    ------
    OSError
        Of folders, devices, write protection. Permissions alone do not tell.
    """
    target = Path(os.path.realpath(os.fsdecode(path)))
    made: list[Path] = []
    try:
        with _created(target, _check_target(target), made):
            pass
    finally:
        for temporary in made:
            temporary.unlink(missing_ok=True)


def _note(target: Path, mode: int | None, new: os.stat_result | None) -> str:
    with suppress(OSError):
        if new is not None and os.path.samestat(target.stat(), new):
            return f"{target} is the new file, complete; after a power cut it may be the old one."
    old = "does not exist" if mode is None else "is as it was"
    return f"{target} was not saved: it {old}, and nothing is left of the new file."


def _check_target(target: Path) -> int | None:
    """Permissions of the file to be replaced; None where there is none.

    Raises
    ------
    OSError
        It is a folder, a device or the like, or may not be written.
    """
    try:
        found = target.lstat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found):
        code, text = errno.EISDIR, "is a folder: give the name of a file in it"
    elif not stat.S_ISREG(found):
        code, text = errno.EINVAL, "is no regular file"
    elif not os.access(target, os.W_OK):
        code, text = errno.EACCES, "is write-protected"
    else:
        return found & 0o777
    raise OSError(code, text, str(target))


def _stem(target: Path) -> str:
    """Beginning of the names of temporary files of a target."""
    name = os.fsencode(target.name)
    return f".{target.name if len(name) <= _LONGEST_NAME else f'{zlib.crc32(name):08x}'}."


@contextmanager
def _created(target: Path, mode: int | None, made: list[Path]) -> Iterator[IO[bytes]]:
    """A new, locked temporary file; its path comes into `made` before it exists."""
    opener = functools.partial(os.open, mode=0o666 if mode is None else 0o600)
    while True:
        name = f"{_stem(target)}{os.getpid()}-{secrets.token_hex(4)}.tmp"
        made.append(target.with_name(name))
        with open(made[-1], "xb", buffering=0, opener=opener) as file:  # opener
            # another writer may have found and removed it before it was locked
            if lock(file) is not False and made[-1].exists():
                if mode is not None:
                    made[-1].chmod(mode)
                yield file
                return


def lock(file: IO[bytes]) -> bool | None:
    """Lock a file until it is closed.

    False: another process or thread has locked it. None: there are no locks here.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems
        return None
    return True


def _remove_leftovers(target: Path) -> None:
    """Remove temporary files of this target whose writer was killed."""
    stem = _stem(target)
    with suppress(PermissionError):  # a folder that may be written, but not listed
        for name in os.listdir(target.parent):  # noqa: PTH208  # thousands of files: no objects
            if name.startswith(stem) and _OWNER.fullmatch(name, len(stem)):
                _remove_leftover(target.with_name(name))


def _remove_leftover(path: Path) -> None:
    with suppress(OSError):  # another writer was faster, or it is another user's file
        with path.open("r+b") as file:
            locked = lock(file)
            if locked:
                path.unlink()
        if locked is None and is_old(path):
            path.unlink()


def is_old(path: Path) -> bool:
    """Whether a file was last written long ago: a leftover, where no lock says so."""
    return time.time() - path.stat().st_mtime > _OLD


def sync(fd: int) -> None:
    """Bring the content of a file to the disk."""
    # macOS: fsync leaves it in the disk's own cache
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        with suppress(OSError):  # a network disk, which has no such call
            fcntl.fcntl(fd, full)
            return
    os.fsync(fd)


def sync_folder(folder: Path) -> None:
    """Bring the new name to the disk; Windows does without."""
    if os.name != "posix":
        return
    fd = -1
    try:
        fd = os.open(folder, os.O_RDONLY)
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        if fd >= 0:
            os.close(fd)
