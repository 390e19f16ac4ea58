"""Cuts of all numbers of an optimiser into one share for each rank. No MPI is loaded here."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

#: Options that a rank cannot follow in its slices, and why.
REFUSED = {
    "sparse": "the gradients of all ranks are added up densely here. Leave it out, and pass dense "
    "gradients.",
    "count": "needs the option sparse, which is not for several ranks; leave it out.",
    "comm": "is the third argument here: Sharded(kind, params, comm).",
}

# --- cut of parameters among ranks ---------------------------------------------------------------
# All arrays are one flat index, in the order of the tree and of C. A long array is a group, and so
# are the short ones between two long ones. Each group is cut into a slice for each rank of a node,
# the same on every node, and each slice into a piece for each node::
#
#     group        |        slice of local rank 0        |        slice of local rank 1        |
#     pieces       |  node 0    |  node 1   |  node 2    |  node 0    |  node 1   |  node 2    |
#
# So the ranks of a node together hold all of it (they share memory), and ranks of the same number
# on all nodes hold one slice together (they exchange it). The pieces of a long array lie in that
# array on all ranks, and are sent from there.

#: Cuts are at multiples of so many elements: the begin of a cache line, where the array's is.
GRAIN = 64
#: Elements of a piece from which on its array is a group of its own: a collective has more work,
#: but copies nothing.
LONG = 32_768


class Run(NamedTuple):
    """Elements `low` to before `high` of an array, flat in C order."""

    leaf: int
    low: int
    high: int


def share(begin: int, end: int, number: int, of: int) -> tuple[int, int]:
    """The share of one of several in a range; maybe empty."""
    blocks = -(-(end - begin) // GRAIN)
    low, high = (min(begin + blocks * k // of * GRAIN, end) for k in (number, number + 1))
    return low, high


class Cut:
    """The pieces of all ranks.

    Parameters
    ----------
    sizes : sequence of int
        Elements of each array that is not frozen.
    nodes, local : int
        Number of nodes, and of ranks on each.

    Attributes
    ----------
    offsets : list of int
        Where each array begins in the flat index; last its end.
    groups : list of (int, int)
        Begin and end of each in the flat index.
    """

    def __init__(self, sizes: Sequence[int], nodes: int, local: int) -> None:
        self.offsets = [0, *itertools.accumulate(sizes)]
        self.nodes, self.local = nodes, local
        self.groups: list[tuple[int, int]] = []
        joins = False  # the last group is of short arrays
        for begin, end in itertools.pairwise(self.offsets):
            short = end - begin < LONG * nodes * local
            if short and joins:
                begin, _ = self.groups.pop()
            self.groups.append((begin, end))
            joins = short

    @property
    def end(self) -> int:
        """Elements of all arrays together."""
        return self.offsets[-1]

    def pieces(self, node: int, local: int) -> list[tuple[int, int]]:
        """Begin and end in the flat index of what one rank steps of each group; maybe empty."""
        slices = (share(*group, local, self.local) for group in self.groups)
        return [share(*piece, node, self.nodes) for piece in slices]

    def runs(self, begin: int, end: int) -> Iterator[Run]:
        """The parts of arrays, in order, that a range of the flat index is made of."""
        leaf = bisect_right(self.offsets, begin) - 1
        while begin < end:
            after = min(end, self.offsets[leaf + 1])
            if after > begin:
                yield Run(leaf, begin - self.offsets[leaf], after - self.offsets[leaf])
                begin = after
            leaf += 1

    def parts(self, pieces: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """For each array the elements, low to before high, that lie in pieces; (0, 0) for none."""
        found = [(0, 0)] * (len(self.offsets) - 1)
        for leaf, low, high in itertools.chain(*(self.runs(*piece) for piece in pieces)):
            found[leaf] = low, high
        return found


# --- arrays as one flat index --------------------------------------------------------------------


class Flat:
    """Flat arrays, one after the other, which begin where `cut` says.

    `leaves` are these arrays in a list, or one array that holds all of them already.
    """

    def __init__(self, cut: Cut, leaves: Any) -> None:
        self._cut, self._leaves = cut, leaves
        self._whole = not isinstance(leaves, list)

    def view(self, begin: int, end: int) -> Any:
        """A range as a view; None where it lies in several arrays."""
        if self._whole:
            return self._leaves[begin:end]
        run = next(self._cut.runs(begin, end), None)
        if run is None:
            return self._leaves[0][:0]
        if run.high - run.low < end - begin:
            return None
        return self._leaves[run.leaf][run.low : run.high]

    def leaves(self) -> list[Any]:
        """Each array as a view."""
        if not self._whole:
            return list(self._leaves)
        return [self._leaves[at:end] for at, end in itertools.pairwise(self._cut.offsets)]

    def read(self, begin: int, end: int, memory: Any = None, copied: bool = False) -> Any:
        """A range, as a view or a copy in `memory`; one array needs none."""
        view = self.view(begin, end)
        if view is not None and not copied:
            return view
        parts = [view]
        if view is None:
            runs = self._cut.runs(begin, end)
            parts = [self._leaves[leaf][low:high] for leaf, low, high in runs]
        return np.concatenate(parts, out=memory[: end - begin])

    def write(self, begin: int, values: Any) -> None:
        """Write a range from its begin on."""
        at = 0
        for leaf, low, high in self._cut.runs(begin, begin + len(values)):
            self._leaves[leaf][low:high] = values[at : at + high - low]
            at += high - low
