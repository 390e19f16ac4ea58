"""Exchange of CuPy arrays between ranks, a bucket at a time: sums of gradients in, parameters out.

Every rank sends each other rank the gradient of what that rank steps, and adds up what it receives
in the order of the ranks. The sums of its whole piece are formed before the step, in memory of the
size of the piece: a GPU has no cache in which they could stay. Pieces are cut into as many rounds
on all ranks, so that the memory for what is on its way does not grow with the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from numadam._mpi.cut import AHEAD, GRAIN, Cut
from numadam._mpi.transport import Message, Pending, Transport


class DeviceBuckets:
    """Rounds of one cut between ranks, each of which has parameters of its own.

    Its methods are called while the GPU of the arrays is the current one, in the order of CuPy's
    current stream.

    Parameters
    ----------
    transport : Transport
    cut : Cut
        Of as many nodes as ranks.
    rank : int
    dtype : numpy.dtype
    bucket : int
        Elements that a rank receives in a round, about.
    divisor : int
        By which sums are divided.
    """

    def __init__(
        self, transport: Transport, cut: Cut, rank: int, dtype: Any, bucket: int, divisor: int
    ) -> None:
        self._transport, self._cut, self._rank, self._dtype = transport, cut, rank, dtype
        self._divisor = divisor
        self._pieces = [cut.piece(node, 0) for node in range(cut.nodes)]
        # nobody sends to the same rank first
        self._others = [(rank + k) % cut.nodes for k in range(1, cut.nodes)]
        longest = max(cut.longest(), 1)
        size = min(bucket // max(len(self._others), 1), longest)
        self._size = max(-(-size // GRAIN) * GRAIN, GRAIN)
        if not self._others:
            self._size = longest
        self.rounds = -(-longest // self._size)
        self._sum: Any = None
        self._spares: dict[tuple[str, int, int], Any] = {}

    def total(self, grads: Sequence[Any]) -> list[Any]:
        """Add up the gradients of all ranks: of each array the part that this rank steps.

        Collective. `grads` are flat, one for each array of the cut; sums are valid until the next
        call.
        """
        import cupy

        begin, end = self._pieces[self._rank]
        if self._sum is None:
            self._sum = cupy.empty(end - begin, self._dtype)
        for k, arrived in self._each(lambda k: self._post(k, grads)):
            low, high = self._range(self._rank, k)
            if high > low:
                self._add(low, high, arrived, grads)
        return self._by_array()

    def _by_array(self) -> list[Any]:
        begin, end = self._pieces[self._rank]
        parts, at = [self._sum[:0]] * (len(self._cut.offsets) - 1), 0
        for leaf, low, high in self._cut.runs(begin, end):
            parts[leaf] = self._sum[at : at + high - low]
            at += high - low
        return parts

    def spread(self, params: Sequence[Any]) -> None:
        """Bring this rank's part of the parameters to all ranks, and theirs here. Collective.

        `params` are flat, one for each array of the cut.
        """
        for _, late in self._each(lambda k: self._exchange(k, params)):
            for low, values in late:
                self._write(params, low, values)

    def _each(self, post: Callable[[int], tuple[Pending, Any]]) -> Iterator[tuple[int, Any]]:
        """Begin all rounds, a few ahead of the one that is given out once it has arrived."""
        begun = [post(k) for k in range(min(AHEAD, self.rounds))]
        for k in range(self.rounds):
            pending, arrived = begun.pop(0)
            pending.wait()
            yield k, arrived
            if k + AHEAD < self.rounds:
                begun.append(post(k + AHEAD))

    def _range(self, rank: int, k: int) -> tuple[int, int]:
        """Range that a rank steps in round k; maybe empty."""
        begin, end = self._pieces[rank]
        low = min(begin + k * self._size, end)
        return low, min(low + self._size, end)

    def _post(self, k: int, grads: Sequence[Any]) -> tuple[Pending, dict[int, Any]]:
        """Begin to receive the gradients of round k, and to send those of the others."""
        low, high = self._range(self._rank, k)
        arrived = {rank: self._spare("in", k, rank, high - low) for rank in self._others}
        ranges = [(rank, *self._range(rank, k)) for rank in self._others]
        sends: list[Message] = [
            (rank, self._read(grads, begin, end, ("out", k, rank))) for rank, begin, end in ranges
        ]
        return self._begin(sends, list(arrived.items())), arrived

    def _exchange(self, k: int, params: Sequence[Any]) -> tuple[Pending, list[tuple[int, Any]]]:
        """Begin to send this rank's parameters of round k, and to receive the others'."""
        own = self._read(params, *self._range(self._rank, k), ("own", k, self._rank))
        receives, late = list[Message](), list[tuple[int, Any]]()
        for rank in self._others:
            low, high = self._range(rank, k)
            to = self._view(params, low, high)
            if to is None:
                to = self._spare("in", k, rank, high - low)
                late.append((low, to))
            receives.append((rank, to))
        return self._begin([(rank, own) for rank in self._others], receives), late

    def _begin(self, sends: Sequence[Message], receives: Sequence[Message]) -> Pending:
        return self._transport.begin(sends, receives) if self._others else Pending(lambda: None)

    def _add(self, low: int, high: int, arrived: dict[int, Any], grads: Sequence[Any]) -> None:
        """The sum of a range over all ranks, in their order, in its place."""
        import cupy

        begin = self._pieces[self._rank][0]
        out = self._sum[low - begin : high - begin]
        own = self._read(grads, low, high, ("own", 0, self._rank))
        parts = [arrived.get(rank, own) for rank in range(self._cut.nodes)]
        total = out
        if len(parts) > 1 and out.dtype.itemsize == 2:  # 16 bits are added up in float32
            total = cupy.empty(out.shape, np.float32)
            parts = [part.astype(np.float32) for part in parts]
        if len(parts) == 1:
            total[...] = own
        for k, part in enumerate(parts[1:], 1):
            cupy.add(parts[0] if k == 1 else total, part, out=total)
        if self._divisor != 1:  # real numbers: a complex division is another one
            numbers = total.view(total.dtype.char.lower()) if total.dtype.kind == "c" else total
            cupy.divide(numbers, numbers.dtype.type(self._divisor), out=numbers)
        if total is not out:
            out[...] = total

    # --- ranges of the flat index -----------------------------------------------------------------

    def _view(self, arrays: Sequence[Any], low: int, high: int) -> Any:
        """A range as a view; None where it lies in several arrays."""
        first = next(self._cut.runs(low, high), None)
        if first is None:
            return arrays[0][:0]
        whole = first.high - first.low == high - low
        return arrays[first.leaf][first.low : first.high] if whole else None

    def _read(self, arrays: Sequence[Any], low: int, high: int, place: tuple[str, int, int]) -> Any:
        """A range as a view, or gathered in memory of the round."""
        import cupy

        view = self._view(arrays, low, high)
        if view is not None:
            return view
        out = self._spare(*place, high - low)
        runs = self._cut.runs(low, high)
        return cupy.concatenate([arrays[leaf][first:last] for leaf, first, last in runs], out=out)

    def _write(self, arrays: Sequence[Any], low: int, values: Any) -> None:
        at = 0
        for leaf, first, last in self._cut.runs(low, low + len(values)):
            arrays[leaf][first:last] = values[at : at + last - first]
            at += last - first

    def _spare(self, what: str, k: int, rank: int, size: int) -> Any:
        """Memory of a round, of which there are as many as are on their way."""
        import cupy

        key = what, k % AHEAD, rank
        if size and key not in self._spares:
            self._spares[key] = cupy.empty(self._size, self._dtype)
        return self._spares[key][:size] if size else np.empty(0, self._dtype)
