"""Parts of whole parameters that a rank holds: blocks of them, or slices of their elements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from numadam._arrays.interop import is_array, to_host
from numadam._checkpoint.collective import Alone, Ranks
from numadam._checkpoint.index import Cut
from numadam._checkpoint.tree import Structure
from numadam._optimizer.base import OptimizerBase


class Held(NamedTuple):
    """Parts of whole parameters that a rank holds, by name of array (``p/w``).

    Attributes
    ----------
    cuts : dict of str to Cut
    params : object
        The nesting of the whole parameters, as `Structure.json`.
    owned : dict of str to bool array
        False at ghost cells; only of arrays that have some.
    frozen : dict of str to array
        Frozen parameters that a rank has whole, while its optimiser has nothing of them.
    """

    cuts: Mapping[str, Cut]
    params: Any
    owned: Mapping[str, np.ndarray] = {}
    frozen: Mapping[str, Any] = {}


def of_blocks(optimizer: OptimizerBase, comm: Any) -> tuple[Ranks, Callable[[], Held]]:
    """The ranks whose parameters are blocks of whole ones, and what this rank holds.

    Parameters
    ----------
    comm : numadam.mpi.Decomposition or None
        None: this process alone has all.
    """
    if comm is None:
        return Alone(), lambda: _blocks(optimizer, None, None, 1)
    from numadam._mpi.decomposition import ranks

    return ranks(comm), lambda: _blocks(optimizer, comm.owned, comm.offset, comm.ranks)


def check_offset(offset: Any, params: Any) -> None:
    """Refuse places of blocks that do not go with the parameters: else a save would, hours later.

    Raises
    ------
    ValueError
    """
    structure = Structure(params)
    for path, name in structure.names.items():
        try:
            begin = _at(offset, path)
        except (LookupError, TypeError) as error:
            raise ValueError(f"offset: has nothing for {name}. Nest it like params.") from error
        if begin is not None:
            _checked_offset(begin, structure.leaves[name].ndim, name)


def _blocks(optimizer: OptimizerBase, owned: Any, offset: Any, ranks: int) -> Held:
    """Parts that a rank holds, by the mask of owned cells and the place of its blocks."""
    structure = Structure(optimizer.params)
    cuts, masks = dict[str, Cut](), dict[str, np.ndarray]()
    for path, name in structure.names.items():
        shape = structure.leaves[name].shape
        begin = (0,) * len(shape) if offset is None and ranks == 1 else _at(offset, path)
        if begin is not None:
            begin = _checked_offset(begin, len(shape), name)
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


def _checked_offset(offset: Any, axes: int, name: str) -> tuple[int, ...]:
    if not _is_offset(offset) or len(offset) != axes or min(map(int, offset), default=0) < 0:
        raise ValueError(
            f"offset: expected {axes} whole numbers >= 0 for {name}, the place of its first "
            f"element in the whole array, got {offset!r:.80}."
        )
    return tuple(map(int, offset))


def of_slices(
    params: Any,
    paths: Sequence[tuple[Any, ...]],
    parts: Sequence[tuple[int, int]],
    frozen: Sequence[bool],
    saver: bool | None = None,
) -> Held:
    """Parts of a rank whose optimiser has flat slices of whole parameters, in their nesting.

    Parameters
    ----------
    params : array or nesting of arrays
        The whole ones.
    paths, parts, frozen : sequences
        For each array its path in the nesting; its elements here, low to before high, in C order;
        and whether no rank steps it, so that all have it whole.
    saver : bool or None
        In a save, whether this is the rank that saves frozen arrays; None in a load.
    """
    structure, cuts, whole = Structure(params), dict[str, Cut](), dict[str, Any]()
    for path, (first, end), still in zip(paths, parts, frozen, strict=True):
        name = structure.names[tuple(path)]
        leaf, low, high = structure.leaves[name], first, end
        if still:
            low, high = 0, 0 if saver is False else leaf.size
            whole[name] = leaf.reshape(-1)[:high]
        cuts[name] = Cut((low,), (high - low,), True, leaf.shape)
    return Held(cuts, structure.json, frozen=whole)
