"""Exchange between nodes, a bucket at a time: sums of gradients in, parameters out.

Every rank sends each other rank of its number (one a node) what that rank steps, and adds up what
it receives, in the order of the nodes: there is no reduction by MPI, whose order is not fixed. All
pieces are cut into as many rounds, so that one bucket is on its way while another is stepped, and
the memory for what is received does not grow with the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from numadam._mpi.cut import AHEAD, Cut
from numadam._mpi.flat import Flat, Spare
from numadam._mpi.nodes import Nodes

#: Elements that are summed up at a time where sums are kept, in the cache.
_WINDOW = 65_536
#: Tags of both kinds of messages.
_SUMMAND, _RESULT = 1, 2


class Buckets:
    """Rounds of one cut between nodes.

    Parameters
    ----------
    nodes : Nodes
    cut : Cut
    dtype : numpy.dtype
    bucket : int
        Elements that a rank receives in a round, about.
    part : int
        Elements of which a bucket holds a whole number.
    divisor : int
        By which sums are divided.

    Attributes
    ----------
    rounds : int
    """

    def __init__(
        self, nodes: Nodes, cut: Cut, dtype: np.dtype, bucket: int, part: int, divisor: int
    ) -> None:
        self._nodes, self._cut = nodes, cut
        self._divisor = divisor
        longest = max(cut.longest(), 1)
        # to and from each of the other nodes
        size = longest if nodes.count == 1 else bucket // (nodes.count - 1)
        self._size = -(-min(size, longest) // part) * part
        self.rounds = -(-longest // self._size)
        # nobody sends to the same node first
        self._others = [(nodes.node + k) % nodes.count for k in range(1, nodes.count)]
        self._sources: Sequence[Flat] = ()
        self._own = Spare(_WINDOW, dtype)
        self._in = self._spares(dtype)  # gradients that come in
        self._out = self._spares(dtype)  # those that go out, where they are no view
        self._new = self._spares(dtype)  # parameters that come in, where they are for many arrays
        self._old = [Spare(self._size, dtype) for _ in range(AHEAD)]  # those that go out
        self._arrived: list[dict[int, np.ndarray]] = [{} for _ in range(AHEAD)]
        self._waits: list[list[MPI.Request]] = [[] for _ in range(AHEAD)]
        self._sends: list[list[MPI.Request]] = [[] for _ in range(AHEAD)]
        self._spread: list[list[MPI.Request]] = [[] for _ in range(AHEAD)]
        self._late: list[list[tuple[int, np.ndarray]]] = [[] for _ in range(AHEAD)]

    def _spares(self, dtype: np.dtype) -> list[dict[int, Spare]]:
        return [{node: Spare(self._size, dtype) for node in self._others} for _ in range(AHEAD)]

    def _range(self, node: int, k: int) -> tuple[int, int]:
        """Range that a node's rank of this number steps in round k; maybe empty."""
        begin, end = self._cut.piece(node, self._nodes.place)
        low = min(begin + k * self._size, end)
        return low, min(low + self._size, end)

    def begin(self, sources: Sequence[Flat]) -> None:
        """Begin to send the gradients of this node's ranks, in their order, and to receive others.

        Collective. `sources` are read until the last round was summed up.
        """
        self._sources = sources
        for k in range(min(AHEAD, self.rounds)):
            self._post(k)

    def arrived(self, k: int) -> tuple[int, int, dict[int, np.ndarray]]:
        """Begin and end of round k of this rank's piece, and its gradients from other nodes."""
        MPI.Request.Waitall(self._waits[k % AHEAD])
        return *self._range(self._nodes.node, k), self._arrived[k % AHEAD]

    def done(self, k: int) -> None:
        """Go on, when the gradients of round k have been used."""
        MPI.Request.Waitall(self._sends[k % AHEAD])
        if k + AHEAD < self.rounds:
            self._post(k + AHEAD)

    def add_up(self, k: int, out: np.ndarray) -> None:
        """Write the sums of round k; `out` is for all of this rank's piece."""
        low, high, arrived = self.arrived(k)
        begin, _ = self._cut.piece(self._nodes.node, self._nodes.place)
        for first in range(low, high, _WINDOW):
            last = min(first + _WINDOW, high)
            come = {node: one[first - low : last - low] for node, one in arrived.items()}
            if self._nodes.count == 1:
                parts = [source.read(first, last, self._own) for source in self._sources]
            else:
                come[self._nodes.node] = self._of_node(first, last, self._own)
                parts = [come[node] for node in range(self._nodes.count)]
            _add(parts, out[first - begin : last - begin], self._divisor)

    def _post(self, k: int) -> None:
        """Begin to receive and to send round k."""
        at, comm, arrived = k % AHEAD, self._nodes.across, {}
        low, high = self._range(self._nodes.node, k)
        waits, sends = [], []
        if high > low:
            for node in self._others:
                arrived[node] = come = self._in[at][node].of(high - low)
                for first, last in self._cut.messages(low, high):
                    part = _raw(come[first - low : last - low])
                    waits.append(comm.Irecv(part, node, _SUMMAND))
        for node in self._others:
            low, high = self._range(node, k)
            for first, last in self._cut.messages(low, high):
                values = self._of_node(first, last, self._out[at][node], first - low)
                sends.append(comm.Isend(_raw(values), node, _SUMMAND))
        self._waits[at], self._sends[at], self._arrived[at] = waits, sends, arrived

    def _of_node(self, low: int, high: int, spare: Spare, at: int = 0) -> np.ndarray:
        """The sum of the gradients of this node's ranks, in a range; a copy lies from `at` on."""
        if len(self._sources) == 1:
            return self._sources[0].read(low, high, spare, at)
        parts = [source.read(low, high, spare) for source in self._sources]  # all of them views
        out = spare.of(high - low, at)
        _add(parts, out)
        return out

    def spread(self, k: int, params: Flat) -> None:
        """Begin to send this rank's parameters of round k, and to receive the others'. Collective.

        They are there after `settle`.
        """
        at, comm = k % AHEAD, self._nodes.across
        self._settle(at, params)
        requests = self._spread[at]
        for node in self._others:
            low, high = self._range(node, k)
            for first, last in self._cut.messages(low, high):
                to = params.view(first, last)
                if to is None:
                    to = self._new[at][node].of(last - first, first - low)
                    self._late[at].append((first, to))
                requests.append(comm.Irecv(_raw(to), node, _RESULT))
        if not self._others:
            return
        low, high = self._range(self._nodes.node, k)
        for first, last in self._cut.messages(low, high):
            values = _raw(params.read(first, last, self._old[at], first - low))
            requests += [comm.Isend(values, node, _RESULT) for node in self._others]

    def settle(self, params: Flat) -> None:
        """Wait until all parameters are there, and those of this rank are on their way."""
        for k in range(AHEAD):
            self._settle((self.rounds + k) % AHEAD, params)

    def _settle(self, at: int, params: Flat) -> None:
        MPI.Request.Waitall(self._spread[at])
        for begin, values in self._late[at]:
            params.write(begin, values)
        self._spread[at], self._late[at] = [], []


def _raw(values: np.ndarray) -> list[object]:
    """An array as bytes, for dtypes that MPI does not know."""
    return [values.view(np.uint8), MPI.BYTE]


def _add(parts: Sequence[np.ndarray], out: np.ndarray, divisor: int = 1) -> None:
    """Write the sum of arrays, formed in their order, and divided; of 16 bits in float32."""
    total = out
    if len(parts) > 1 and out.dtype.itemsize == 2:
        total, parts = np.empty(out.shape, np.float32), [one.astype(np.float32) for one in parts]
    if len(parts) == 1:
        total[...] = parts[0]
    else:
        np.add(parts[0], parts[1], out=total)
    for part in parts[2:]:
        np.add(total, part, out=total)
    if divisor != 1:
        numbers = total.view(total.real.dtype)
        np.divide(numbers, numbers.dtype.type(divisor), out=numbers)
    if total is not out:
        out[...] = total
