"""The index of a folder of shards, and the parts of arrays that it places: boxes and ranges.

It names no file: shards are called by their generation and rank, so nothing leads out of the
folder. It is a file of the same format as all others, with two arrays that have a number for each
rank, and one for each array that is cut into parts.

A part is a box, or a range of the elements in C order. A range is a few boxes, too: a part of a
row, whole rows, a part of a row. So all that is copied from one rank's part into another's is the
intersection of two boxes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numadam._checkpoint import storage
from numadam._checkpoint.container import Container, Reader, read, write
from numadam._checkpoint.errors import about_file

#: Name of the index in its folder.
INDEX = "index.safetensors"
_GENERATION = re.compile(r"[0-9a-f]{16}")


def shard_name(generation: str, rank: int) -> str:
    """Name of a rank's file in the folder: an index that names no files leads nowhere else."""
    return f"{generation}-{rank}.safetensors"


class Cut(NamedTuple):
    """The part of an array that one rank holds.

    Attributes
    ----------
    begin : tuple of int or None
        Index of its first element in the whole array; with `flat` one number, the place of that
        element in C order. None: nobody knows.
    shape : tuple of int
        Of the part; with `flat` one number.
    flat : bool
        Whether the part is a range of the elements in C order, and no box.
    whole : tuple of int or None
        Shape of the whole array; None: what the parts of all ranks reach to.
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

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the box."""
        return tuple(end - begin for begin, end in zip(self.begin, self.end, strict=True))

    def of(self, part: np.ndarray) -> np.ndarray:
        """The view of this box in the part, which is contiguous in C order."""
        shape = self.shape
        return part.reshape(-1)[self.at : self.at + prod(shape)].reshape(shape)


def pieces(cut: Cut, whole: tuple[int, ...]) -> list[Piece]:
    """The boxes of a part that is somewhere in a whole array of this shape; no empty ones."""
    assert cut.begin is not None  # who calls has asked
    if prod(cut.shape) == 0:
        return []
    if cut.flat:
        first = cut.begin[0]
        return list(_boxes(first, first + cut.shape[0], whole, (), first))
    ends = tuple(begin + n for begin, n in zip(cut.begin, cut.shape, strict=True))
    return [Piece(cut.begin, ends, 0)]


