"""Files of arrays: NumPy's `.npz`, written beside the old file, then put in its place."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import stat
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from numadam._arrays.formatting import brief


class CheckpointError(ValueError):
    """A file is not a checkpoint that numadam can read, or does not fit the optimiser or run.

    The message names the file and what is wrong with it, and nothing has been changed. A file
    that is absent or cannot be opened raises an `OSError`, as everywhere in Python.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numadam as na
    >>> file = Path(tempfile.mkdtemp()) / "run.npz"
    >>> _ = file.write_bytes(b"something else")
    >>> try:
    ...     na.load(file)
    ... except na.CheckpointError as error:
    ...     print(str(error).partition(": ")[2])
    not a checkpoint of numadam, or damaged: File is not a zip file.
    """


@contextmanager
def about_file(path: Any) -> Iterator[None]:
    """Errors of what a file holds, as `CheckpointError` with its path."""
    try:
        yield
    except CheckpointError:
        raise
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{os.fsdecode(path)}: {error}") from error
    except (LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise CheckpointError(
            f"{os.fsdecode(path)}: holds what numadam does not write ({error!r})."
        ) from error


# --- replacement of a file as a whole ------------------------------------------------------------
# The new content goes to a temporary file beside it, to the disk, and only then under the name.

#: Bytes of a name that a temporary name repeats; file systems take 255 in all.
_LONGEST_NAME = 200
#: Seconds without a write after which a temporary file is taken for that of a killed writer.
_OLD = 600
#: End of a temporary name: process, random digits.
_OWNER = re.compile(r"\d+-[0-9a-f]{8}\.tmp")
#: Errors of systems that have no fsync of a folder, as PostgreSQL knows them.
_NO_SYNC = (errno.EACCES, errno.EBADF, errno.EINVAL)


@contextmanager
def replacing(path: str | os.PathLike[Any]) -> Iterator[IO[bytes]]:
    """A new file for writing, which takes the place of `path` at the end of the block.

    Then it is on the disk. It has the permissions of the file that it replaces, or those that
    `open` gives a new one. A symbolic link stays: the file that it points to is replaced.
    """
    target, mode = _target(path)
    name = os.fsencode(target.name)
    stem = f".{target.name if len(name) <= _LONGEST_NAME else f'{zlib.crc32(name):08x}'}."
    _remove_leftovers(target.parent, stem)
    temporary = target.with_name(f"{stem}{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            if mode is not None:
                temporary.chmod(mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)
    except BaseException as error:
        with suppress(OSError):  # there is none after the move
            temporary.unlink()
            error.add_note(f"{target} was not saved: it is as it was.")
        raise


def check_writable(path: str | os.PathLike[Any]) -> None:
    """Refuse a path that `replacing` could not write to."""
    tempfile.TemporaryFile(dir=_target(path)[0].parent).close()


def _target(path: str | os.PathLike[Any]) -> tuple[Path, int | None]:
    """The file to be replaced, without links, and its permissions; None where there is none."""
    target = Path(os.path.realpath(os.fsdecode(path)))
    try:
        found = target.lstat().st_mode
    except FileNotFoundError:
        return target, None
    if stat.S_ISDIR(found):
        code, text = errno.EISDIR, "is a folder: give the name of a file in it"
    elif not stat.S_ISREG(found):
        code, text = errno.EINVAL, "is no regular file"
    elif not os.access(target, os.W_OK):
        code, text = errno.EACCES, "is write-protected"
    else:
        return target, found & 0o777
    raise OSError(code, text, str(target))


def _remove_leftovers(folder: Path, stem: str) -> None:
    """Remove temporary files of a target that killed writers have left."""
    with suppress(OSError), os.scandir(folder) as entries:  # those of another user, too, may stay
        for entry in entries:
            ours = entry.name.startswith(stem) and _OWNER.fullmatch(entry.name, len(stem))
            if ours and time.time() - entry.stat().st_mtime > _OLD:
                Path(entry).unlink()


def _sync_folder(folder: Path) -> None:
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
# Arrays are members `NAME.npy`, all else is one member of JSON. zip's checksum does not say who has
# made a file: so sizes are compared with those of the file before memory is taken.

#: Version of the format that is written, and the newest that is read.
VERSION = 2
_JSON = "numadam.json"
#: Bytes of JSON; all that is made of it takes 80 times as many at most.
LONGEST_JSON = 1 << 22
#: Bytes of the header of an array; one of numbers has 118.
_LONGEST_HEADER = 1_000
#: Bytes that are read at a time.
_CHUNK_BYTES = 1 << 20
_DTYPE_KINDS = "biufc"
_BAD = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
#: Kinds of files, and what has saved them.
_SAVED_BY = {
    "optimizer": "an optimiser",
    "minimize": "numadam.minimize",
    "minimize_many": "numadam.minimize_many",
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


def name_fault(name: str) -> str:
    """Why a name cannot be that of an array in a file; "" where it can."""
    if _BAD.search(name):
        return "has a control character or half of a character"
    if ".." in name.split("/"):
        return "has the part '..'"
    if zipfile.ZipInfo(name).filename != name:  # Windows
        return "has a backslash"
    return ""


def write(path: str | os.PathLike[Any], content: Container) -> None:
    """Write a file as a whole: at any moment its path has the old or the new one, complete.

    All of it is checked before anything is written. Arrays are written as they are at the time:
    who may change them meanwhile has to be kept from it by the caller.
    """
    for name, array in content.arrays.items():
        fault = name_fault(name)
        if fault:
            raise ValueError(f"arrays: the name {name!r} {fault}; a file cannot hold it.")
        if array.dtype.kind not in _DTYPE_KINDS:
            raise TypeError(
                f"arrays[{name!r}]: expected a NumPy array of numbers, got {brief(array)}."
            )
    head = {"version": VERSION, **content._asdict(), "arrays": len(content.arrays)}
    text = json.dumps(head, separators=(",", ":")).encode()
    if len(text) > LONGEST_JSON:
        raise ValueError(f"meta: {len(text):,} bytes are too many; long lists belong into arrays.")
    with replacing(path) as file:
        try:
            _write_archive(file, text, content.arrays)
        except ValueError as error:  # zipfile's own, where an interrupt came between two arrays
            interrupt = error.__context__
            raise error if interrupt is None else interrupt from None


def _write_archive(file: IO[bytes], text: bytes, arrays: dict[str, np.ndarray]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        # of one date, so that equal contents give equal files
        archive.writestr(zipfile.ZipInfo(_JSON), text)
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def read(path: str | os.PathLike[Any], kind: str) -> Container:
    """Read and check a file that `write` has written."""
    check_path(path)
    place = Path(os.fsdecode(path))
    found = place.stat()
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise CheckpointError(f"{place}: no regular file.")
    with about_file(path), place.open("rb") as file:
        if file.read(23)[8:] == b'{"__metadata__"':
            raise ValueError("was saved by an earlier numadam, as safetensors: load it with that.")
        try:
            with zipfile.ZipFile(file) as archive:
                return _content(archive, os.fstat(file.fileno()).st_size, kind)
        except (OSError, MemoryError, ValueError):
            raise
        except Exception as error:  # of zipfile, JSON or NumPy, by what damage has made of it
            text = str(error) or type(error).__name__
            raise ValueError(f"not a checkpoint of numadam, or damaged: {text}.") from error


def _content(archive: zipfile.ZipFile, size: int, kind: str) -> Container:
    """Content of an open file of so many bytes."""
    members = {info.filename: info for info in archive.infolist()}
    if sum(info.file_size for info in members.values()) > size:
        raise ValueError(f"not whole: says that it has more than its {size:,} bytes.")
    for name, info in members.items():
        stored = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
        if not stored or info.file_size != info.compress_size or info.header_offset < 0:
            raise ValueError(f"{name!r} is compressed or damaged: numadam does not write it so.")
    if _JSON not in members:
        raise ValueError(f"not a checkpoint of numadam: has no {_JSON}.")
    info = members.pop(_JSON)
    if info.file_size > LONGEST_JSON:
        raise ValueError(f"{info.file_size:,} bytes of {_JSON} are too many.")
    head = json.loads(archive.read(info))
    if head["version"] > VERSION:
        raise ValueError(
            f"has version {head['version']} of the format, and this numadam reads up to "
            f"{VERSION}: upgrade numadam."
        )
    if head["kind"] != kind:
        its = _SAVED_BY.get(head["kind"], head["kind"])
        raise ValueError(f"was saved by {its}, not by {_SAVED_BY.get(kind, kind)}.")
    if not isinstance(head["meta"], dict) or head["arrays"] != len(members):
        raise ValueError(f"not whole: has {len(members)} arrays of {head['arrays']}.")
    arrays = {name.removesuffix(".npy"): _array(archive, members[name]) for name in members}
    return Container(kind, head["meta"], arrays)


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """An array whose header fits its bytes, in the machine's byte order; zipfile checks the sum."""
    with archive.open(info) as member:
        if np.lib.format.read_magic(member) != (1, 0):
            raise ValueError(f"{info.filename!r} has a header that numadam does not write.")
        header = np.lib.format.read_array_header_1_0(member, _LONGEST_HEADER)
        (shape, fortran, dtype), nbytes = header, info.file_size - member.tell()
        right = dtype.kind in _DTYPE_KINDS and min(shape, default=0) >= 0
        if not right or prod(shape) * dtype.itemsize != nbytes:
            raise ValueError(f"{info.filename!r} has {nbytes} bytes, not {dtype} of shape {shape}.")
        array = np.empty(shape, dtype, "F" if fortran else "C")
        data = array.reshape(-1, order="A").view(np.uint8)
        for at in range(0, nbytes, _CHUNK_BYTES):
            chunk = data[at : at + _CHUNK_BYTES]
            chunk[...] = np.frombuffer(member.read(chunk.size), np.uint8)
    return np.asarray(array, dtype.newbyteorder("="), order="C")


def check_path(path: str | os.PathLike[Any]) -> None:
    """Refuse an empty path, which would be the current folder."""
    if not os.fsdecode(path):
        raise ValueError("path: is empty. Give the name of a file.")
