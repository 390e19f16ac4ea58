"""Cut of parameters among ranks: which elements of which array a rank steps. No MPI here.

All arrays are one flat index, in the order of the tree and of C. It is cut into a slice for each
rank of a node, the same on every node, and each slice into a piece for each node::

    flat index   |        slice of local rank 0        |        slice of local rank 1        |
    pieces       |  node 0    |  node 1   |  node 2    |  node 0    |  node 1   |  node 2    |

So the ranks of a node together hold all of it (they share memory), and ranks of the same number on
all nodes hold one slice together (they exchange it). One large array is cut like many small ones.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

#: Cuts are at multiples of so many elements: the begin of a cache line, where the array's is.
GRAIN = 64
#: Rounds on their way while one is stepped; each has memory of its own.
AHEAD = 2
#: Part of an array, in elements, from which on it is a message of its own, sent and received where
#: it lies: gathering 20 arrays of 1M into longer messages cost 10 to 25 % of a step.
LONG = 32_768


class Run(NamedTuple):
    """Elements `low` to before `high` of an array, flat in C order."""

    leaf: int
    low: int
    high: int


def share(begin: int, end: int, number: int, of: int) -> tuple[int, int]:
    """The share of one of several in a range that begins on a multiple of `GRAIN`; maybe empty."""
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
    """

    def __init__(self, sizes: Sequence[int], nodes: int, local: int) -> None:
        self.offsets = [0, *itertools.accumulate(sizes)]
        self.nodes, self.local = nodes, local

    @property
    def end(self) -> int:
        """Elements of all arrays together."""
        return self.offsets[-1]

    def piece(self, node: int, local: int) -> tuple[int, int]:
        """Begin and end in the flat index of what one rank steps."""
        return share(*share(0, self.end, local, self.local), node, self.nodes)

    def longest(self) -> int:
        """Elements of the longest piece."""
        every = itertools.product(range(self.nodes), range(self.local))
        return max(end - begin for begin, end in itertools.starmap(self.piece, every))

    def runs(self, begin: int, end: int) -> Iterator[Run]:
        """The parts of arrays, in order, that a range of the flat index is made of."""
        leaf = bisect_right(self.offsets, begin) - 1
        while begin < end:
            after = min(end, self.offsets[leaf + 1])
            if after > begin:
                yield Run(leaf, begin - self.offsets[leaf], after - self.offsets[leaf])
                begin = after
            leaf += 1

    def messages(self, begin: int, end: int) -> list[tuple[int, int]]:
        """The ranges in which a range is sent: each long part of an array, and what is between."""
        found: list[tuple[int, int]] = []
        joins = False  # the last message is of short parts
        for leaf, low, high in self.runs(begin, end):
            first, last = self.offsets[leaf] + low, self.offsets[leaf] + high
            short = last - first < LONG
            if short and joins:
                first, _ = found.pop()
            found.append((first, last))
            joins = short
        return found

    def parts(self, begin: int, end: int) -> list[tuple[int, int]]:
        """For each array the elements, low to before high, that lie in a range; (0, 0) for none."""
        found = [(0, 0)] * (len(self.offsets) - 1)
        for leaf, low, high in self.runs(begin, end):
            found[leaf] = low, high
        return found
