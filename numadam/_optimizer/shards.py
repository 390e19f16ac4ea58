"""Optimisers of several ranks in a folder: what each rank saves, and what it takes over.

Options that differ from element to element, bounds and step sizes, are cut as the parameters are.
All else has to be the same on all ranks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from numadam._arrays.interop import to_host
from numadam._checkpoint import storage, together
from numadam._checkpoint.assemble import MASKS, assemble
from numadam._checkpoint.collective import Ranks, on_all
from numadam._checkpoint.container import Container
from numadam._checkpoint.errors import CheckpointError, about_file
from numadam._checkpoint.folder import Shards
from numadam._checkpoint.index import Cut, Index, read_index, whole_cut
from numadam._checkpoint.together import Part
from numadam._checkpoint.tree import Structure
from numadam._core.parts import parts_of
from numadam._optimizer.base import OptimizerBase
from numadam._optimizer.checkpoint import KIND, Fit, content_of, fit, write_from_host
from numadam._optimizer.cut_options import cut_options, cuts_of_options, has_arrays, own_forms
from numadam._optimizer.held import Held


def save(
    optimizer: OptimizerBase,
    path: str | os.PathLike[Any],
    ranks: Ranks,
    held: Callable[[], Held],
    check: Callable[[], None],
) -> None:
    """Write the optimisers of all ranks into a folder, of one moment. Collective.

    Parameters
    ----------
    held, check : callable
        What this rank holds; and what refuses to save. Their errors reach all ranks.
    """
    parts = parts_of(optimizer)

    def look() -> tuple[Held, bool]:
        _check_name(path)
        check()
        return held(), has_arrays(parts)

    own, arrays = on_all(ranks, "save", look)
    rows = ranks.gather(np.array([arrays, bool(own.owned)], np.int64))
    as_arrays, masks = np.any(rows, axis=0).tolist()
    together.save(path, ranks, lambda: _part(optimizer, own, as_arrays, masks))


def _check_name(path: str | os.PathLike[Any]) -> None:
    """Refuse what is no name, and the empty one, which would be the current folder."""
    if not os.fsdecode(path):
        raise ValueError("path: is empty. Give the name of a folder.")


def _part(optimizer: OptimizerBase, held: Held, as_arrays: bool, masks: bool) -> Part:
    """All that a rank saves."""
    parts, structure = parts_of(optimizer), Structure(optimizer.params)
    lr, options = cut_options(parts, as_arrays)
    content = content_of(optimizer, lr, options)
    arrays = {**content.arrays, **{name: to_host(one) for name, one in held.frozen.items()}}
    cut_of = {name: _param_of(name) for name in arrays if not name.startswith("options/")}
    cut_of |= cuts_of_options(content, parts, structure)
    if lost := sorted(name for name in arrays if name not in cut_of):
        raise TypeError(
            f"{lost[0].split('/')[1]}: numbers for each element cannot be saved by several ranks "
            "where they stand in a group. Pass lr as a nesting like params instead."
        )
    for name in held.cuts if masks else ():
        mask = held.owned.get(name)
        shape = held.cuts[name].shape
        arrays[MASKS + name] = np.broadcast_to(True if mask is None else mask, shape)
        cut_of[MASKS + name] = name
    meta = {**content.meta, "params": _in_c_order(held.params)}
    return Part(KIND, meta, arrays, cut_of, dict(held.cuts))


def _param_of(name: str) -> str:
    """The parameter of a state array: ``p/w`` of ``m/w``."""
    return "p" + name.removeprefix(name.partition("/")[0])


def _in_c_order(node: Any) -> Any:
    """A `Structure.json` in which all arrays are in C order: blocks may lie in different ones."""
    ((kind, content),) = node.items()
    if kind == "array":
        return {kind: sorted(content)}
    if kind == "value":
        return node
    if kind in ("list", "tuple"):
        return {kind: [_in_c_order(child) for child in content]}
    return {kind: [[key, _in_c_order(child)] for key, child in content]}


def load(
    optimizer: OptimizerBase,
    path: str | os.PathLike[Any],
    ranks: Ranks,
    held: Callable[[], Held],
    check: Callable[[], None],
) -> None:
    """Take over all of a folder, on all ranks or on none. Collective.

    Parameters
    ----------
    held, check : callable
        As in `save`.
    """
    parts = parts_of(optimizer)

    def look() -> Held:
        _check_name(path)
        check()
        return held()

    own, what = on_all(ranks, "load", look), f"loading {os.fsdecode(path)}"
    index, arrays = together.load(path, ranks, KIND, lambda index: _wanted(index, own))

    def fitted() -> Fit:
        with about_file(path):
            frozen = {name: arrays[name] for name in own.frozen}
            content = Container(KIND, index.meta, arrays | {n: a[:0] for n, a in frozen.items()})
            found = fit(optimizer, content, *own_forms(parts, content))
            more = [write_from_host(own.frozen[name], new) for name, new in frozen.items()]
            return found._replace(others=[*found.others, *more])

    found = on_all(ranks, what, fitted)
    on_all(ranks, what, lambda: parts.backend.load(*found))


def _wanted(index: Index, held: Held) -> dict[str, Cut]:
    """The parts of this rank by name of array."""
    for name, (_, _, cut) in index.arrays.items():
        if cut not in held.cuts:
            own, its = sorted(held.cuts), sorted(index.cuts)
            raise ValueError(
                f"params: the optimiser has the arrays {own[:6]}, the file {its[:6]}, for "
                f"{name!r}. Nest params as in the file, or use numadam.load."
            )
    return {
        name: held.cuts[cut]
        for name, (_, _, cut) in index.arrays.items()
        if not name.startswith(MASKS)
    }


def read_whole(path: str | os.PathLike[Any]) -> Container:
    """Whole arrays and all else of a folder, for one process.

    Raises
    ------
    CheckpointError
        Where it is damaged, or not known how the arrays lie together.
    """
    index = read_index(path, KIND)
    name_of_path = os.fsdecode(path)
    unknown = [name for name, one in index.cuts.items() if one.whole is None]
    if unknown:
        raise CheckpointError(
            f"{name_of_path}: was saved by {index.ranks} ranks, and where their blocks lie in the "
            f"whole {unknown[0]} is not known. Pass comm=numadam.mpi.Decomposition(comm, "
            "offset=...) when you save, or load with the same ranks and blocks."
        )
    wanted = {
        name: whole_cut(index.cuts[cut].whole or ())
        for name, (_, _, cut) in index.arrays.items()
        if cut and not name.startswith(MASKS)
    }
    size = sum(
        prod(part.shape) * storage.ITEMSIZES[index.arrays[name].code]
        for name, part in wanted.items()
    )
    Shards(path, index).check_sizes(range(index.ranks))
    if size > int(index.nbytes.sum()):
        raise CheckpointError(f"{name_of_path}: its whole arrays are larger than its files.")
    return Container(KIND, index.meta, assemble(path, index, wanted))
