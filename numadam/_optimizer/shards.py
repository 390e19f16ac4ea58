"""Checkpoints of optimisers whose arrays are blocks: each rank saves and loads what it holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from numadam._arrays.interop import is_array, to_host
from numadam._arrays.tree import nested
from numadam._checkpoint import collective, storage
from numadam._checkpoint.collective import MASKS, Alone, Part, Ranks, assemble, on_all
from numadam._checkpoint.container import Container, is_folder
from numadam._checkpoint.folder import Cut, Index, Shards, read_index, whole_cut
from numadam._checkpoint.container import CheckpointError, about_file
from numadam._checkpoint.tree import Structure, equal, options_from_json
from numadam._core.parts import Parts, parts_of
from numadam._optimizer.base import OptimizerBase
from numadam._optimizer.checkpoint import KIND, content_of, fit, write_from_host
from numadam._settings.bounds import Box, leaf_bounds
from numadam._settings.groups import is_plain

if TYPE_CHECKING:
    from numadam._mpi.slices import Placement

# --- parts of whole parameters that a rank holds -------------------------------------------------


class Held(NamedTuple):
    """Parts of whole parameters that a rank holds, by name of array (``p/w``)."""

    cuts: Mapping[str, Cut]
    params: Any  # the nesting of the whole parameters, as `Structure.json`
    owned: Mapping[str, np.ndarray] = {}  # False at ghost cells; only of arrays that have some
    frozen: Mapping[str, Any] = {}  # whole parameters of which the optimiser has nothing


def of_blocks(optimizer: OptimizerBase, comm: Any) -> tuple[Ranks, Callable[[], Held]]:
    """The ranks whose parameters are blocks of whole ones, and what this rank holds.

    Without `comm`, a `Decomposition`, this process alone has all.
    """
    if comm is None:
        return Alone(), lambda: _blocks(optimizer, None, None, 1)
    from numadam._mpi.ranks import ranks

    return ranks(comm), lambda: _blocks(optimizer, comm.owned, comm.offset, comm.ranks)


def check_offset(offset: Any, params: Any) -> None:
    """Refuse places of blocks that do not fit the parameters: else a save would, hours later."""
    structure = Structure(params)
    for path, name in structure.names.items():
        try:
            _begin(offset, path, structure.leaves[name].ndim, name)
        except (LookupError, TypeError) as error:
            raise ValueError(f"offset: has nothing for {name}. Nest it like params.") from error


def _blocks(optimizer: OptimizerBase, owned: Any, offset: Any, ranks: int) -> Held:
    """Parts that a rank holds, by the mask of owned cells and the place of its blocks."""
    structure = Structure(optimizer.params)
    cuts, masks = dict[str, Cut](), dict[str, np.ndarray]()
    for path, name in structure.names.items():
        shape = structure.leaves[name].shape
        alone = offset is None and ranks == 1
        begin = (0,) * len(shape) if alone else _begin(offset, path, len(shape), name)
        cuts[name] = Cut(begin, shape)
        mask = _at(owned, path)
        if mask is not None:
            masks[name] = np.asarray(to_host(mask))
    return Held(cuts, structure.json, masks)


def _at(nest: Any, path: Sequence[Any]) -> Any:
    """Entry for an array in a nesting, or for a container that it lies in."""
    for key in path:
        if nest is None or is_array(nest) or _is_offset(nest):
            break
        nest = nest[key]
    return nest


def _is_offset(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(hasattr(n, "__index__") for n in value)


def _begin(offsets: Any, path: Sequence[Any], axes: int, name: str) -> tuple[int, ...] | None:
    """The place of a block in the whole array, checked; None where nobody knows it."""
    offset = _at(offsets, path)
    if offset is None:
        return None
    if not _is_offset(offset) or len(offset) != axes or min(map(int, offset), default=0) < 0:
        raise ValueError(
            f"offset: expected {axes} whole numbers >= 0 for {name}, the place of its first "
            f"element in the whole array, got {offset!r:.80}."
        )
    return tuple(map(int, offset))


def of_slices(place: Placement, saver: bool | None = None) -> Held:
    """Parts of a rank whose optimiser has flat slices of whole parameters, in their nesting.

    In a save, `saver` says whether this is the rank that saves frozen arrays, of which all have the
    whole; None in a load.
    """
    whole = place.whole
    structure, cuts, frozen = Structure(whole.params), dict[str, Cut](), dict[str, Any]()
    for path, (low, end), still in zip(whole.tree.paths(), place.slices, whole.frozen, strict=True):
        name = structure.names[tuple(path)]
        leaf, high = structure.leaves[name], end
        if still:  # it has no slice: low is 0
            high = 0 if saver is False else leaf.size
            frozen[name] = leaf.reshape(-1)[:high]
        cuts[name] = Cut((low,), (high - low,), True, leaf.shape)
    return Held(cuts, structure.json, frozen=frozen)


# --- options that differ from element to element -------------------------------------------------


def _pairs(parts: Parts, bounds: Any) -> list[Any]:
    """The bounds of each parameter of a rank."""
    return leaf_bounds(bounds, parts.tree, parts.backend.params, parts.tree.names("params"))


def cut_options(parts: Parts, as_arrays: bool) -> tuple[Any, dict[str, Any]]:
    """Lr and options in a form that any part of the arrays has: bounds nested as params are."""
    lr, options = parts.settings.lr, dict(parts.settings.options)
    leaves = parts.backend.params
    if options["bounds"] is not None:
        boxes = [
            Box(*(_spread(end, leaf) if as_arrays else end for end in pair))
            for pair, leaf in zip(_pairs(parts, options["bounds"]), leaves, strict=True)
        ]
        # bounds of frozen arrays are refused
        options["bounds"] = nested(parts.tree.paths(), boxes)
    if not is_plain(lr):
        rates = [
            rate if is_plain(rate) else _spread(rate, leaf)
            for rate, leaf in zip(parts.tree.flatten(lr, "lr"), leaves, strict=True)
        ]
        lr = parts.tree.merge(lr, rates)
    return lr, options


def _spread(value: Any, leaf: Any) -> np.ndarray:
    """A number for each element of an array."""
    return np.broadcast_to(np.asarray(to_host(value), np.float64), leaf.shape)


def cuts_of_options(content: Container, parts: Parts, structure: Structure) -> dict[str, str]:
    """By the names of arrays of options the parameters whose cuts they share."""
    names: dict[str, Any] = {name: name for name in content.arrays}
    lr, options = options_from_json(content.meta, names)
    found: dict[str, str] = {}
    for path in parts.tree.paths():
        name = structure.names[tuple(path)]
        for node in (lr, options["bounds"]):
            if node is None or (is_plain(node) and not isinstance(node, str)):
                continue
            for key in path:
                node = node[key]
            ends = node if isinstance(node, Box) else [node]
            found |= {end: name for end in ends if isinstance(end, str)}
    return found


def own_forms(parts: Parts, content: Container) -> tuple[Any, dict[str, Any]]:
    """Lr and options of a file; bounds and step sizes that say what ours say as ours are."""
    lr, options = options_from_json(content.meta, content.arrays)
    own_lr, own, leaves = parts.settings.lr, parts.settings.options, parts.backend.params
    if own["bounds"] is not None and options.get("bounds") is not None:
        pairs = zip(_pairs(parts, own["bounds"]), _pairs(parts, options["bounds"]), strict=True)
        if all(
            np.array_equal(_spread(one, leaf), _spread(other, leaf))
            for leaf, ends in zip(leaves, pairs, strict=True)
            for one, other in zip(*ends, strict=True)
        ):
            options["bounds"] = own["bounds"]
    if not is_plain(own_lr) and not is_plain(lr):
        own_rates, rates = (parts.tree.flatten(nest, "lr") for nest in (own_lr, lr))
        rates = [
            now if _is_same_rate(now, its, leaf) else its
            for now, its, leaf in zip(own_rates, rates, leaves, strict=True)
        ]
        lr = parts.tree.merge(lr, rates)
    return lr, options


def _is_same_rate(one: Any, other: Any, leaf: Any) -> bool:
    if is_plain(one) or is_plain(other):
        return equal(one, other)
    return np.array_equal(_spread(one, leaf), _spread(other, leaf))


# --- optimisers of several ranks in a folder -----------------------------------------------------
# Options that differ from element to element, bounds and step sizes, are cut as the parameters are.
# All else has to be the same on all ranks.


def save(
    optimizer: OptimizerBase,
    path: str | os.PathLike[Any],
    ranks: Ranks,
    held: Callable[[], Held],
    check: Callable[[], None],
) -> None:
    """Write the optimisers of all ranks into a folder, of one moment. Collective.

    `held` is what this rank holds, and `check` refuses to save. Their errors reach all ranks.
    """
    parts = parts_of(optimizer)
    with on_all(ranks, "save"):
        is_folder(path)
        check()
        pairs = _pairs(parts, parts.settings.options["bounds"])
        own, has_arrays = held(), any(is_array(end) for pair in pairs for end in pair)
    rows = ranks.gather(np.array([has_arrays, bool(own.owned)], np.int64))
    as_arrays, masks = np.any(rows, axis=0).tolist()
    collective.save(path, ranks, lambda: _part(optimizer, own, as_arrays, masks))


def _part(optimizer: OptimizerBase, held: Held, as_arrays: bool, masks: bool) -> Part:
    """All that a rank saves."""
    parts, structure = parts_of(optimizer), Structure(optimizer.params)
    lr, options = cut_options(parts, as_arrays)
    content = content_of(optimizer, lr, options)
    arrays = {**content.arrays, **{name: to_host(leaf) for name, leaf in held.frozen.items()}}
    own_names = [name for name in arrays if not name.startswith("options/")]
    # that of the parameter: p/w of m/w, p of m
    cut_of = {name: "p" + name.removeprefix(name.partition("/")[0]) for name in own_names}
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
    """Take over all of a folder, on all ranks or on none; arguments as of `save`. Collective."""
    parts = parts_of(optimizer)
    with on_all(ranks, "load"):
        is_folder(path)
        check()
        own, what = held(), f"loading {os.fsdecode(path)}"
    index, arrays = collective.load(path, ranks, KIND, lambda index: _wanted(index, own))
    with on_all(ranks, what), about_file(path):
        frozen = {name: arrays[name] for name in own.frozen}
        content = Container(KIND, index.meta, arrays | {n: a[:0] for n, a in frozen.items()})
        found = fit(optimizer, content, *own_forms(parts, content))
        more = [write_from_host(own.frozen[name], new) for name, new in frozen.items()]
        others = [*found.others, *more]
    with on_all(ranks, what):
        parts.backend.load(*found._replace(others=others))


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
    """Whole arrays and all else of a folder, for one process."""
    index = read_index(path, KIND)
    name_of_path = os.fsdecode(path)
    unknown = [name for name, cuts in index.cuts.items() if cuts.whole is None]
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
