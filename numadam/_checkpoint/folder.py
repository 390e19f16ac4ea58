"""A checkpoint of several ranks: a folder with a file of each, its shard, and an index of them.

A save writes new shards beside those of the last one: their names begin with a random number, its
*generation*. The index names one generation, and is replaced last, as a whole. So the folder holds
one complete checkpoint at any moment, the old one or the new one. A shard is locked until the index
is there: the next save knows those that a killed one has left.

Nothing here communicates: `together.py` does, for ranks that save and load at once.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from numadam._checkpoint import replace
from numadam._checkpoint.container import Container, Reader, write_new
from numadam._checkpoint.errors import CheckpointError
from numadam._checkpoint.index import INDEX, Index, current_generation, shard_name, write_index

_SHARD = re.compile(r"([0-9a-f]{16})-(\d{1,10})\.safetensors")


class NewShard:
    """The file of this rank, while a save is on its way.

    Attributes
    ----------
    awaits_index : bool
        Whether an index may name it already.
    """

    def __init__(self, folder: Path, generation: str, rank: int) -> None:
        self._folder, self._open = folder, ExitStack()
        self._generation, self._rank = generation, rank
        self._path = folder / shard_name(generation, rank)
        self.awaits_index = False

    def write(self, ranks: int, arrays: dict[str, np.ndarray]) -> tuple[int, int]:
        """Write it to the disk; its size and checksum. It stays open, and so locked.

        Raises
        ------
        OSError
            From the system, and where another program saves into the folder.
        """
        meta = {"generation": self._generation, "rank": self._rank, "ranks": ranks}
        file = self._created()
        nbytes, crc32 = write_new(replace.NewFile(file), Container("shard", meta, arrays))
        replace.sync(file.fileno())
        replace.sync_folder(self._folder)
        return nbytes, crc32

    def _created(self) -> IO[bytes]:
        """The new file, locked."""
        file = self._open.enter_context(self._path.open("xb", buffering=0))
        if replace.lock(file) is False or not self._path.exists():
            raise OSError(
                f"{self._folder}: another program saves into this folder. Give each its own."
            )
        return file

    def close(self) -> None:
        """Close it: from now on it is the index that says whether it counts."""
        self._open.close()

    def discard(self) -> None:
        """Remove it, if no index names it: the save has failed."""
        try:
            named = self.awaits_index and current_generation(self._folder) == self._generation
        except (OSError, CheckpointError):
            named = True  # maybe: then it is a leftover, for the next save to remove
        if replace.fcntl is None:
            self._open.close()  # Windows removes no file that is open
        if not named:
            _remove(self._path)
        self._open.close()


def make_folder(path: str | os.PathLike[Any]) -> Path:
    """The folder of a checkpoint, made where there is none; what killed saves left is removed.

    Raises
    ------
    OSError
        Where it cannot be made, or is no folder.
    """
    folder = Path(os.path.realpath(os.fsdecode(path)))
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            f"{folder}: is a file, and several ranks save into a folder. Give another name."
        )
    if not folder.exists():
        folder.mkdir()
        replace.sync_folder(folder.parent)
    replace.check_writable(folder / INDEX)
    remove_leftovers(folder)
    return folder


def commit(folder: Path, index: Index) -> None:
    """Write the index: from then on the folder holds this checkpoint, and no other.

    Raises
    ------
    OSError
        Where it cannot be written, or a shard is not there as its rank has written it.
    """
    for rank, nbytes in enumerate(index.nbytes.tolist()):
        path = folder / shard_name(index.generation, rank)
        found = path.stat().st_size if path.exists() else -1
        if found != nbytes:
            raise OSError(
                f"{folder}: rank {rank} has written its file, and rank 0 does not see it. Save "
                "into a folder that all ranks share."
            )
    write_index(folder, index)


def remove_leftovers(folder: Path) -> None:
    """Remove shards that the index does not name, except those that somebody writes now."""
    with suppress(OSError, CheckpointError):  # of a damaged index nobody knows what it names
        current, found = current_generation(folder), dict[str, list[int]]()
        for name in os.listdir(folder):  # noqa: PTH208  # thousands of files: no objects
            match = _SHARD.fullmatch(name)
            if match and match[1] != current:
                found.setdefault(match[1], []).append(int(match[2]))
        for generation, ranks in found.items():
            with suppress(OSError):
                _remove_generation(folder, generation, sorted(ranks))


def remove_replaced(folder: Path, generation: str | None) -> None:
    """Remove the shards that the index named before it was replaced."""
    with suppress(OSError, CheckpointError):
        if generation is None or current_generation(folder) == generation:
            return
        for name in os.listdir(folder):  # noqa: PTH208  # as above
            if name.startswith(f"{generation}-") and _SHARD.fullmatch(name):
                _remove(folder / name)


def _remove_generation(folder: Path, generation: str, ranks: list[int]) -> None:
    """Remove what is there of a generation, but nothing that the index names, now or later.

    Rank 0 writes the index, and its own shard is locked until then. With that lock it is enough to
    see once that the index names another generation; without it, after the lock of each file.
    """
    paths = {rank: folder / shard_name(generation, rank) for rank in ranks}
    first = paths.pop(0, None)
    with ExitStack() as held:
        if first is not None:
            file = held.enter_context(first.open("r+b"))
            if not _is_free(file, first) or current_generation(folder) == generation:
                return
        for path in paths.values():
            with path.open("r+b") as file:
                free = _is_free(file, path)
            if free and (first is not None or current_generation(folder) != generation):
                _remove(path)
    if first is not None:
        _remove(first)


def _is_free(file: IO[bytes], path: Path) -> bool:
    """Whether nobody writes this file any more."""
    locked = replace.lock(file)
    return replace.is_old(path) if locked is None else locked


def _remove(path: Path) -> None:
    with suppress(OSError):  # another was faster, or it is another user's file
        path.unlink()


class Shards:
    """The shards of a folder, of which one at a time is open."""

    def __init__(self, path: str | os.PathLike[Any], index: Index) -> None:
        self._folder, self._index = Path(os.fsdecode(path)), index

    def check_sizes(self, ranks: Iterable[int]) -> None:
        """Refuse shards that are missing, are no files, or have another size."""
        for rank in ranks:
            path = self._path(rank)
            try:
                found = path.lstat()
            except FileNotFoundError:
                raise CheckpointError(
                    f"{path}: is missing, the file of rank {rank} of {self._index.ranks}. Copy the "
                    "whole folder."
                ) from None
            if not stat.S_ISREG(found.st_mode):
                raise CheckpointError(f"{path}: is a link or the like, and no regular file.")
            if found.st_size != self._index.nbytes[rank]:
                raise CheckpointError(
                    f"{path}: not whole: has {found.st_size:,} bytes, and the index says "
                    f"{self._index.nbytes[rank]:,}."
                )

    @contextmanager
    def open(self, rank: int) -> Iterator[Shard]:
        """The shard of one rank, whose header is what the index says."""
        self.check_sizes(range(rank, rank + 1))
        path = self._path(rank)
        with path.open("rb", buffering=0) as file:
            reader = Reader(file, os.fstat(file.fileno()).st_size, str(path), "shard")
            expected = {
                "generation": self._index.generation,
                "rank": rank,
                "ranks": self._index.ranks,
            }
            if reader.meta != expected or reader.crc32 != self._index.sums[rank]:
                raise CheckpointError(
                    f"{path}: is not the file that belongs to this index. Copy the whole folder."
                )
            self._check_arrays(reader, rank, path)
            yield Shard(reader, path)

    def _check_arrays(self, reader: Reader, rank: int, path: Path) -> None:
        saved = {}
        for name, code, lengths, is_complex, _ in reader.header.entries:
            saved[name] = code, is_complex, lengths[:-1] if is_complex else lengths
        for name, (code, is_complex, cut) in self._index.arrays.items():
            found = saved.pop(name, None)
            shape = self._index.cuts[cut].of(rank).shape if cut else None
            if (
                found is None
                or found[:2] != (code, is_complex)
                or (shape is not None and shape != found[2])
            ):
                raise CheckpointError(f"{path}: {name!r} is not as the index says.")
        if saved:
            raise CheckpointError(f"{path}: {min(saved)!r} is not in the index.")

    def _path(self, rank: int) -> Path:
        return self._folder / shard_name(self._index.generation, rank)


class Shard(NamedTuple):
    """An open shard."""

    reader: Reader
    path: Path

    def array(self, name: str) -> np.ndarray:
        """One of its arrays, new and checked."""
        return self.reader.array(name)

    @property
    def names(self) -> list[str]:
        """Names of its arrays."""
        return [entry.name for entry in self.reader.header.entries]
