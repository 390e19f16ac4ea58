"""Files of arrays: written beside the old one, then put in its place."""

from __future__ import annotations

import ctypes
import errno
import functools
import json
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
from typing import IO, Any, NamedTuple

import numpy as np

from numadam._checkpoint import storage
from numadam._checkpoint.header import (
    CHARACTERS_A_BRACKET,
    FEW_BRACKETS,
    LONGEST,
    LONGEST_META,
    Entry,
    Header,
    crc32_text,
    fill,
    name_fault,
    read_header,
    render,
)
from numadam._checkpoint.storage import CheckpointError

# --- replacement of a file as a whole ------------------------------------------------------------
# The new content goes to a temporary file beside it, to the disk, and only then under the name. A
# temporary file is locked while its writer lives. So the next writer knows those that a killed one
# has left, in another container or on another host, too, where a process number means nothing.

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
    Exceptions get a note on what has become of the old and the new file.
    """
    target = Path(os.path.realpath(os.fsdecode(path)))
    mode = _check_target(target)
    new: os.stat_result | None = None
    try:
        _remove_leftovers(target)
        with _created(target, mode) as (file, temporary):
            new = os.fstat(file.fileno())
            yield NewFile(file)
            sync(file.fileno())
            if fcntl is None:
                file.close()  # Windows moves no file that is open
            temporary.replace(target)
        sync_folder(target.parent)
    except BaseException as error:
        error.add_note(_note(target, mode, new))
        raise


def check_writable(path: str | os.PathLike[Any]) -> None:
    """Refuse a path that `replacing` could not write to: a temporary file is made and removed."""
    target = Path(os.path.realpath(os.fsdecode(path)))
    with _created(target, _check_target(target)) as (file, temporary):
        if fcntl is None:
            file.close()  # Windows removes no file that is open
        temporary.unlink()


def _note(target: Path, mode: int | None, new: os.stat_result | None) -> str:
    with suppress(OSError):
        if new is not None and os.path.samestat(target.stat(), new):
            return f"{target} is the new file, complete; after a power cut it may be the old one."
    old = "does not exist" if mode is None else "is as it was"
    return f"{target} was not saved: it {old}, and nothing is left of the new file."


def _check_target(target: Path) -> int | None:
    """Permissions of the file to be replaced; None where there is none."""
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
def _created(target: Path, mode: int | None) -> Iterator[tuple[IO[bytes], Path]]:
    """A new, locked temporary file and its path; an error in the block removes it."""
    opener = functools.partial(os.open, mode=0o666 if mode is None else 0o600)
    while True:
        path = target.with_name(f"{_stem(target)}{os.getpid()}-{secrets.token_hex(4)}.tmp")
        try:
            with open(path, "xb", buffering=0, opener=opener) as file:  # for opener=
                # another writer may have found and removed it before it was locked
                if lock(file) is not False and path.exists():
                    if mode is not None:
                        path.chmod(mode)
                    yield file, path
                    return
        except BaseException:
            with suppress(OSError):  # the first error is the one to show
                path.unlink()
            raise


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


# --- a checkpoint as a file ----------------------------------------------------------------------

#: Kinds of files, and what has saved them.
_SAVED_BY = {
    "optimizer": "an optimiser",
    "minimize": "numadam.minimize",
    "minimize_many": "numadam.minimize_many",
    "shard": "one rank of several, whose folder is what to load",
    "index": "several ranks, whose folder is what to load",
}


class Container(NamedTuple):
    """Content of a file.

    `kind` is a key of `_SAVED_BY`. `meta` is JSON, with inf and nan: floats come back to the last
    bit, tuples as lists. `arrays` are by plain names such as "p/w", in any memory layout; those of
    `read` are new and contiguous in C order.
    """

    kind: str
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]


def write(path: str | os.PathLike[Any], content: Container) -> None:
    """Write a file as a whole: at any moment its path has the old or the new one, complete.

    All of it is checked before anything is written. Arrays are written as they are at the time:
    who may change them meanwhile has to be kept from it by the caller. An OSError has a note on
    what has become of the old file.
    """
    planned = _planned(content)
    with replacing(path) as file:
        _write_planned(file, content.arrays, *planned)


def write_new(file: NewFile, content: Container) -> tuple[int, int]:
    """Write to a new file that is open; its bytes, and the checksum that its header has."""
    return _write_planned(file, content.arrays, *_planned(content))


def _planned(content: Container) -> tuple[Header, int]:
    """The header of a content without checksums, and its length; all that is written is checked."""
    entries = [_entry(name, array) for name, array in content.arrays.items()]
    meta = json.dumps(content.meta, separators=(",", ":"))
    _check_size(meta)
    header = Header(content.kind, meta, entries)
    length = len(render(header)[0])
    if length > LONGEST:
        raise ValueError(f"arrays: {len(entries):,} names are too many for one file.")
    return header, length


def _write_planned(
    file: NewFile, arrays: dict[str, np.ndarray], header: Header, length: int
) -> tuple[int, int]:
    file.seek(length)
    buffer = np.empty(storage.CHUNK_BYTES, np.uint8)
    sums = {e.name: _write_array(file, arrays[e.name], buffer) for e in header.in_file_order}
    file.seek(0)
    summed = [entry._replace(crc32=sums[entry.name]) for entry in header.entries]
    head, crc32 = render(header._replace(entries=summed))
    file.write(memoryview(head))
    return length + header.nbytes, crc32


def read(path: str | os.PathLike[Any], kind: str) -> Container:
    """Read and check a file that `write` has written.

    The header is checked before memory is taken for arrays, and never more than the file has.
    """
    file_name = os.fsdecode(path)
    found = Path(file_name).stat()
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise CheckpointError(f"{file_name}: no regular file.")
    with opened(file_name, kind) as reader:
        return reader.content()


@contextmanager
def opened(path: str | Path, kind: str) -> Iterator[Reader]:
    """A file of this kind that is open; its header has been checked."""
    with Path(path).open("rb", buffering=0) as file:
        yield Reader(file, os.fstat(file.fileno()).st_size, str(path), kind)


class Reader:
    """An open file of so many bytes whose header has been read and checked.

    `crc32` is the checksum of the header, which has those of the arrays. `path` is for messages.
    """

    def __init__(self, file: IO[bytes], size: int, path: str, kind: str) -> None:
        self.header, self.crc32 = read_header(file, size, path)
        self._file, self.path = file, path
        if self.header.kind != kind:
            raise CheckpointError(
                f"{path}: was saved by {_SAVED_BY.get(self.header.kind, self.header.kind)}, not by "
                f"{_SAVED_BY.get(kind, kind)}."
            )
        try:
            _check_size(self.header.meta)
            meta = json.loads(self.header.meta)
        except (ValueError, RecursionError) as error:  # checksums do not say who has made them
            raise CheckpointError(f"{path}: forged header: {error}.") from error
        if not isinstance(meta, dict):
            raise CheckpointError(f"{path}: forged header: its key meta is no object of JSON.")
        self.meta: dict[str, Any] = meta
        self._entries = {entry.name: entry for entry in self.header.entries}
        self._begins, self._data = self.header.begins, size - self.header.nbytes

    def array(self, name: str) -> np.ndarray:
        """The array of this name, new and checked."""
        entry = self._entries[name]
        self._file.seek(self._data + self._begins[name])
        try:
            array = storage.new_array(entry.code, entry.shape, entry.is_complex)
        except ValueError as error:  # more axes than this NumPy has
            raise CheckpointError(f"{self.path}: {name!r}: {error}.") from error
        crc = 0
        for chunk in storage.as_bytes(array):
            fill(self._file, chunk, self.path)
            crc = zlib.crc32(chunk.data, crc)
        if crc32_text(crc) != entry.crc32:
            raise CheckpointError(
                f"{self.path}: damaged: the checksum of {name!r} is wrong. Use another copy of the "
                "file."
            )
        if entry.code == "BOOL" and any((chunk > 1).any() for chunk in storage.as_bytes(array)):
            raise CheckpointError(f"{self.path}: {name!r} is bool, but not of zeros and ones.")
        storage.to_native(array)
        return array

    def content(self) -> Container:
        """All of the file, checked."""
        arrays = {entry.name: self.array(entry.name) for entry in self.header.in_file_order}
        ordered = {name: arrays[name] for name in self._entries}
        return Container(self.header.kind, self.meta, ordered)


def _entry(name: str, array: Any) -> Entry:
    fault = name_fault(name)
    if fault:
        raise ValueError(f"arrays: the name {name!r} {fault}; a file cannot hold it.")
    code, is_complex = storage.code_of(array, name)
    return Entry(name, code, (*array.shape, 2) if is_complex else array.shape, is_complex)


def _check_size(meta: str) -> None:
    """Refuse a `meta` that takes more memory than is promised: empty lists take most."""
    brackets = meta.count("[") + meta.count("{")
    if len(meta) > LONGEST_META or brackets > FEW_BRACKETS + len(meta) // CHARACTERS_A_BRACKET:
        raise ValueError(
            f"meta: {len(meta):,} characters, {brackets:,} of them brackets, are too many; long "
            "lists belong into arrays"
        )


def _write_array(file: NewFile, array: np.ndarray, buffer: np.ndarray) -> str:
    """Write the data of an array; its checksum."""
    crc = 0
    for chunk in storage.chunks(array, buffer):
        crc = zlib.crc32(chunk, crc)
        file.write(chunk)
    return crc32_text(crc)


def check_path(path: str | os.PathLike[Any]) -> None:
    """Refuse an empty path, which would be the current folder."""
    if not os.fsdecode(path):
        raise ValueError("path: is empty. Give the name of a file.")
