"""Saves and loads of several ranks: together, and for another number of ranks."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from numadam._checkpoint import folder as files
from numadam._checkpoint import storage
from numadam._checkpoint.container import Reader
from numadam._checkpoint.folder import (
    Cut,
    Cuts,
    Index,
    Saved,
    Shards,
    common,
    current_generation,
    read_index,
)
from numadam._checkpoint.container import CheckpointError, about_file

# --- protocol of a communicator ------------------------------------------------------------------


class Ranks(Protocol):
    """The ranks that save or load together."""

    rank: int
    size: int

    def gather(self, words: np.ndarray) -> np.ndarray:
        """The words of all ranks, a row for each."""

    def agree(self, error: BaseException | None, what: str) -> None:
        """Raise on all ranks where one has an error."""


class Alone:
    """The ranks of a process that saves or loads by itself."""

    rank, size = 0, 1

    def gather(self, words: np.ndarray) -> np.ndarray:
        """The words, in a row."""
        return words[None]

    def agree(self, error: BaseException | None, what: str) -> None:
        """Raise the error."""
        if error is not None:
            raise error


@contextmanager
def on_all(ranks: Ranks, what: str) -> Iterator[None]:
    """Work of any length; where it raises on one rank, it does on all."""
    error = None
    try:
        yield
    except BaseException as caught:  # an interrupt, too, ends all of them
        error = caught
    # a rank that has failed waits here for those that work on; in `agree` it would not
    if ranks.gather(np.array([error is not None], np.int64)).any():
        ranks.agree(error, what)


# --- parts of whole arrays from the shards that have them ----------------------------------------
# A rank that wants another part than one rank had reads all shards that meet it, one array after
# the other. Where blocks overlap, their ghost cells, the rank counts that owns the cell.

#: What is known of an element: nothing, from a ghost cell, from its owner.
_NONE, _GHOST, _OWNED = np.arange(3, dtype=np.uint8)
#: Begin of the names of the masks of owned cells; the name of the cut follows.
MASKS = "owned/"


def _bytes(array: np.ndarray) -> np.ndarray:
    """The bytes of each element, along a last axis."""
    return np.ascontiguousarray(array).reshape(*array.shape, 1).view(np.uint8)


class _Group:
    """The wanted arrays that lie in one cut: a parameter and its state."""

    def __init__(self, index: Index, cut: str, part: Cut, names: list[str]) -> None:
        self.cuts, self.names, self._cut = index.cuts[cut], names, cut
        self.pieces = self.cuts.pieces(part)
        self._mask = MASKS + cut if MASKS + cut in index.arrays else ""
        self._known = np.zeros(prod(part.shape), np.uint8)
        self.arrays: dict[str, np.ndarray] = {}
        for name in names:
            code, is_complex, _ = index.arrays[name]
            shape = (*part.shape, 2) if is_complex else part.shape
            self.arrays[name] = storage.new_array(code, shape, is_complex)

    def read(self, shard: Reader, rank: int) -> None:
        """Take what a shard has."""
        meeting = [
            (source, target, *indices)
            for source, target in product(self.cuts.pieces(self.cuts.of(rank)), self.pieces)
            if (indices := common(source, target)) is not None
        ]
        if not meeting:
            return
        mask, boxes = shard.array(self._mask) if self._mask else None, []
        for source, target, there, here in meeting:
            known = target.of(self._known, here)
            owned = np.True_ if mask is None else source.of(mask, there)
            now = np.where(owned, _OWNED, _GHOST)
            new, twice = known < now, owned & (known == _OWNED)
            known[...] = np.maximum(known, now)
            boxes.append((source, there, target, here, new, twice))
        for name in self.names:
            values = shard.array(name)
            for source, there, target, here, new, twice in boxes:
                saved = source.of(values, there)
                wanted = target.of(self.arrays[name], here)
                if twice.any() and (_bytes(saved) != _bytes(wanted))[twice].any():
                    raise CheckpointError(
                        f"{shard.path}: {name}: two ranks own the same elements with other "
                        "numbers. Save with numadam.mpi.Decomposition(comm, owned=..., offset=...) "
                        "that fit, or load with the same ranks and blocks."
                    )
                if new.all():
                    wanted[...] = saved
                else:
                    wanted[new] = saved[new]

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

    `begin` of each is known. All of one whole array that want the same part are read together.
    """
    by_cut: dict[tuple[str, Cut], list[str]] = {}
    for name, part in wanted.items():
        by_cut.setdefault((index.arrays[name].cut, part), []).append(name)
    shards, name_of_path = Shards(path, index), os.fsdecode(path)
    # which shards have something of each part
    meeting = [index.cuts[cut].meet(part) for cut, part in by_cut]
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


