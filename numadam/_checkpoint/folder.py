"""Folders of checkpoints: a file for each rank, and an index of the blocks in them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import numpy as np

from numadam._checkpoint import container, storage
from numadam._checkpoint.container import Container, Reader, opened, read, write, write_new
from numadam._checkpoint.container import CheckpointError, about_file

# --- the index of a folder of shards -------------------------------------------------------------
# It names no file: shards are called by their generation and rank, so nothing leads out of the
# folder. It is a file of the same format as all others, with two arrays that have a number for each
# rank, and one for each array that is cut into parts.
#
# A part is a box, or a range of the elements in C order. A range is a few boxes, too: a part of a
# row, whole rows, a part of a row. So all that is copied from one rank's part into another's is the
# intersection of two boxes.

#: Name of the index in its folder.
INDEX = "index.safetensors"
_GENERATION = re.compile(r"[0-9a-f]{16}")


def shard_name(generation: str, rank: int) -> str:
    """Name of a rank's file in the folder: an index that names no files leads nowhere else."""
    return f"{generation}-{rank}.safetensors"


class Cut(NamedTuple):
    """The part of an array that one rank holds: a box, or, with `flat`, a range in C order.

    `begin` is the index of its first element in the whole array, None where nobody knows; with
    `flat` it is one number, as `shape` is. `whole` is the shape of the whole array; None: what the
    parts of all ranks reach to.
    """

    begin: tuple[int, ...] | None
    shape: tuple[int, ...]
    flat: bool = False
    whole: tuple[int, ...] | None = None


def whole_cut(shape: tuple[int, ...]) -> Cut:
    """The cut of who holds all of an array."""
    return Cut((0,) * len(shape), shape, False, shape)


class Piece(NamedTuple):
    """A box of the whole array, and the place of its first element in the part's C order."""

    begin: tuple[int, ...]
    end: tuple[int, ...]
    at: int

    def of(self, part: np.ndarray, index: tuple[Any, ...] = ()) -> np.ndarray:
        """The view of this box, or of an index into it, in a part that is contiguous in C order."""
        shape = tuple(end - begin for begin, end in zip(self.begin, self.end, strict=True))
        box: np.ndarray = part.reshape(-1)[self.at : self.at + prod(shape)].reshape(shape)
        return box[(*index, ...)]


