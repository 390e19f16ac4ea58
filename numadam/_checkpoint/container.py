"""A checkpoint as a file: what it holds, and how it is written and read."""

from __future__ import annotations

import json
import os
import stat
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from numadam._checkpoint import storage
from numadam._checkpoint.errors import CheckpointError
from numadam._checkpoint.header import (
    LONGEST,
    LONGEST_META,
    Entry,
    Header,
    crc32_text,
    fill,
    header_sum,
    name_fault,
    read_header,
    render,
)
from numadam._checkpoint.replace import NewFile, replacing

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

    Attributes
    ----------
    kind : str
        Of what it is the state: "optimizer", "minimize", "minimize_many"; "shard" and "index" are
        files of a folder (`folder.py`).
    meta : dict
        None, bool, int, float (inf and nan, too), str, and lists and dicts of them. Keys are
        strings. Floats come back to the last bit.
    arrays : dict of str to NumPy arrays
        By plain names such as "p/w", in any memory layout. Those of `read` are new, contiguous in
        C order, and nobody else's.
    """

    kind: str
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]


def write(path: str | os.PathLike[Any], content: Container) -> None:
    """Write a file as a whole: at any moment its path has the old or the new one, complete.

    All of it is checked before anything is written. Arrays are written as they are at the time:
    who may change them meanwhile has to be kept from it by the caller.

    Raises
    ------
    TypeError
        `meta` or `arrays` has something that a file cannot hold.
    ValueError
        A name cannot be that of an array in a file, or a header becomes too long.
    OSError
        From the system, with a note on what has become of the old file.
    """
    planned = _planned(content)
    with replacing(path) as file:
        _write_planned(file, content.arrays, *planned)


def write_new(file: NewFile, content: Container) -> tuple[int, int]:
    """Write to a new file that is open; its bytes, and the checksum that its header has."""
    return _write_planned(file, content.arrays, *_planned(content))


def _planned(content: Container) -> tuple[Header, int]:
    """The header of a content without checksums, and its length; all that is written is checked."""
    if content.kind not in _SAVED_BY:
        raise ValueError(f"kind: expected one of {', '.join(_SAVED_BY)}, got {content.kind!r}.")
    arrays = content.arrays
    entries = [_entry(name, array) for name, array in arrays.items()]
    header = Header(content.kind, _meta_text(content.meta), entries)
    length = len(render(header))
    if length > LONGEST:
        raise ValueError(f"arrays: {len(arrays):,} names are too many for one file.")
    return header, length


def _write_planned(
    file: NewFile, arrays: dict[str, np.ndarray], header: Header, length: int
) -> tuple[int, int]:
    file.seek(length)
    buffer = np.empty(storage.CHUNK_BYTES, np.uint8)
    sums = {e.name: _write_array(file, arrays[e.name], buffer) for e in header.in_file_order}
    file.seek(0)
    summed = [entry._replace(crc32=sums[entry.name]) for entry in header.entries]
    head = render(header._replace(entries=summed))
    file.write(memoryview(head))
    return length + header.nbytes, header_sum(head)


def read(path: str | os.PathLike[Any], kind: str) -> Container:
    """Read and check a file that `write` has written.

    The header is checked before memory is taken for arrays, and never more than the file has.

    Raises
    ------
    CheckpointError
        It is no such file, of another kind or a newer version, or damaged.
    OSError
        It does not exist or cannot be read.
    """
    file_name = os.fsdecode(path)
    found = Path(file_name).stat()
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise CheckpointError(f"{file_name}: no regular file.")
    with Path(file_name).open("rb", buffering=0) as file:
        return read_open(file, os.fstat(file.fileno()).st_size, file_name, kind)


def read_open(file: IO[bytes], size: int, name: str, kind: str) -> Container:
    """The same for an open file of so many bytes; `name` is for error messages."""
    reader = Reader(file, size, name, kind)
    arrays = {entry.name: reader.next_array(entry) for entry in reader.header.in_file_order}
    return Container(kind, reader.meta, {e.name: arrays[e.name] for e in reader.header.entries})


class Reader:
    """An open file of so many bytes whose header has been read and checked.

    Attributes
    ----------
    header : Header
    crc32 : int
        Checksum of the header, which has those of the arrays.
    meta : dict
    """

    def __init__(self, file: IO[bytes], size: int, name: str, kind: str) -> None:
        self.header, self.crc32 = read_header(file, size, name)
        self._file, self._name = file, name
        if self.header.kind != kind:
            raise CheckpointError(
                f"{name}: was saved by {_SAVED_BY.get(self.header.kind, self.header.kind)}, not by "
                f"{_SAVED_BY.get(kind, kind)}."
            )
        try:
            if len(self.header.meta) > LONGEST_META:
                raise ValueError(f"its key meta has {len(self.header.meta):,} characters")
            meta = json.loads(self.header.meta)
        except (ValueError, RecursionError) as error:  # checksums do not say who has made them
            raise CheckpointError(f"{name}: forged header: {error}.") from error
        if not isinstance(meta, dict):
            raise CheckpointError(f"{name}: forged header: its key meta is no object of JSON.")
        self.meta: dict[str, Any] = meta
        self._first = size - self.header.nbytes  # byte of the data

    def array(self, name: str) -> np.ndarray:
        """The array of this name, checked."""
        at = self._first
        for entry in self.header.in_file_order:
            if entry.name == name:
                self._file.seek(at)
                return self.next_array(entry)
            at += entry.nbytes
        raise CheckpointError(f"{self._name}: has no array {name!r}.")

    def next_array(self, entry: Entry) -> np.ndarray:
        """The array whose data come next in the file, checked."""
        return _read_array(self._file, entry, self._name)


def _entry(name: str, array: Any) -> Entry:
    if not isinstance(name, str):
        raise TypeError(f"arrays: expected names of type str, got {name!r}.")
    fault = name_fault(name)
    if fault:
        raise ValueError(f"arrays: the name {name!r} {fault}; a file cannot hold it.")
    code, is_complex = storage.code_of(array, name)
    return Entry(name, code, (*array.shape, 2) if is_complex else array.shape, is_complex)


def _meta_text(meta: dict[str, Any]) -> str:
    _check_json(meta, "meta")
    text = json.dumps(meta, separators=(",", ":"))
    if len(text) > LONGEST_META:
        raise ValueError(f"meta: {len(text):,} bytes are too many; long lists belong into arrays.")
    return text


def _check_json(value: Any, where: str) -> None:
    """Refuse what would come back as something else."""
    if value is None or type(value) in (bool, int, float, str):
        return
    if type(value) is dict:
        for key, one in value.items():
            if type(key) is not str:
                raise TypeError(f"{where}: expected keys of type str, got {key!r}.")
            _check_json(one, f"{where}[{key!r}]")
    elif type(value) is list:
        for i, one in enumerate(value):
            _check_json(one, f"{where}[{i}]")
    else:
        raise TypeError(f"{where}: {type(value).__name__} is no type of JSON.")


def _write_array(file: NewFile, array: np.ndarray, buffer: np.ndarray) -> str:
    """Write the data of an array; its checksum."""
    crc = 0
    for chunk in storage.chunks(array, buffer):
        crc = zlib.crc32(chunk, crc)
        file.write(chunk)
    return crc32_text(crc)


def _read_array(file: IO[bytes], entry: Entry, path: str) -> np.ndarray:
    try:
        array = storage.new_array(entry.code, entry.shape, entry.is_complex)
    except ValueError as error:  # more axes than this NumPy has
        raise CheckpointError(f"{path}: {entry.name!r}: {error}.") from error
    crc = 0
    for chunk in storage.as_bytes(array):
        fill(file, chunk, path)
        crc = zlib.crc32(chunk.data, crc)
    if crc32_text(crc) != entry.crc32:
        raise CheckpointError(
            f"{path}: damaged: the checksum of {entry.name!r} is wrong. Use another copy of the "
            "file."
        )
    if entry.code == "BOOL" and any((chunk > 1).any() for chunk in storage.as_bytes(array)):
        raise CheckpointError(f"{path}: {entry.name!r} is bool, but not of zeros and ones.")
    storage.to_native(array)
    return array
