"""Parts of a whole array, as ranks hold them: boxes, and ranges of its elements in C order.

A range is a few boxes, too: a part of a row, whole rows, a part of a row. So all that is copied
from one rank's part into another's is the intersection of two boxes.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import numpy as np


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
