"""Checkpoints of blocks: a file for each rank, all of one save.

A save writes new files beside the last ones, and renames them where all ranks have theirs. So
wherever a program ends there is a save of which each rank has a file, under one of two names.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numadam._checkpoint import container
from numadam._checkpoint.container import CheckpointError, Container, about_file
from numadam._mpi.ranks import Ranks

#: Entry of a file's `meta`: the number of its rank, that of all ranks, and that of the save.
_KEY = "ranks"


class _File(NamedTuple):
    """A file of this rank, and what ranks compare of it: the number of its save, and t."""

    path: Path
    number: int
    t: int
    content: Container


def _names(ranks: Ranks, path: str | os.PathLike[Any]) -> tuple[Path, Path]:
    """Names of this rank's file: until all ranks have theirs, and then."""
    container.check_path(path)
    whole = Path(os.fsdecode(path))
    stem = f"{whole.stem}.{ranks.rank}-of-{ranks.size}"
    return whole.with_name(f"{stem}.new{whole.suffix}"), whole.with_name(stem + whole.suffix)


def _read(ranks: Ranks, path: Path, kind: str) -> _File:
    content = container.read(path, kind)
    with about_file(path):
        rank, size, number = content.meta.get(_KEY, (0, 1, 0))
        if (rank, size) != (ranks.rank, ranks.size):
            raise ValueError(
                f"is the file of rank {rank} of {size}, and here is rank {ranks.rank} of "
                f"{ranks.size}. Load it under its own name, on as many ranks."
            )
        # in int64, since an error in the exchange would leave the other ranks waiting
        number, t = np.array([number, content.meta["counters"]["t"]], np.int64).tolist()
        return _File(path, number, t, content)


def _last_save(ranks: Ranks, found: Sequence[_File]) -> _File | None:
    """File of the last save that all ranks have, None where there is none. Collective.

    `found` are the files of this rank, of the later save first.
    """
    numbers = [file.number for file in found]
    rows = ranks.gather(np.array([*numbers, -1, -1][:2], np.int64))
    for number in rows[0].tolist():
        if number >= 0 and (rows == number).any(axis=1).all():
            return found[numbers.index(number)]
    return None


def save(
    ranks: Ranks, path: str | os.PathLike[Any], kind: str, make: Callable[[], Container]
) -> None:
    """Write what each rank makes, on all ranks or on none. Collective."""
    with ranks.all_or_none("save"):
        new, file = _names(ranks, path)
        content = make()
    ranks.compare(_alike(content.meta), "Make the optimisers alike on all ranks.")
    rows = ranks.gather(np.array([secrets.randbits(62), new.exists()], np.int64))
    if rows[:, 1].any():
        _end_renames(ranks, new, file, kind)
    meta = {**content.meta, _KEY: [ranks.rank, ranks.size, int(rows[0, 0])]}
    try:
        with ranks.all_or_none("save"):
            container.write(new, content._replace(meta=meta))
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise
    with ranks.all_or_none("save"):
        new.replace(file)


def _end_renames(ranks: Ranks, new: Path, file: Path, kind: str) -> None:
    """End the renames of a killed save: the next one would overwrite a part of it. Collective."""
    found = []
    for path in (new, file):
        with suppress(OSError, CheckpointError):  # what cannot be loaded may be overwritten
            found.append(_read(ranks, path, kind))
    last = _last_save(ranks, found)
    with ranks.all_or_none("save"):
        if last is not None and last.path == new:
            new.replace(file)


def _alike(meta: dict[str, Any]) -> dict[str, str]:
    """Values that have to be the same on all ranks, by the user's names: all but bounds."""
    options = {name: value for name, value in meta["options"].items() if name != "bounds"}
    found = {**meta["counters"], "lr": meta["lr"], **options, "schedules": meta["schedules"]}
    return {name: json.dumps(value) for name, value in found.items()}


def load(ranks: Ranks, path: str | os.PathLike[Any], kind: str) -> Container:
    """Read the file of the last save that all ranks have. Collective."""
    with ranks.all_or_none("load"):
        names = _names(ranks, path)
        found = [_read(ranks, name, kind) for name in names if name.exists()]
        others = _other_sizes(names[1])
    whole = bool(found) and found[-1].path == names[1]
    rows = ranks.gather(np.array([len(found), whole], np.int64))
    if not rows[:, 0].all():
        rank = int(rows[:, 0].argmin())
        if rows[:, 1].any():  # then all had one
            raise CheckpointError(
                f"{os.fsdecode(path)}: the file of rank {rank} of {ranks.size} is missing. Copy "
                "all files of one save together."
            )
        raise FileNotFoundError(f"{names[1]}: there is no save of {ranks.size} ranks.{others}")
    last = _last_save(ranks, found)
    if last is not None:
        return last.content
    t = ranks.gather(np.array([found[-1].t], np.int64))[:, 0].tolist()
    raise CheckpointError(
        f"{os.fsdecode(path)}: the files of the ranks are not of one save: their t are "
        f"{', '.join(map(str, t))}. Copy all files of one save together."
    )


def _other_sizes(file: Path) -> str:
    """A sentence on files of other numbers of ranks."""
    stem, _, _ = file.stem.rpartition(".")
    name = re.compile(rf"{re.escape(stem)}\.\d+-of-(\d+){re.escape(file.suffix)}")
    names = [one.name for one in file.parent.iterdir()] if file.parent.is_dir() else []
    sizes = sorted({int(match[1]) for match in map(name.fullmatch, names) if match})
    if not sizes:
        return ""
    return f" There are files of {' and '.join(map(str, sizes))} ranks: start as many."
