"""The two collectives around a step, in chunks of a fixed size: gradients in, parameters out.

`Ialltoallv` brings what the other nodes have as the gradient of this rank's piece, and the sum is
formed here, in the order of the nodes: the order of a reduction by MPI is not fixed. `Iallgatherv`
brings the new parameters of all pieces. Pieces are cut into as many chunks on all ranks, of which a
few are on their way, so that the memory for what is received does not grow with the parameters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from numadam._mpi.cut import GRAIN, Cut
from numadam._mpi.flat import Flat
from numadam._mpi.nodes import Nodes
from numadam._mpi.transport import Direct, Pieces, Wait

#: Chunks on their way while one is used; each has memory of its own.
_AHEAD = 2
#: Bytes that displacements in a message of MPI reach to.
_REACH = 2**31


class Collectives:
    """Sums of gradients and exchange of parameters, of one cut.

    Parameters
    ----------
    nodes : Nodes
    cut : Cut
    transport : Direct
    dtype : dtype
    bucket : int
        Elements that a rank receives in a chunk, about.
    divisor : int
        By which sums are divided.

    Attributes
    ----------
    size : int
        Elements of a chunk, at most.
    """

    def __init__(
        self, nodes: Nodes, cut: Cut, transport: Direct, dtype: Any, bucket: int, divisor: int
    ) -> None:
        self._own, self._divisor, self._dtype = nodes.node, divisor, dtype
        self._transport = transport
        self._pieces = [cut.pieces(node, nodes.place) for node in range(nodes.count)]
        longest, others = cut.longest(), max(nodes.count - 1, 1)
        size = -(-bucket // others // GRAIN) * GRAIN
        self.size = max(min(size, max(longest)), 1)
        #: the group of each chunk, and where in each piece it begins
        self._chunks = [(k, at) for k, n in enumerate(longest) for at in range(0, n, self.size)]
        many = others * self.size if nodes.count > 1 else 0
        self._sent, self._received = ([self.empty(many) for _ in range(_AHEAD)] for _ in range(2))
        self._new = [self.empty(many and many + self.size) for _ in range(_AHEAD)]
        self._gathered = self.empty(self.size)
        self._spreading: deque[tuple[Wait, Pieces | None, list[tuple[int, int]]]] = deque()

    @property
    def chunks(self) -> int:
        """Number of chunks, the same on all ranks."""
        return len(self._chunks)

    def empty(self, size: int) -> Any:
        """New memory for so many elements."""
        return self._transport.empty(size, self._dtype)

    def ranges(self, k: int) -> list[tuple[int, int]]:
        """Range of chunk k in each node's piece; maybe empty."""
        group, at = self._chunks[k]
        pairs = [pieces[group] for pieces in self._pieces]
        lows = [min(begin + at, end) for begin, end in pairs]
        return [(low, min(low + self.size, end)) for low, (_, end) in zip(lows, pairs, strict=True)]

    def sums(self, sources: Sequence[Flat], out: Any, whole: bool) -> Iterator[tuple[int, Any]]:
        """Sums of all ranks' gradients: of each chunk of this rank's piece its begin and the sums.

        Collective.

        Parameters
        ----------
        sources : sequence of Flat
            The gradients of this node's ranks, in their order.
        out : array
            Memory of the sums: of all of the piece with `whole`, else of one chunk.
        """
        coming = deque(self._post(k, sources) for k in range(min(_AHEAD, self.chunks)))
        at = 0
        for k in range(self.chunks):
            wait, received = coming.popleft()
            wait()
            low, high = self.ranges(k)[self._own]
            total = out[at : at + high - low]
            at += high - low if whole else 0
            if high > low:
                _add(self._parts(low, high, received, sources), total, self._divisor)
            yield low, total
            if k + _AHEAD < self.chunks:
                coming.append(self._post(k + _AHEAD, sources))

    def _parts(self, low: int, high: int, received: Pieces, sources: Sequence[Flat]) -> list[Any]:
        """The gradients of a range by node; where there is one node, by rank."""
        if len(self._pieces) == 1:
            return [flat.view(low, high) for flat in sources]
        array, *places = received
        parts = [array[at : at + count] for at, count in zip(*places, strict=True)]
        parts[self._own] = _of_node(sources, low, high, self._gathered)
        return parts

    def _post(self, k: int, sources: Sequence[Flat]) -> tuple[Wait, Pieces]:
        """Begin to exchange the gradients of chunk k with the other nodes."""
        ranges = self.ranges(k)
        low, high = ranges[self._own]
        counts = [0 if node == self._own else high - low for node in range(len(ranges))]
        received = _packed(self._received[k % _AHEAD], counts)
        if len(ranges) == 1:
            return (lambda: None), received
        ranges[self._own] = 0, 0
        sent = _in_place(sources[0], ranges) if len(sources) == 1 else None
        if sent is None:
            memory = self._sent[k % _AHEAD]
            sent = _packed(memory, [last - first for first, last in ranges])
            for (first, last), at in zip(ranges, sent.begins, strict=True):
                _of_node(sources, first, last, memory[at:], copied=True)
        return self._transport.alltoall(sent, received), received

    def spread(self, k: int, params: Flat) -> None:
        """Begin to bring the parameters of chunk k to the other nodes, and theirs here. Collective.

        They are there after `settle`.
        """
        ranges = self.ranges(k)
        if len(ranges) == 1:
            return
        if len(self._spreading) == _AHEAD:
            self._settle_first(params)
        pieces, copied = _in_place(params, ranges), None
        if pieces is None:
            memory, counts = self._new[k % _AHEAD], [high - low for low, high in ranges]
            pieces = copied = _packed(memory, counts)
            params.read(*ranges[self._own], memory[pieces.begins[self._own] :], copied=True)
        self._spreading.append((self._transport.allgather(pieces), copied, ranges))

    def settle(self, params: Flat) -> None:
        """Wait until all parameters are there, and those of this rank have gone."""
        while self._spreading:
            self._settle_first(params)

    def _settle_first(self, params: Flat) -> None:
        wait, copied, ranges = self._spreading.popleft()
        wait()
        if copied is None:
            return
        for node, (low, _) in enumerate(ranges):
            if node != self._own:
                at = copied.begins[node]
                params.write(low, copied.array[at : at + copied.counts[node]])