# --- saves and loads of several ranks at once ----------------------------------------------------
# Every function is collective.


class Part(NamedTuple):
    """Content of one rank's shard: as a `Container`, and how its arrays are cut.

    `kind`, `meta`, and the names and dtypes of `arrays` are the same on all ranks. `cut_of` has the
    name of its cut by that of an array that is part of a whole. Where one rank does not know the
    `begin` of a cut no one does.
    """

    kind: str
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]
    cut_of: Mapping[str, str] = {}
    cuts: Mapping[str, Cut] = {}


def save(path: str | os.PathLike[Any], ranks: Ranks, make: Callable[[], Part]) -> None:
    """Write a checkpoint of all ranks into a folder: the old one or the new one, complete.

    ValueError on all ranks, where they do not have the same to save.
    """
    what = f"saving {os.fsdecode(path)}"
    with on_all(ranks, what):
        part = make()
    texts = {name: json.dumps(value, sort_keys=True) for name, value in _alike(part).items()}
    generation = _same_everywhere(ranks, texts)
    cuts = _gathered_cuts(ranks, part)
    with on_all(ranks, what):
        folder, old = Path(os.path.realpath(os.fsdecode(path))), None
        if ranks.rank == 0:
            files.make_folder(folder)
            with suppress(CheckpointError):  # a damaged index is replaced
                old = current_generation(folder)
    with files.NewShard(folder, generation, ranks.rank) as shard:
        with on_all(ranks, what):
            nbytes, crc32 = shard.write(ranks.size, part.arrays)
        rows = ranks.gather(np.array([nbytes, crc32], np.int64))
        saved = {name: _saved(name, part) for name in part.arrays}
        sums = rows[:, 1].astype(np.uint32)
        index = Index(generation, part.kind, part.meta, saved, cuts, rows[:, 0].copy(), sums)
        shard.awaits_index = True
        with on_all(ranks, what):
            if ranks.rank == 0:
                files.commit(folder, index)
    if ranks.rank == 0:
        files.remove_leftovers(folder, old)


def _alike(part: Part) -> dict[str, Any]:
    """Values that have to be the same on all ranks, by what a message calls them."""
    found = {name: value for name, value in part.meta.items() if name != "options"}
    found |= {f"option {name}": value for name, value in part.meta.get("options", {}).items()}
    found["names and dtypes of the arrays"] = [[n, *_saved(n, part)] for n in part.arrays]
    found["numbers of axes"] = [
        [name, cut.flat, cut.begin is None, len(cut.shape), cut.whole]
        for name, cut in part.cuts.items()
    ]
    return found


def _saved(name: str, part: Part) -> Saved:
    code, is_complex = storage.code_of(part.arrays[name], name)
    return Saved(code, is_complex, part.cut_of.get(name, ""))


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def _same_everywhere(ranks: Ranks, texts: Mapping[str, str]) -> str:
    """Refuse texts that differ between ranks; the generation, a random number of rank 0."""
    words = [secrets.randbits(63), _digest(json.dumps(dict(texts))), _digest(json.dumps([*texts]))]
    rows = ranks.gather(np.array(words, np.int64))
    if (rows[:, 1] != rows[0, 1]).any():
        names = [*texts] if (rows[:, 2] == rows[0, 2]).all() else []
        table = ranks.gather(np.array([_digest(texts[name]) for name in names] or [0], np.int64))
        unlike = (table != table[0]).any(axis=0)
        name = names[int(np.flatnonzero(unlike)[0])] if unlike.any() else "class or options"
        other = int(np.flatnonzero(rows[:, 1] != rows[0, 1])[0])
        raise ValueError(
            f"save: not the same on rank 0 and rank {other}: {name}. Make the optimisers alike on "
            "all ranks."
        )
    return f"{int(rows[0, 0]):016x}"


def _gathered_cuts(ranks: Ranks, part: Part) -> dict[str, Cuts]:
    """The cuts of all ranks by name."""
    numbers = {
        name: ((-1,) * len(cut.shape) if cut.begin is None else cut.begin) + cut.shape
        for name, cut in part.cuts.items()
    }
    found = {}
    for name, boxes in _gathered(ranks, numbers).items():
        cut = part.cuts[name]
        whole = cut.whole
        if whole is None and cut.begin is not None:
            ends = sum(np.hsplit(boxes, 2))
            whole = tuple(np.max(ends, axis=0).tolist())
        found[name] = Cuts(cut.flat, whole, boxes)
    return found


