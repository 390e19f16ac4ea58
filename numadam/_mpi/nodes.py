"""Nodes: which ranks share memory, and which have the same number on every node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from mpi4py import MPI

from numadam._mpi.ranks import Ranks
from numadam._mpi.windows import Local, Window


@dataclass(frozen=True)
class Nodes:
    """The ranks of a communicator as nodes of equally many ranks.

    Attributes
    ----------
    local : Local or None
        The ranks of this node, where they are several.
    across : mpi4py communicator
        The ranks of this number on every node, by node.
    node, place : int
        Number of this node, and of this rank on it.
    count, each : int
        Number of nodes, and of ranks on each.
    """

    local: Local | None
    across: Any
    node: int
    place: int
    count: int
    each: int


#: Communicators that were split before, by what each rank said of its node.
_known: WeakKeyDictionary[Ranks, dict[bytes, Nodes]] = WeakKeyDictionary()


def nodes_of(ranks: Ranks, window: Window | None) -> Nodes:
    """The nodes of a communicator: the ranks that share `window`, or each rank by itself.

    Collective. The number of a node follows from its first rank.

    Raises
    ------
    ValueError
        On all ranks, where a window is of other ranks, or nodes are not of equally many.
    """
    # each rank's node, named by its first rank, and what is wrong with it
    first, problem = ranks.rank, 0
    if window is not None:
        group, whole = window.local.group, ranks.comm.Get_group()
        numbers = MPI.Group.Translate_ranks(group, list(range(group.size)), whole)
        whole.Free()
        problem = int(MPI.UNDEFINED in numbers)
        first = min(numbers)
    rows = ranks.gather(np.array([first, problem, window is None], np.int64))
    if rows[:, 1].any():
        raise ValueError(
            "params: lie in a shared array of other ranks than those of comm. Make it with "
            "numadam.mpi.shared_array(comm, ...) of the same communicator, or of parts of it."
        )
    leaders, sizes = np.unique(rows[:, 0], return_counts=True)
    if len(set(rows[:, 2])) > 1 or len(set(sizes)) > 1:
        raise ValueError(
            f"comm: expected equally many ranks on each node, got {sizes.tolist()}. Start as many "
            "ranks on every node, or use plain arrays as params."
        )
    split = _known.setdefault(ranks, {})
    key = rows.tobytes()
    if key not in split:
        split[key] = _split(ranks, leaders.tolist(), rows[:, 0].tolist())
    return split[key]


def _split(ranks: Ranks, leaders: list[int], firsts: list[int]) -> Nodes:
    comm, me = ranks.comm, ranks.rank
    node, place = leaders.index(firsts[me]), firsts[:me].count(firsts[me])
    each = len(firsts) // len(leaders)
    # a communicator that is not needed would cost memory on each of many ranks
    if each == 1:
        return Nodes(None, comm, node, place, len(leaders), each)
    local, across = Local(comm.Split(node, me)), comm.Split(place, node)
    ranks.on_close(local.close)
    ranks.on_close(across.Free)
    return Nodes(local, across, node, place, len(leaders), each)
