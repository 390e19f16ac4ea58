"""Steps of `Sharded`: gradients of all ranks are summed, each rank steps its slices."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from numadam._arrays import checks as ar
from numadam._arrays.interop import SKEW, address_of, aligned_zeros, as_views, is_cupy
from numadam._arrays.tree import Active, replaced, same_objects
from numadam._backend import FunctionalStep
from numadam._core import plan as pl
from numadam._core.parts import parts_of
from numadam._mpi.cut import GRAIN, LONG, Cut, Flat
from numadam._mpi.slices import Placement
from numadam._mpi.transport import Direct, Pieces, Wait, transport_of
from numadam._mpi.windows import Nodes, Window, zero

# --- gradients of this rank ----------------------------------------------------------------------

#: Bytes by which gradients begin behind the start of a page, as in `CpuBackend.gradients`.
_SKEW = 3 * SKEW


class Gradients:
    """Gradients of the ranks of a node. Making them is collective where there are several.

    Parameters
    ----------
    nodes : Nodes
    cut : Cut
    tree : Active
        Structure of the parameters without frozen arrays.
    leaves : sequence of arrays
        The parameters that are not frozen.
    """

    def __init__(self, nodes: Nodes, cut: Cut, tree: Active, leaves: Sequence[Any]) -> None:
        self._cut, self._tree, self._leaves, self._own = cut, tree, leaves, None
        self._dtype, self._shapes = leaves[0].dtype, [leaf.shape for leaf in leaves]
        self._titles, self._of = tree.names("grads"), tree.names("params")
        self._is_host = not is_cupy(leaves[0])
        self._views: list[Any] = []
        self._nested: Any = None
        self._window: Window | None = None
        self._shared: list[Flat] = []
        if nodes.local is not None:
            nbytes = cut.end * self._dtype.itemsize + _SKEW
            self._window = Window(nodes.local, nbytes)
            segments = [self._window.segment(k, nbytes) for k in range(nodes.each)]
            zero(segments[nodes.place])
            flats = [segment[_SKEW:].view(self._dtype) for segment in segments]
            self._shared = [Flat(cut, flat) for flat in flats]
            self._own = flats[nodes.place]
        if self._is_host:
            spans = np.array([(address_of(leaf), leaf.nbytes) for leaf in leaves]).reshape(-1, 2)
            spans = spans[np.argsort(spans[:, 0])]
            self._low, self._high = spans[:, 0], spans.sum(1)

    @property
    def buffers(self) -> Any:
        """Buffers in the structure of the parameters, in one flat buffer that starts as zeros."""
        if self._nested is None:
            if self._own is None:
                self._own = self._zeros()
            at = 0
            for shape, leaf in zip(self._shapes, self._leaves, strict=True):
                self._views.append(self._own[at : at + leaf.size].reshape(shape))
                at += leaf.size
            self._nested = self._tree.unflatten(self._views)
        return self._nested

    def _zeros(self) -> Any:
        if self._is_host:
            return aligned_zeros(self._cut.end * self._dtype.itemsize + _SKEW)[_SKEW:].view(
                self._dtype
            )
        from numadam._mpi.on_device import zeros

        return zeros(self._cut.end, self._leaves[0])

    def sources(self, grads: Any) -> list[Flat]:
        """The gradients of this node's ranks, in their order, checked; None: those in `buffers`.

        Where ranks share memory others are copied into `buffers`.

        Raises
        ------
        TypeError, ValueError
            Where an array does not fit, with its name.
        """
        if grads is None:
            self._refuse_replaced()
            return self._shared or [Flat(self._cut, self._own)]
        leaves = self._tree.flatten(grads, "grads")
        if self._nested is not None and same_objects(leaves, self._views):
            return self.sources(None)
        flat = self._flat(leaves)
        if self._window is None:
            return [Flat(self._cut, flat)]
        at = 0
        for leaf in flat:
            self._own[at : at + leaf.size] = leaf  # type: ignore[index]
            at += leaf.size
        return self._shared

    def _flat(self, leaves: Sequence[Any]) -> list[Any]:
        """Gradients that were passed, checked and flat."""
        if not self._is_host:
            from numadam._mpi.on_device import flat_gradients

            return flat_gradients(leaves, self._titles, self._of, self._leaves)
        flat = self.checked(leaves)
        if self._window is None:
            self._refuse_overlap(leaves, flat)
        return flat

    def sync(self) -> None:
        """See what the neighbours have written, and let them see what this rank has."""
        if self._window is not None:
            self._window.sync()

    def checked(self, leaves: Sequence[Any]) -> list[np.ndarray]:
        """The arrays flat, in C order: copies of those that lie otherwise."""
        dtype, flat = self._dtype, []
        for k, (leaf, shape) in enumerate(zip(leaves, self._shapes, strict=True)):
            plain = type(leaf) is np.ndarray and leaf.dtype == dtype and leaf.shape == shape
            if not plain:
                leaf = self._mended(leaf, shape, k)
            if not (leaf.flags.c_contiguous and leaf.flags.aligned):
                leaf = leaf.copy(order="C")
            flat.append(leaf.reshape(-1))
        return flat

    def _mended(self, leaf: Any, shape: tuple[int, ...], k: int) -> np.ndarray:
        """A plain array for one of another type, or the error."""
        title, dtype = self._titles[k], self._dtype
        number = ar.number_as_array(leaf, dtype) if shape == () else None
        leaf = leaf if number is None else number
        if not ar.is_numpy(leaf):
            (leaf,) = as_views([leaf], "NumPy", False, lambda _: title)
        if not ar.is_numpy(leaf):
            raise TypeError(f"{title}: {ar.describe(leaf, 'NumPy')}")
        if leaf.dtype != dtype:
            raise TypeError(ar.bad_dtype(title, leaf.dtype, dtype, self._of[k]))
        if leaf.shape != shape:
            raise ValueError(ar.bad_shape(title, leaf.shape, shape, self._of[k]))
        return np.ndarray.view(leaf, dtype, np.ndarray)

    def _refuse_overlap(self, leaves: Sequence[Any], flat: Sequence[np.ndarray]) -> None:
        """Refuse gradients in the memory of parameters: a step would read what it has written."""
        low = np.array([address_of(one) for one in flat])
        high = low + [one.nbytes for one in flat]
        behind = np.searchsorted(self._high, low, side="right")  # the first that ends behind it
        near = np.flatnonzero(np.append(self._low, np.iinfo(np.int64).max)[behind] < high)
        if len(near):
            written = list(zip(self._of, self._leaves, strict=True))
            problem = ar.shared_memory(written, [(self._titles[k], flat[k]) for k in near.tolist()])
            if problem:
                raise ValueError(problem)

    def _refuse_replaced(self) -> None:
        if self._nested is None:
            raise ValueError(ar.NO_GRADIENTS)
        now = self._tree.flatten(self._nested, "opt.grads")
        if not same_objects(now, self._views):
            raise replaced(self._tree.names("opt.grads"), now, self._views)


# --- the two collectives around a step -----------------------------------------------------------
# `Ialltoallv` brings what the other nodes have as the gradient of this rank's piece, and the sum
# is formed here, in the order of the nodes: the order of a reduction by MPI is not fixed.
# `Iallgatherv` brings the new parameters of all pieces. Pieces are cut into as many chunks on all
# ranks, of which a few are on their way, so that the memory for what is received does not grow
# with the parameters.

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


# --- steps of parameters that all ranks hold -----------------------------------------------------


class Steps:
    """Work of all ranks in a step, after they have agreed on it. Collective to make.

    Parameters
    ----------
    place : Placement
    shard : Optimizer
        Of this rank's part.
    bucket_bytes : int
        Bytes of gradients that a rank receives in a chunk, about.
    divisor : int
        By which sums are divided.
    transport : str
        As the user asked for.

    Attributes
    ----------
    gradients : Gradients
    transport : str
        The name of the transport.
    """

    def __init__(
        self, place: Placement, shard: Any, bucket_bytes: int, divisor: int, transport: str
    ) -> None:
        self._place, self._shard = place, shard
        self.gradients = Gradients(place.nodes, place.cut, place.active, place.leaves)
        kind = transport_of(place.ranks, transport, place.whole.home)
        self.transport = kind.name
        bucket = bucket_bytes // place.dtype.itemsize
        with self._on_gpu():
            about = place.nodes, place.cut, kind(place.nodes.across), place.dtype
            self._collectives = Collectives(*about, bucket, divisor)
        self._sum: Any = None
        self._chunked = self._by_chunks()

    def _by_chunks(self) -> bool:
        """Whether each chunk is stepped by itself, as the functional API steps arrays.

        A norm is formed before the first element, and other options have arrays or counters that
        only the optimiser has. A GPU has no cache in which a sum could stay, and a call for each
        part of a short array would take longer than the sum.
        """
        place, plan = self._place, parts_of(self._shard).settings.plan
        only_optimiser = plan.norm or plan.accumulate or plan.average or plan.master
        of_elements = plan.elementwise or plan.bounds == "array"
        return (
            place.whole.home == "NumPy"
            and place.ranks.size > 1
            and not (only_optimiser or of_elements or plan.products)
            and place.cut.end >= LONG * sum(leaf.size > 0 for leaf in place.leaves)
        )

    def _on_gpu(self) -> AbstractContextManager[None]:
        if self._place.whole.home == "NumPy":
            return nullcontext()
        from numadam._cuda.launch import on_gpu

        return on_gpu(int(self._place.leaves[0].device.id))

    def step(self, sources: Sequence[Flat], rate: float, lr: float | None) -> None:
        """Take the step with the sum of the gradients of all ranks.

        Parameters
        ----------
        sources : sequence of Flat
            The gradients of this node's ranks.
        rate : float
            The learning rate of this step.
        lr : float or None
            As the user passed it.
        """
        if self._chunked:
            self._step_chunks(sources, rate)
            return
        place, t = self._place, self._shard.t
        if place.ranks.size == 1:
            grads = place.active.unflatten(sources[0].leaves(place.parts))
        else:
            grads = place.views(self._total(sources))
        try:
            self._shard.step(grads, lr=lr)
        finally:
            if self._shard.t != t:
                self.spread()

    def _step_chunks(self, sources: Sequence[Flat], rate: float) -> None:
        """Step each chunk when its gradients are there: their sum stays in the cache."""
        place, collectives = self._place, self._collectives
        if self._sum is None:
            self._sum = collectives.empty(collectives.size)
        _, settings, backend, _ = parts_of(self._shard)
        groups = []  # of one row each: a call steps one array
        for row in range(len(settings.control)):
            groups.append(settings.copy())
            groups[row].control = settings.control[row : row + 1]
        t = backend.t + 1
        for k, (low, sums) in enumerate(collectives.sums(sources, self._sum, whole=False)):
            at = 0
            for leaf, first, last in place.cut.runs(low, low + len(sums)):
                arrays = self._arrays(leaf, first, last)
                arrays[pl.G] = sums[at : at + last - first]
                alone = groups[settings.group_of_leaf[leaf]]
                backend.update(FunctionalStep(alone, (), tuple(arrays), "params", t, rate))
                at += last - first
            collectives.spread(k, place.flat)
        collectives.settle(place.flat)
        self._shard.t = t

    def _arrays(self, leaf: int, low: int, high: int) -> list[Any]:
        """By slot the arrays of a part of a parameter that lies in this rank's piece."""
        _, settings, backend, _ = parts_of(self._shard)
        first, _ = self._place.parts[leaf]
        arrays: list[Any] = [None] * pl.CHECKED
        arrays[pl.P] = backend.params[leaf][low - first : high - first]
        for name, slot in settings.plan.state_slots.items():
            arrays[slot] = backend.state[name][leaf][low - first : high - first]
        return arrays

    def _total(self, sources: Sequence[Flat]) -> Any:
        """The sums over all ranks of this rank's part."""
        with self._on_gpu():
            if self._sum is None:
                self._sum = self._collectives.empty(self._place.size)
            for _ in self._collectives.sums(sources, self._sum, whole=True):
                pass
        return self._sum

    def spread(self) -> None:
        """Give this rank's part of the parameters to the other nodes, and take theirs. Collective.

        Between nodes alone; `barrier` has to follow.
        """
        with self._on_gpu():
            for k in range(self._collectives.chunks):
                self._collectives.spread(k, self._place.flat)
            self._collectives.settle(self._place.flat)

    def barrier(self) -> None:
        """Wait until the ranks of this node have written their parts, and see them."""
        local = self._place.nodes.local
        if local is not None:
            self.gradients.sync()
            local.comm.Barrier()
            self.gradients.sync()