def _gathered(ranks: Ranks, numbers: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Numbers of all ranks, a row for each, by name: as many on every rank."""
    rows = ranks.gather(np.array([n for own in numbers.values() for n in own], np.int64))
    ends = np.cumsum([len(own) for own in numbers.values()])
    return dict(zip(numbers, np.split(rows, ends, axis=1), strict=False))  # the last is empty


def load(
    path: str | os.PathLike[Any],
    ranks: Ranks,
    kind: str,
    wanted: Callable[[Index], Mapping[str, Cut]],
) -> tuple[Index, dict[str, np.ndarray]]:
    """The index of a folder, and the parts that this rank wants.

    Where all ranks want what the shard of their number has, each gets that as it is, ghost cells
    too. Else parts are put together, for which all have to say where in the whole they lie.
    `wanted` returns the parts by name of array: the same names in the same order on all ranks.
    """
    what, name = f"loading {os.fsdecode(path)}", os.fsdecode(path)
    with on_all(ranks, what):
        index = read_index(path, kind)
        with about_file(name):
            parts = wanted(index)
            _check_axes(index, parts)
    own = index.ranks == ranks.size and all(
        _is_own(index.cuts, index.arrays[array].cut, part, ranks.rank)
        for array, part in parts.items()
    )
    rows = ranks.gather(np.array([int(index.generation, 16), own], np.int64))
    if (rows[:, 0] != rows[0, 0]).any():
        raise CheckpointError(
            f"{name}: the ranks find different checkpoints there. Load from a folder that all "
            "ranks share, while nobody saves into it."
        )
    as_saved = rows[:, 1].all()
    if not as_saved:
        _check_wholes(name, index, parts, ranks)
    with on_all(ranks, what):
        if as_saved:
            with files.Shards(path, index).open(ranks.rank) as shard:
                found = shard.content().arrays  # what is not wanted is checked
            arrays = {name: found[name] for name in parts}
        else:
            arrays = assemble(path, index, parts)
    return index, arrays


def _check_axes(index: Index, parts: Mapping[str, Cut]) -> None:
    """Refuse names that are not in the index, and other numbers of axes."""
    for name, part in parts.items():
        cuts = index.cuts.get(index.arrays[name].cut)
        mine = len(part.shape if part.whole is None else part.whole)
        if cuts is not None and cuts.axes != mine:
            raise ValueError(f"{name}: has {cuts.axes} axes in the file, {mine} here.")


def _is_own(cuts: Mapping[str, Cuts], name: str, part: Cut, rank: int) -> bool:
    """Whether a part is what the shard of this rank has; `begin` counts where both know it."""
    if not name:
        return True
    saved = cuts[name].of(rank)
    same = None in (saved.begin, part.begin) or saved.begin == part.begin
    return same and (saved.shape, saved.flat) == (part.shape, part.flat)


def _check_wholes(path: str, index: Index, parts: Mapping[str, Cut], ranks: Ranks) -> None:
    """Refuse, on all ranks, parts of a whole that is not that of the file, or not known."""
    cuts = {index.arrays[name].cut: part for name, part in parts.items()}
    numbers = {name: _end(part) for name, part in cuts.items()}
    for name, ends in _gathered(ranks, numbers).items():
        whole = index.cuts[name].whole if name else None
        if whole is None or (ends < 0).any():
            raise CheckpointError(
                f"{path}: was saved by {index.ranks} ranks, and it is not known where their parts "
                f"of {name or 'an array'}, or those of now, lie in the whole. Load with the same "
                "ranks and blocks. For others pass comm=numadam.mpi.Decomposition(comm, offset=...)"
                " when you make the optimiser that saves and the one that loads."
            )
        mine = tuple(ends[:, 1:].max(axis=0).tolist())
        if mine != whole:
            raise CheckpointError(
                f"{path}: {name}: the whole array has shape {whole} in the file, and {mine} here."
            )


def _end(part: Cut) -> tuple[int, ...]:
    """Whether a part says where it lies, 0 or -1, and the shape of the whole that it reaches to."""
    if part.whole is not None:
        return (0, *part.whole)
    if part.begin is None:
        return (-1, *part.shape)
    return (0, *(begin + n for begin, n in zip(part.begin, part.shape, strict=True)))