def _in_place(flat: Flat, ranges: Sequence[tuple[int, int]]) -> Pieces | None:
    """Ranges as pieces of the one array that holds them all, where there is one."""
    there = [(low, high) for low, high in ranges if high > low]
    first = min((low for low, _ in there), default=0)
    view = flat.view(first, max((high for _, high in there), default=0))
    if view is None or view.nbytes >= _REACH:
        return None
    begins = [low - first if high > low else 0 for low, high in ranges]
    return Pieces(view, begins, [high - low for low, high in ranges])


def _packed(memory: Any, counts: list[int]) -> Pieces:
    """Pieces one after the other in memory."""
    return Pieces(memory, np.cumsum([0, *counts[:-1]]).tolist(), counts)


def _of_node(
    sources: Sequence[Flat], low: int, high: int, memory: Any, copied: bool = False
) -> Any:
    """The sum of the gradients of a node's ranks in a range, in memory or as a view."""
    if len(sources) == 1:
        return sources[0].read(low, high, memory, copied)
    out = memory[: high - low]
    _add([flat.view(low, high) for flat in sources], out)
    return out


def _add(parts: Sequence[Any], out: Any, divisor: int = 1) -> None:
    """Write the sum of arrays, formed in their order, and divided; of 16 bits in float32."""
    total = out
    if len(parts) > 1 and out.dtype.itemsize == 2:
        total = np.empty_like(out, dtype=np.float32)
        parts = [part.astype(np.float32) for part in parts]
    if len(parts) == 1:
        total[...] = parts[0]
    else:
        np.add(parts[0], parts[1], out=total)
    for part in parts[2:]:
        np.add(total, part, out=total)
    if divisor != 1:  # real numbers: a complex division is another one
        numbers = total.view(total.dtype.char.lower()) if total.dtype.kind == "c" else total
        np.divide(numbers, numbers.dtype.type(divisor), out=numbers)
    if total is not out:
        out[...] = total
