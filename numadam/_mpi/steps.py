"""Steps of `Sharded`: gradients of all ranks are summed, each rank steps its slices."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from numadam._arrays import checks as ar
from numadam._arrays.interop import SKEW, address_of, aligned_zeros, as_views
from numadam._arrays.tree import refuse_replaced, same_objects
from numadam._backend import FunctionalStep
from numadam._core import plan as pl
from numadam._core.parts import parts_of
from numadam._mpi.cut import GRAIN, LONG, Flat
from numadam._mpi.slices import Placement
from numadam._mpi.transport import Direct, Pieces, Wait, transport_of
from numadam._mpi.windows import Window, zero

# --- gradients of this rank ----------------------------------------------------------------------

#: Bytes by which gradients begin behind the start of a page, as in `CpuBackend.gradients`.
_SKEW = 3 * SKEW


class Gradients:
    """Gradients of the ranks of a node. Making them is collective where there are several."""

    def __init__(self, place: Placement) -> None:
        self._place, self._cut, self._tree = place, place.cut, place.active
        self._leaves, self._dtype = place.leaves, place.dtype
        self._shapes = [leaf.shape for leaf in place.leaves]
        self._titles, self._of = self._tree.names("grads"), self._tree.names("params")
        self._own: Any = None
        self._views: list[Any] = []
        self._nested: Any = None
        self._window: Window | None = None
        self._shared: list[Flat] = []
        nodes = place.nodes
        if nodes.local is not None:
            nbytes = self._cut.end * self._dtype.itemsize + _SKEW
            self._window = Window(nodes.local, nbytes)
            segments = [self._window.segment(k, nbytes) for k in range(nodes.each)]
            zero(segments[nodes.place])
            flats = [segment[_SKEW:].view(self._dtype) for segment in segments]
            self._shared = [Flat(self._cut, flat) for flat in flats]
            self._own = flats[nodes.place]

    @property
    def buffers(self) -> Any:
        """Buffers in the structure of the parameters, in one flat buffer that starts as zeros."""
        if self._nested is None:
            if self._own is None:
                self._own = self._zeros()
            pairs = zip(self._cut.offsets, self._leaves)  # noqa: B905  # the last offset is the end
            self._views = [self._own[at : at + p.size].reshape(p.shape) for at, p in pairs]
            self._nested = self._tree.unflatten(self._views)
        return self._nested

    def _zeros(self) -> Any:
        if self._place.home == "NumPy":
            nbytes = self._cut.end * self._dtype.itemsize + _SKEW
            return aligned_zeros(nbytes)[_SKEW:].view(self._dtype)
        import cupy

        with self._place.on_device():
            return cupy.zeros(self._cut.end, self._dtype)

    def sources(self, grads: Any) -> list[Flat]:
        """The gradients of this node's ranks, in their order, checked; None: those in `buffers`.

        Where ranks share memory others are copied into `buffers`.
        """
        if grads is None:
            if self._nested is None:
                raise ValueError(ar.NO_GRADIENTS)
            refuse_replaced(self._tree, self._nested, self._views, "opt.grads")
            return self._shared or [Flat(self._cut, self._own)]
        leaves = self._tree.flatten(grads, "grads")
        if self._nested is not None and same_objects(leaves, self._views):
            return self.sources(None)
        flat = self._flat(leaves) if self._place.home == "NumPy" else self._flat_on_gpu(leaves)
        if self._window is None:
            return [Flat(self._cut, flat)]
        np.concatenate(flat, out=self._own)
        return self._shared

    def sync(self) -> None:
        """See what the neighbours have written, and let them see what this rank has."""
        if self._window is not None:
            self._window.sync()

    def _flat(self, leaves: Sequence[Any]) -> list[np.ndarray]:
        """Gradients that were passed, checked, flat in C order: some are copies."""
        dtype, flat = self._dtype, []
        for k, (leaf, shape) in enumerate(zip(leaves, self._shapes, strict=True)):
            plain = type(leaf) is np.ndarray
            if not plain or leaf.dtype != dtype or leaf.shape != shape:
                leaf = ar.as_numpy(leaf, self._titles[k], dtype, shape, self._of[k])
            if not (leaf.flags.c_contiguous and leaf.flags.aligned):
                leaf = leaf.copy(order="C")
            flat.append(leaf.reshape(-1))
        if self._window is None:
            self._refuse_overlap(flat)
        return flat

    def _refuse_overlap(self, flat: Sequence[np.ndarray]) -> None:
        """Refuse gradients in the memory of parameters: a step would read what it has written."""
        begins = [(address_of(leaf), leaf.nbytes) for leaf in (*self._leaves, *flat)]
        if not ar.are_disjoint([(begin, begin + nbytes) for begin, nbytes in begins]):
            written = list(zip(self._of, self._leaves, strict=True))
            problem = ar.shared_memory(written, list(zip(self._titles, flat, strict=True)))
            if problem:
                raise ValueError(problem)

    def _flat_on_gpu(self, leaves: Sequence[Any]) -> list[Any]:
        """As `_flat`, of CuPy arrays."""
        import cupy

        from numadam._cuda.arrays import check_array, check_overlap

        gpu = int(self._leaves[0].device.id)
        leaves = as_views(leaves, "CuPy", self._titles.__getitem__)
        read = list(zip(self._titles, leaves, strict=True))
        written = list(zip(self._of, self._leaves, strict=True))
        for named, (of, param) in zip(read, written, strict=True):
            check_array(named, of, param.shape, self._dtype, gpu, written=False)
        check_overlap(written, read)
        with self._place.on_device():
            return [cupy.ascontiguousarray(leaf).reshape(-1) for leaf in leaves]


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
    """Sums of gradients and exchange of parameters. Every method is collective.

    A rank receives about `bucket_bytes` in a chunk, which has at most `size` elements. Sums are
    divided by `divisor`.
    """

    def __init__(
        self, place: Placement, transport: Direct, bucket_bytes: int, divisor: int
    ) -> None:
        nodes, cut = place.nodes, place.cut
        self._own, self._divisor, self._params = nodes.node, divisor, place.flat
        self._dtype, self._transport = place.dtype, transport
        pieces = [cut.pieces(node, nodes.place) for node in range(nodes.count)]
        others = max(nodes.count - 1, 1)
        groups = list(zip(*pieces, strict=True))
        longest = [max(end - begin for begin, end in of_nodes) for of_nodes in groups]
        size = -(-(bucket_bytes // place.dtype.itemsize) // others // GRAIN) * GRAIN
        self.size = max(min(size, max(longest)), 1)
        #: for each chunk its range in the piece of each node; maybe empty
        self._chunks = [
            [(min(begin + at, end), min(begin + at + self.size, end)) for begin, end in of_nodes]
            for length, of_nodes in zip(longest, groups, strict=True)
            for at in range(0, length, self.size)
        ]
        many = others * self.size if nodes.count > 1 else 0
        self._sent, self._received = ([self.empty(many) for _ in range(_AHEAD)] for _ in range(2))
        self._new = [self.empty(many and many + self.size) for _ in range(_AHEAD)]
        self._gathered = self.empty(self.size)
        self._spreading: deque[Wait] = deque()

    def empty(self, size: int) -> Any:
        """New memory for so many elements."""
        return self._transport.empty(size, self._dtype)

    def sums(self, sources: Sequence[Flat], out: Any, whole: bool) -> Iterator[tuple[int, Any]]:
        """Sums of all ranks' gradients: of each chunk of this rank's piece its begin and the sums.

        `sources` are the gradients of this node's ranks, in their order. `out` is memory for the
        sums of all of the piece with `whole`, else for those of one chunk.
        """
        coming = deque(self._post(k, sources) for k in range(min(_AHEAD, len(self._chunks))))
        at = 0
        for k, ranges in enumerate(self._chunks):
            wait, received = coming.popleft()
            wait()
            low, high = ranges[self._own]
            total = out[at : at + high - low]
            at += high - low if whole else 0
            if high > low:
                _add(self._parts(low, high, received, sources), total, self._divisor)
            yield low, total
            if k + _AHEAD < len(self._chunks):
                coming.append(self._post(k + _AHEAD, sources))

    def _parts(self, low: int, high: int, received: Pieces, sources: Sequence[Flat]) -> list[Any]:
        """The gradients of a range by node; where there is one node, by rank."""
        array, begins, counts = received
        if len(counts) == 1:
            return [flat.view(low, high) for flat in sources]
        parts = [array[at : at + count] for at, count in zip(begins, counts, strict=True)]
        parts[self._own] = _of_node(sources, low, high, self._gathered)
        return parts

    def _post(self, k: int, sources: Sequence[Flat]) -> tuple[Wait, Pieces]:
        """Begin to exchange the gradients of chunk k with the other nodes."""
        ranges = list(self._chunks[k])
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

    def spread(self, k: int) -> None:
        """Begin to bring the parameters of chunk k to the other nodes, and theirs here.

        They are there after `settle`.
        """
        ranges, params = self._chunks[k], self._params
        if len(ranges) == 1:
            return
        if len(self._spreading) == _AHEAD:
            finish = self._spreading.popleft()
            finish()
        in_place = _in_place(params, ranges)
        if in_place is not None:
            self._spreading.append(self._transport.allgather(in_place))
            return
        memory = self._new[k % _AHEAD]
        packed = _packed(memory, [high - low for low, high in ranges])
        params.read(*ranges[self._own], memory[packed.begins[self._own] :], copied=True)
        wait = self._transport.allgather(packed)

        def take() -> None:
            wait()
            for node, (low, high) in enumerate(ranges):
                if node != self._own:
                    at = packed.begins[node]
                    params.write(low, memory[at : at + high - low])

        self._spreading.append(take)

    def spread_all(self) -> None:
        """Bring the parameters of all chunks to the other nodes, and theirs here."""
        for k in range(len(self._chunks)):
            self.spread(k)
        self.settle()

    def settle(self) -> None:
        """Wait until all parameters are there, and those of this rank have gone."""
        while self._spreading:
            finish = self._spreading.popleft()
            finish()


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

    `shard` is the optimiser of this rank's part, and `transport` what the user asks for, afterwards
    the name of what was chosen. The other arguments are those of `Collectives`.
    """

    def __init__(
        self, place: Placement, shard: Any, bucket_bytes: int, divisor: int, transport: str
    ) -> None:
        self._place, self._shard = place, shard
        self.gradients = Gradients(place)
        kind = transport_of(place.ranks, transport, place.home)
        self.transport = kind.name
        with place.on_device():
            way = kind(place.nodes.across)
            self._collectives = Collectives(place, way, bucket_bytes, divisor)
        self._chunked = self._by_chunks()

    @cached_property
    def _sum(self) -> Any:
        """Memory for the sum of the gradients, of a chunk or of all of this rank's part."""
        return self._collectives.empty(
            self._collectives.size if self._chunked else self._place.size
        )

    def _by_chunks(self) -> bool:
        """Whether each chunk is stepped by itself, as the functional API steps arrays.

        A norm is formed before the first element, and other options have arrays or counters that
        only the optimiser has. A GPU has no cache in which a sum could stay, and a call for each
        part of a short array would take longer than the sum.
        """
        place, plan = self._place, parts_of(self._shard).settings.plan
        only_optimiser = plan.norm or plan.average
        of_elements = plan.elementwise or plan.bounds == "array"
        return (
            place.home == "NumPy"
            and place.ranks.size > 1
            and not (only_optimiser or of_elements or plan.products)
            and place.cut.end >= LONG * sum(leaf.size > 0 for leaf in place.leaves)
        )

    def step(self, sources: Sequence[Flat], rate: float, lr: float | None) -> None:
        """Take the step with the sum of the gradients of all ranks.

        `sources` are those of this node's ranks, `rate` is the learning rate of this step, and `lr`
        what the user passed for it.
        """
        if self._chunked:
            self._step_chunks(sources, rate)
            return
        place, t = self._place, self._shard.t
        if place.ranks.size == 1:
            grads = place.active.unflatten(sources[0].leaves())
        else:
            with place.on_device():
                for _ in self._collectives.sums(sources, self._sum, whole=True):
                    pass
            grads = place.views(self._sum)
        try:
            self._shard.step(grads, lr=lr)
        finally:
            if self._shard.t != t:
                self.spread()

    def _step_chunks(self, sources: Sequence[Flat], rate: float) -> None:
        """Step each chunk when its gradients are there: their sum stays in the cache."""
        place, collectives = self._place, self._collectives
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
            collectives.spread(k)
        collectives.settle()
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

    def spread(self) -> None:
        """Give this rank's part of the parameters to the other nodes, and take theirs. Collective.

        Between nodes alone; `barrier` has to follow.
        """
        with self._place.on_device():
            self._collectives.spread_all()

    def barrier(self) -> None:
        """Wait until the ranks of this node have written their parts, and see them."""
        local = self._place.nodes.local
        if local is not None:
            self.gradients.sync()
            local.comm.Barrier()
            self.gradients.sync()