def _boxes(first: int, last: int, shape: tuple[int, ...]) -> Iterator[Piece]:
    """The boxes of a range of elements in C order: at each place the most whole rows there are."""
    at = first
    while at < last:
        begin = [int(i) for i in np.unravel_index(at, shape)]
        end, size = [i + 1 for i in begin], 1
        for axis in range(len(shape)):
            row = prod(shape[axis + 1 :])
            rows = min((last - at) // row, shape[axis] - begin[axis])
            if at % row == 0 and rows > 0:
                end[axis:] = begin[axis] + rows, *shape[axis + 1 :]
                size = rows * row
                break
        yield Piece(tuple(begin), tuple(end), at - first)
        at += size


def common(piece: Piece, other: Piece) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """The intersection of two boxes as an index into each; None where it is empty."""
    begin = tuple(map(max, piece.begin, other.begin))
    end = tuple(map(min, piece.end, other.end))
    if any(first >= last for first, last in zip(begin, end, strict=True)):
        return None
    return _index(piece, begin, end), _index(other, begin, end)


def _index(piece: Piece, begin: tuple[int, ...], end: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(first - start, last - start)
        for first, last, start in zip(begin, end, piece.begin, strict=True)
    )


class Saved(NamedTuple):
    """An array as all shards have it: dtype of the file, and the name of its cut ("": none)."""

    code: str
    is_complex: bool
    cut: str


class Cuts(NamedTuple):
    """The cuts of all ranks in one whole array; `whole` is None where nobody knows where they lie.

    `boxes`, of int64, has a row for each rank: `begin`, -1 where unknown, then `shape`.
    """

    flat: bool
    whole: tuple[int, ...] | None
    boxes: np.ndarray

    def of(self, rank: int) -> Cut:
        """The part of one rank."""
        begin, shape = (tuple(half.tolist()) for half in np.split(self.boxes[rank], 2))
        return Cut(None if self.whole is None else begin, shape, self.flat, self.whole)

    @property
    def axes(self) -> int:
        """Axes of the whole array."""
        return self.boxes.shape[1] // 2 if self.whole is None else len(self.whole)

    def pieces(self, part: Cut) -> list[Piece]:
        """The boxes of a part; no empty ones."""
        assert self.whole is not None  # who calls has asked
        assert part.begin is not None
        if prod(part.shape) == 0:
            return []
        if part.flat:
            return list(_boxes(part.begin[0], part.begin[0] + part.shape[0], self.whole))
        ends = tuple(begin + n for begin, n in zip(part.begin, part.shape, strict=True))
        return [Piece(part.begin, ends, 0)]

    def meet(self, part: Cut) -> np.ndarray:
        """Which ranks have an element of a part; of ranges some more, never fewer."""
        assert self.whole is not None  # who calls has asked
        found = np.zeros(len(self.boxes), bool)
        begins, shapes = np.hsplit(self.boxes, 2)
        for piece in self.pieces(part):
            begin, end = np.array(piece.begin, np.int64), np.array(piece.end, np.int64)
            if self.flat:
                axes = range(len(self.whole))
                rows = np.array([prod(self.whole[k + 1 :]) for k in axes], np.int64)
                begin, end = (begin @ rows)[None], ((end - 1) @ rows + 1)[None]
            found |= ((begins < end) & (begins + shapes > begin)).all(axis=1)
        return found & (shapes > 0).all(axis=1)


class Index(NamedTuple):
    """Content of the index of a folder: `kind` and `meta` are those of all ranks.

    `nbytes` and `sums`, of int64 and uint32, are the size of each shard, and the checksum that its
    header has, which in turn has all others.
    """

    generation: str
    kind: str
    meta: dict[str, Any]
    arrays: dict[str, Saved]
    cuts: dict[str, Cuts]
    nbytes: np.ndarray
    sums: np.ndarray

    @property
    def ranks(self) -> int:
        """Number of shards."""
        return len(self.nbytes)


def write_index(folder: Path, index: Index) -> None:
    """Write it as a whole."""
    cuts = {
        name: {"flat": cuts.flat, "whole": None if cuts.whole is None else list(cuts.whole)}
        for name, cuts in index.cuts.items()
    }
    meta = {
        "generation": index.generation,
        "kind": index.kind,
        "arrays": {name: list(saved) for name, saved in index.arrays.items()},
        "cuts": cuts,
        "content": index.meta,
    }
    arrays = {"nbytes": index.nbytes, "crc32": index.sums}
    arrays |= {f"cut/{name}": cuts.boxes for name, cuts in index.cuts.items()}
    write(folder / INDEX, Container("index", meta, arrays))


def current_generation(folder: Path) -> str | None:
    """The generation that the index names; None where there is no index."""
    path = folder / INDEX
    try:
        with about_file(path), opened(path, "index") as reader:
            return _generation(reader.meta)
    except FileNotFoundError:
        return None


def _generation(meta: Mapping[str, Any]) -> str:
    found = meta["generation"]
    if not isinstance(found, str) or not _GENERATION.fullmatch(found):
        raise ValueError("its generation is no number of 16 digits")
    return found


def read_index(path: str | os.PathLike[Any], kind: str) -> Index:
    """Read and check the index of a folder."""
    place = Path(os.fsdecode(path)) / INDEX
    if place.parent.is_file():
        raise NotADirectoryError(
            f"{place.parent}: is a file of one process, and several ranks load a folder. Read it "
            "with numadam.load(path) on each rank, and write its part of params and state into "
            "opt.params and opt.state."
        )
    if not place.exists() and place.parent.is_dir():
        raise FileNotFoundError(f"{place}: there is no index, and so no complete checkpoint.")
    content = read(place, "index")
    with about_file(place):
        index = _parsed(content)
        if index.kind != kind:
            raise ValueError(f"has a checkpoint of {index.kind}, not of {kind}.")
        return index


def _parsed(content: Container) -> Index:
    """An index by what its file holds; ValueError and the like where it lies."""
    meta, found = content.meta, content.arrays
    nbytes, sums = found["nbytes"], found["crc32"]
    ranks = nbytes.size
    ok = nbytes.dtype == np.int64 and sums.dtype == np.uint32 and ranks > 0
    if not ok or nbytes.shape != (ranks,) or sums.shape != (ranks,) or (nbytes < 0).any():
        raise ValueError("its sizes or checksums of shards are wrong")
    cuts = {
        name: _parsed_cuts(saved, found[f"cut/{name}"], ranks)
        for name, saved in meta["cuts"].items()
    }
    arrays = {name: Saved(*fields) for name, fields in meta["arrays"].items()}
    for name, array in arrays.items():
        if array.code not in storage.ITEMSIZES or type(array.is_complex) is not bool:
            raise ValueError(f"{name!r} has the unknown dtype {array.code}")
        if array.cut and array.cut not in cuts:
            raise ValueError(f"{name!r} lies nowhere")
    if not isinstance(meta["kind"], str) or not isinstance(meta["content"], dict):
        raise ValueError("does not say what it is a checkpoint of")
    return Index(_generation(meta), meta["kind"], meta["content"], arrays, cuts, nbytes, sums)


def _parsed_cuts(saved: Mapping[str, Any], boxes: np.ndarray, ranks: int) -> Cuts:
    flat, whole = saved["flat"], saved["whole"]
    if type(flat) is not bool or boxes.dtype != np.int64 or boxes.ndim != 2:
        raise ValueError("its parts are none")
    if len(boxes) != ranks or boxes.shape[1] % 2:
        raise ValueError(f"has {ranks} shards and {len(boxes)} parts")
    begins, shapes = np.hsplit(boxes, 2)
    if whole is None:
        if flat or (begins != -1).any() or (shapes < 0).any():
            raise ValueError("has parts that lie nowhere")
        return Cuts(flat, None, boxes)
    if any(type(n) is not int or n < 0 for n in whole) or prod(n for n in whole if n) >= 2**62:
        raise ValueError(f"has a whole array of shape {whole}")
    space = np.array([prod(whole)] if flat else whole, np.int64)
    if begins.shape[1] != len(space) or (boxes < 0).any() or (shapes > space - begins).any():
        raise ValueError(f"has parts outside of a whole array of shape {whole}")
    return Cuts(flat, tuple(whole), boxes)


# --- a checkpoint of several ranks ---------------------------------------------------------------
# A save writes new shards beside those of the last one: their names begin with a random number,
# its *generation*. The index names one generation, and is replaced last, as a whole. So the folder
# holds one complete checkpoint at any moment, the old one or the new one. A shard is locked until
# the index is there: the next save knows those that a killed one has left.
#
# Nothing here communicates: `collective.py` does, for ranks that save and load at once.

_SHARD = re.compile(r"([0-9a-f]{16})-(\d{1,10})\.safetensors")


class NewShard:
    """The file of this rank, while a save is on its way: a context, which removes it on errors.

    `awaits_index` says whether an index may name it already.
    """

    def __init__(self, folder: Path, generation: str, rank: int) -> None:
        self._folder, self._open = folder, ExitStack()
        self._generation, self._rank = generation, rank
        self._path = folder / shard_name(generation, rank)
        self.awaits_index = False

    def __enter__(self) -> Self:
        return self

    def write(self, ranks: int, arrays: dict[str, np.ndarray]) -> tuple[int, int]:
        """Write it to the disk; its size and checksum. It stays open, and so locked."""
        meta = {"generation": self._generation, "rank": self._rank, "ranks": ranks}
        file = self._open.enter_context(self._path.open("xb", buffering=0))
        if container.lock(file) is False or not self._path.exists():
            raise OSError(
                f"{self._folder}: another program saves into this folder. Give each its own."
            )
        nbytes, crc32 = write_new(container.NewFile(file), Container("shard", meta, arrays))
        container.sync(file.fileno())
        container.sync_folder(self._folder)
        return nbytes, crc32

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Close it; where the save has failed, remove it, if no index names it."""
        named = True  # maybe: then it is a leftover, for the next save to remove
        if kind is not None:
            with suppress(OSError, CheckpointError):
                named = self.awaits_index and current_generation(self._folder) == self._generation
        if container.fcntl is None:
            self._open.close()  # Windows removes no file that is open
        if not named:
            _remove(self._path)
        self._open.close()


def make_folder(folder: Path) -> None:
    """Make the folder of a checkpoint, where there is none; remove what killed saves left."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            f"{folder}: is a file, and several ranks save into a folder. Give another name."
        )
    if not folder.exists():
        folder.mkdir()
        container.sync_folder(folder.parent)
    container.check_writable(folder / INDEX)
    remove_leftovers(folder)


