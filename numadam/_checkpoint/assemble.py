"""Parts of whole arrays from the shards that have them, however those were cut.

A rank that wants another part than one rank had reads all shards that meet it, one array after the
other. Where blocks overlap, their ghost cells, the rank counts that owns the cell.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from numadam._checkpoint import storage
from numadam._checkpoint.errors import CheckpointError
from numadam._checkpoint.folder import Shard, Shards
from numadam._checkpoint.index import Cut, Cuts, Index, Piece, common, pieces, ranks_that_meet

#: What is known of an element: nothing, from a ghost cell, from its owner.
_NONE, _GHOST, _OWNED = np.arange(3, dtype=np.uint8)
#: Begin of the names of the masks of owned cells; the name of the cut follows.
MASKS = "owned/"


class _Spot(NamedTuple):
    """A box that a shard and a wanted part have in common."""

    source: tuple[Piece, tuple[Any, ...]]
    target: tuple[Piece, tuple[Any, ...]]
    new: np.ndarray  # elements to take
    twice: np.ndarray  # elements that an owner before this one had

    def take(self, source: np.ndarray, target: np.ndarray, what: str) -> None:
        """Copy its elements from the array of a shard."""
        there, here = _view(source, *self.source), _view(target, *self.target)
        if self.twice.any() and (_bytes(there) != _bytes(here))[self.twice].any():
            raise CheckpointError(
                f"{what}: two ranks own the same elements with other numbers. Save with "
                "numadam.mpi.Decomposition(comm, owned=..., offset=...) that fit, or load with "
                "the same ranks and blocks."
            )
        if self.new.all():
            here[...] = there
        else:
            here[self.new] = there[self.new]


def _view(part: np.ndarray, piece: Piece, index: tuple[Any, ...]) -> np.ndarray:
    found: np.ndarray = piece.of(part)[(*index, ...)]
    return found


def _bytes(array: np.ndarray) -> np.ndarray:
    """The bytes of each element, along a last axis."""
    return np.ascontiguousarray(array).reshape(*array.shape, 1).view(np.uint8)


class _Group:
    """The wanted arrays that lie in one cut: a parameter and its state."""

    def __init__(self, index: Index, cut: str, part: Cut, names: list[str]) -> None:
        self.cuts, self.names, self._cut = index.cuts[cut], names, cut
        assert self.cuts.whole is not None  # who calls has asked
        self.pieces = pieces(part, self.cuts.whole)
        self._mask = MASKS + cut if MASKS + cut in index.arrays else ""
        self._known = np.zeros(prod(part.shape), np.uint8)
        self.arrays: dict[str, np.ndarray] = {}
        for name in names:
            code, is_complex, _ = index.arrays[name]
            shape = (*part.shape, 2) if is_complex else part.shape
            self.arrays[name] = storage.new_array(code, shape, is_complex)

    def read(self, shard: Shard, rank: int) -> None:
        """Take what a shard has."""
        theirs = pieces(self.cuts.of(rank), self.cuts.whole or ())
        pairs = [
            (one, other, found)
            for one in theirs
            for other in self.pieces
            if (found := common(one, other)) is not None
        ]
        if not pairs:
            return
        mask = shard.array(self._mask) if self._mask else None
        spots = []
        for one, other, (there, here) in pairs:
            known = _view(self._known, other, here)
            owned = np.ones(known.shape, bool) if mask is None else _view(mask, one, there)
            now = np.where(owned, _OWNED, _GHOST)
            new, twice = known < now, owned & (known == _OWNED)
            spots.append(_Spot((one, there), (other, here), new, twice))
            known[...] = np.maximum(known, now)
        for name in self.names:
            source = shard.array(name)
            for spot in spots:
                spot.take(source, self.arrays[name], f"{shard.path}: {name}")

    def check(self, path: str) -> None:
        """Refuse where an element is in no shard."""
        for piece in self.pieces:
            gaps = np.argwhere(piece.of(self._known) == _NONE)
            if len(gaps):
                first = tuple(map(int, gaps[0] + np.array(piece.begin, int)))
                raise CheckpointError(
                    f"{path}: {self._cut}: no rank has saved the element {first} of the whole "
                    f"array, of shape {self.cuts.whole}. Load with the same ranks and blocks."
                )


def assemble(
    path: str | os.PathLike[Any], index: Index, wanted: Mapping[str, Cut]
) -> dict[str, np.ndarray]:
    """The wanted parts of arrays, by name: new arrays, checked, and complete.

    Parameters
    ----------
    wanted : mapping of name to Cut
        `begin` is known; all of one whole array that want the same part are read together.

    Raises
    ------
    CheckpointError
        A shard is missing or damaged, or parts leave a gap or contradict each other.
    """
    by_cut: dict[tuple[str, Cut], list[str]] = {}
    for name, part in wanted.items():
        by_cut.setdefault((index.arrays[name].cut, part), []).append(name)
    shards, name_of_path = Shards(path, index), os.fsdecode(path)
    meeting = [_meeting(index.cuts[cut], part) for cut, part in by_cut]
    needed: list[int] = np.flatnonzero(np.any(meeting, axis=0)).tolist() if by_cut else []
    shards.check_sizes(needed)  # before memory is taken for arrays
    groups = [_Group(index, cut, part, names) for (cut, part), names in by_cut.items()]
    for rank in needed:
        with shards.open(rank) as shard:
            for group, meets in zip(groups, meeting, strict=True):
                if meets[rank]:
                    group.read(shard, rank)
    found: dict[str, np.ndarray] = {}
    for group in groups:
        group.check(name_of_path)
        found |= group.arrays
    return {name: found[name] for name in wanted}


def _meeting(cuts: Cuts, part: Cut) -> np.ndarray:
    """Which shards have something of a part."""
    assert cuts.whole is not None  # who calls has asked
    return ranks_that_meet(cuts.boxes, cuts.flat, cuts.whole, pieces(part, cuts.whole))