def _boxes(
    first: int, last: int, shape: tuple[int, ...], above: tuple[int, ...], origin: int
) -> Iterator[Piece]:
    """Boxes of the elements from `first` to `last`, numbered below the indices `above`."""
    if first >= last:
        return
    rest, ones = shape[1:], tuple(i + 1 for i in above)
    if not shape:
        yield Piece(above, ones, first - origin)
        return
    row = prod(rest)
    begin, end = -(-first // row), last // row  # whole rows
    if begin > end:  # inside of one row
        yield from _boxes(
            first - end * row, last - end * row, rest, (*above, end), origin - end * row
        )
        return
    if first < begin * row:
        up = (begin - 1) * row
        yield from _boxes(first - up, row, rest, (*above, begin - 1), origin - up)
    if begin < end:
        yield Piece((*above, begin, *(0 for _ in rest)), (*ones, end, *rest), begin * row - origin)
    yield from _boxes(0, last - end * row, rest, (*above, end), origin - end * row)


def common(one: Piece, other: Piece) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """The intersection of two boxes as an index into each; None where it is empty."""
    begin = tuple(map(max, one.begin, other.begin))
    end = tuple(map(min, one.end, other.end))
    if any(a >= b for a, b in zip(begin, end, strict=True)):
        return None
    return _index(one, begin, end), _index(other, begin, end)


def _index(piece: Piece, begin: tuple[int, ...], end: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(a - start, b - start) for a, b, start in zip(begin, end, piece.begin, strict=True)
    )


def ranks_that_meet(
    boxes: np.ndarray, flat: bool, whole: tuple[int, ...], wanted: list[Piece]
) -> np.ndarray:
    """Which of many parts, a row [begin, shape] each, have an element of the wanted boxes.

    Of ranges some more may be named, never fewer.
    """
    found = np.zeros(len(boxes), bool)
    begins, shapes = np.hsplit(boxes, 2)
    filled = (shapes > 0).all(axis=1)
    for piece in wanted:
        begin, end = np.array(piece.begin, np.int64), np.array(piece.end, np.int64)
        if flat:
            rows = np.array([prod(whole[k + 1 :]) for k in range(len(whole))], np.int64)
            begin, end = (begin @ rows)[None], ((end - 1) @ rows + 1)[None]
        found |= ((begins < end) & (begins + shapes > begin)).all(axis=1)
    return found & filled


class Saved(NamedTuple):
    """An array as all shards have it: dtype of the file, and the name of its cut ("": none)."""

    code: str
    is_complex: bool
    cut: str


class Cuts(NamedTuple):
    """Places of the parts of all ranks in one whole array.

    Attributes
    ----------
    flat : bool
        As in `Cut`.
    whole : tuple of int or None
        Shape of the whole array; None where nobody knows where the parts lie.
    boxes : numpy.ndarray of int64
        A row for each rank: `begin`, then `shape` of its `Cut`. `begin` is -1 where unknown.
    """

    flat: bool
    whole: tuple[int, ...] | None
    boxes: np.ndarray

    def of(self, rank: int) -> Cut:
        """The part of one rank."""
        begin, shape = (tuple(half.tolist()) for half in np.split(self.boxes[rank], 2))
        return Cut(None if self.whole is None else begin, shape, self.flat, self.whole)


class Index(NamedTuple):
    """Content of the index of a folder.

    Attributes
    ----------
    generation : str
    kind : str
        Of what it is the state, as in `Container`.
    meta : dict
        The same for all ranks.
    arrays : dict of str to Saved
    cuts : dict of str to Cuts
    nbytes, sums : numpy.ndarray of int64, uint32
        Size of each shard, and the checksum that its header has, which in turn has all others.
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
    """Write it as a whole.

    Raises
    ------
    OSError
        From the system; with a note on what has become of the old one.
    """
    cuts = {
        name: {"flat": one.flat, "whole": None if one.whole is None else list(one.whole)}
        for name, one in index.cuts.items()
    }
    meta = {
        "generation": index.generation,
        "kind": index.kind,
        "arrays": {name: list(one) for name, one in index.arrays.items()},
        "cuts": cuts,
        "content": index.meta,
    }
    arrays = {"nbytes": index.nbytes, "crc32": index.sums}
    arrays |= {f"cut/{name}": one.boxes for name, one in index.cuts.items()}
    write(folder / INDEX, Container("index", meta, arrays))


def current_generation(folder: Path) -> str | None:
    """The generation that the index names; None where there is no index.

    Raises
    ------
    CheckpointError
        Where it is damaged.
    OSError
        Where it cannot be read.
    """
    path = folder / INDEX
    try:
        with path.open("rb", buffering=0) as file, about_file(path):
            return _generation(
                Reader(file, os.fstat(file.fileno()).st_size, str(path), "index").meta
            )
    except FileNotFoundError:
        return None


def _generation(meta: Mapping[str, Any]) -> str:
    found = meta["generation"]
    if not isinstance(found, str) or not _GENERATION.fullmatch(found):
        raise ValueError("its generation is no number of 16 digits")
    return found


def read_index(path: str | os.PathLike[Any], kind: str) -> Index:
    """Read and check the index of a folder.

    Raises
    ------
    CheckpointError
        It is damaged, of another kind or a newer version.
    OSError
        It does not exist or cannot be read.
    """
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
        name: _parsed_cuts(one, found[f"cut/{name}"], ranks) for name, one in meta["cuts"].items()
    }
    arrays = {name: Saved(*one) for name, one in meta["arrays"].items()}
    for name, one in arrays.items():
        if one.code not in storage.ITEMSIZES or type(one.is_complex) is not bool:
            raise ValueError(f"{name!r} has the unknown dtype {one.code}")
        if one.cut and one.cut not in cuts:
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