def commit(folder: Path, index: Index) -> None:
    """Write the index: from then on the folder holds this checkpoint, and no other."""
    for rank, nbytes in enumerate(index.nbytes.tolist()):
        path = folder / shard_name(index.generation, rank)
        found = path.stat().st_size if path.exists() else -1
        if found != nbytes:
            raise OSError(
                f"{folder}: rank {rank} has written its file, and rank 0 does not see it. Save "
                "into a folder that all ranks share."
            )
    write_index(folder, index)


def remove_leftovers(folder: Path, replaced: str | None = None) -> None:
    """Remove shards that the index does not name, except those that somebody writes now.

    `replaced` is the generation that it named before: nobody writes that.
    """
    with suppress(OSError, CheckpointError):  # of a damaged index nobody knows what it names
        current = current_generation(folder)
        for generation, ranks in _generations(folder).items():
            if generation == replaced != current:
                for rank in ranks:
                    _remove(folder / shard_name(generation, rank))
            elif generation != current:
                with suppress(OSError):
                    _remove_generation(folder, generation, sorted(ranks))


def _generations(folder: Path) -> dict[str, list[int]]:
    """The ranks of the shards in a folder, by generation."""
    found: dict[str, list[int]] = {}
    for name in os.listdir(folder):  # noqa: PTH208  # thousands of files: no objects
        match = _SHARD.fullmatch(name)
        if match:
            found.setdefault(match[1], []).append(int(match[2]))
    return found


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
    locked = container.lock(file)
    return container.is_old(path) if locked is None else locked


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
    def open(self, rank: int) -> Iterator[Reader]:
        """The shard of one rank, whose header is what the index says."""
        self.check_sizes(range(rank, rank + 1))
        path = self._path(rank)
        with opened(path, "shard") as reader:
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
            yield reader

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
