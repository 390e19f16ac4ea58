"""Step on the CPU: arrays are checked, addresses noted, norms exchanged, the loop called."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import byte_bounds

from numadam._arrays import checks as ar
from numadam._arrays.interop import address_of, aligned_zeros, as_views, assign
from numadam._backend import Leaves, Rows, SparseGradients, Title
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._cpu import overlap
from numadam._cpu.cuts import row_cuts
from numadam._cpu.loop import (
    FOLLOW,
    HELD,
    MEASURE,
    NOT_FINITE,
    OK,
    PARALLEL,
    SERIAL,
    STALE,
    compiled_step,
)
from numadam._cpu.memory import StepMemory, Work, changed
from numadam._jit import process
from numadam._jit.process import Writes, at_once, cached_property, defer_interrupts
from numadam._settings.settings import same_numbers

if TYPE_CHECKING:
    from numadam._mpi import StepExchange

# --- headers of arrays ---------------------------------------------------------------------------
# Bits of ``flags.num`` of an array, as the C API of NumPy names them.

_C_ORDER, _F_ORDER, _ALIGNED, _WRITEABLE = 0x1, 0x2, 0x100, 0x400


def wanted_flags(order: tuple[int, ...], written: bool) -> int:
    """Bits of an array in the memory order of a parameter; -1, which none has, for other orders."""
    axes = tuple(range(len(order)))
    if order not in (axes, axes[::-1]):
        return -1
    return (_C_ORDER if order == axes else _F_ORDER) | _ALIGNED | (_WRITEABLE if written else 0)


# --- the compiled step of some memory ------------------------------------------------------------


#: Numbers up to which a step keeps the GIL: below, waiting for it again would cost more than other
#: threads could do meanwhile.
_HELD_BELOW = min(process.CUTOVER.values())


class Kernel:
    """The compiled step of some memory, in the form that its size takes.

    `take` calls it. With an exchange the norms of all processes meet in between.
    """

    def __init__(self, memory: StepMemory, out: bool, exchange: StepExchange | None) -> None:
        plan, total = memory.plan, sum(memory.layout.sizes) * memory.plan.unit
        self._memory, self._exchange = memory, exchange
        self.form = HELD if total < _HELD_BELOW else SERIAL
        if process.wants_parallel(total):
            self.form = PARALLEL
        #: ``step(at, p, g, lr) -> status``
        self.step = compiled_step(plan, out, self.form)
        if self.form == PARALLEL:
            in_threads = self.step
            self.step = lambda *given: _fork_safe(plan, out, in_threads)(*given)
        if exchange is not None:
            exchange.words = memory.totals.size

    def take(self, frame: np.ndarray, given: tuple[Any, ...], before: Writes, after: Writes) -> int:
        """Take a step of arrays in a table: `before` and `after` it these writes, as one.

        `given` are ``p, g, lr``.
        """
        if self._exchange is not None:
            return self._exchanged(frame, given, before, after)
        results = at_once([*before, partial(self.step, address_of(frame), *given), *after])
        return int(results[len(before)])

    def _exchanged(
        self, frame: np.ndarray, given: tuple[Any, ...], before: Writes, after: Writes
    ) -> int:
        """As `take`, with norms of all processes; Ctrl-C waits, so that they stay in step."""
        exchange, memory = self._exchange, self._memory
        assert exchange is not None
        exchange.begin(given[-1])
        measure, follow = changed(frame, stage=MEASURE), changed(frame, stage=FOLLOW)
        with defer_interrupts():
            at_once([*before, partial(self.step, address_of(measure), *given)])
            same = same_numbers(int(memory.counters[0]), memory.control)
            rows = exchange.gather(memory.totals.reshape(-1).view(np.int64), same)
            totals = rows.copy().view(np.float64).reshape(exchange.size, *memory.totals.shape)
            memory.totals[...] = added(totals)
            results = at_once([*before, partial(self.step, address_of(follow), *given), *after])
        exchange.done()
        return int(results[len(before)])


def _fork_safe(plan: Plan, out: bool, in_threads: Callable[..., int]) -> Callable[..., int]:
    """The parallel step, or the serial one where a fork has lost Numba's threads."""
    return compiled_step(plan, out, SERIAL) if process.serial_only else in_threads


#: Power of two that keeps a sum of squares of several processes finite.
_ROOM = 32.0


def added(totals: np.ndarray) -> np.ndarray:
    """Sums of squares and exponents of several processes, added in their order."""
    sums, exponents = totals[:, :, 0], totals[:, :, 1]
    most = exponents.max(axis=0)
    most += np.where(np.isfinite(sums).all(axis=0) & (sums.max(axis=0) > 1e300), _ROOM, 0.0)
    with np.errstate(all="ignore"):
        scaled = sums * 2.0 ** (2.0 * (exponents - most))
    return np.stack([functools.reduce(np.add, scaled), most], axis=1)


# --- gradients of a few rows ---------------------------------------------------------------------


class CpuSparseGradients(SparseGradients):
    """Sparse gradients, in the cuts that a compiled step reads."""

    def __init__(self, memory: StepMemory, how: str | None, title: Title, counts: Leaves) -> None:
        super().__init__("NumPy", memory.layout, how, title, counts)
        self._memory = memory

    def checked(self, grad: Any, name: str, leaf: int) -> Any:
        layout = self._memory.layout
        return ar.as_numpy(grad, name, layout.dtype, layout.shapes[leaf], self._title(pl.P, leaf))

    def work(self, rows_of: Rows) -> Work:
        """The frame of a step of these rows."""
        memory = self._memory
        steps = int(memory.counters[0])
        for leaf, counts in enumerate(self._counts):
            name = f"state[{pl.ROW_COUNTS!r}]" + self._title(pl.P, leaf).removeprefix("params")
            ar.refuse_counts(counts[rows_of[leaf][0]], name)  # the array is the user's to write
        plan, layout, dense = memory.plan, memory.layout, memory.cuts
        cuts = row_cuts(plan, layout, memory.groups, dense, rows_of, self._counts, memory.part)
        return Work(memory, cuts, steps)


# --- one step over NumPy arrays ------------------------------------------------------------------

Named = list[tuple[str, Any]]


#: Ranges that are compared one by one.
_FEW = 4


def _meet(written: Sequence[tuple[int, int]], read: Sequence[tuple[int, int]]) -> bool:
    """Whether a range of bytes that is written meets another one; empty ranges are 0, 0."""
    if len(written) <= _FEW:  # 15 us less
        for k, (low, high) in enumerate(written):
            if any(low < end and begin < high for begin, end in (*written[:k], *read)):
                return True
        return False
    sorted_ones, others = np.array(sorted(written)), np.array(read, np.int64).reshape(-1, 2)
    begins, ends = sorted_ones.T
    if (begins[1:] < ends[:-1]).any():
        return True
    first, last = others[others[:, 0] < others[:, 1]].T
    near = np.searchsorted(ends, first, "right")  # the first that ends behind the first byte
    inside = near < len(ends)
    return bool((begins[near[inside]] < last[inside]).any())


class _Collected(NamedTuple):
    """The arrays of a step."""

    table: np.ndarray
    before: Writes  # copies into work arrays
    after: Writes  # and back
    kept: list[Any]  # keeps the memory that the table points at


class CpuStep:
    """The compiled step of some memory, and what to do about arrays that it cannot take.

    `params` are those of every step that gets no others. `bound` names the arrays whose addresses
    are fixed, for a message on overlap. `counts` are the steps of each row, of each parameter.
    """

    def __init__(
        self,
        memory: StepMemory,
        title: Title,
        params: Sequence[Any] = (),
        bound: Callable[[], Named] = list,
        sparse: str | None = None,
        exchange: StepExchange | None = None,
        counts: Leaves = (),
    ) -> None:
        self.memory, self._title, self._exchange = memory, title, exchange
        self._params, self._bound = list(params), bound
        self._sparse = CpuSparseGradients(memory, sparse, title, counts)
        #: by slot and leaf a dense array through which one of other strides goes
        self._work: dict[tuple[int, int], np.ndarray] = {}
        self._kernels: dict[bool, Kernel] = {}
        self._order = np.empty(0, np.int64)
        self._known_disjoint: Any = None
        #: whether a step needs no more than addresses
        self._is_plain = exchange is None and not counts
        layout = memory.layout
        #: in place of the only parameter and gradient where they are in the table
        self._none, self._dtype = np.empty(0, layout.dtype), layout.dtype
        self._wanted = [
            (wanted_flags(order, False), wanted_flags(order, True)) for order in layout.orders
        ]
        #: the parameters, and what each of them and its gradient are as a rule
        leaves = zip(self._params, layout.shapes, self._wanted, strict=False)
        self._leaves = [(p, shape, *flags, len(shape)) for p, shape, flags in leaves]
        self._is_plain = self._is_plain and all(type(p) is np.ndarray for p in self._params)
        #: numbers of each leaf, and ranges of bytes, for as many leaves as are noted together
        rest = -len(layout.sizes) % overlap.TOGETHER
        self._sizes = np.array([*layout.sizes, *[0] * rest], np.int64)
        self._spans = np.zeros((2 * len(self._sizes) + 1, 2), np.int64)
        self._spans[0] = memory.state

    def kernel(self, has_out: bool = False) -> Kernel:
        """The step that writes parameters, or its direction to `out`; compiled when first asked."""
        if has_out not in self._kernels:
            self._kernels[has_out] = Kernel(self.memory, has_out, self._exchange)
        return self._kernels[has_out]

    def compile(self) -> None:
        """Compile or load now what steps of usual arrays need, and not in the first of them."""
        self.kernel()
        if len(self._leaves) > 1:
            _ = self._note, overlap.meets()

    @property
    def work_bytes(self) -> int:
        """Bytes of all work arrays."""
        return sum(array.nbytes for array in self._work.values())

    # --- usual arrays ----------------------------------------------------------------------------

    def make_one(self) -> Callable[..., bool]:
        """``one(grad, lr, params=None, out=None)``: a step of the only array, as `many`.

        A closure: it takes 0.1 us less than a method.
        """
        run, ndarray, dtype = self._run_one, np.ndarray, self._dtype
        ok, not_finite = OK, NOT_FINITE
        if not self._is_plain or len(self._leaves) > 1 or 0 in self.memory.layout.sizes:
            return run
        p, shape, reads, writes, axes = self._leaves[0]
        memory, step = self.memory, self.kernel().step
        at = address_of(memory.of_one)

        def one(g: Any, lr: float, params: Any = None, out: Any = None) -> bool:
            if (
                type(g) is ndarray
                and g.ndim == 1
                and (g.dtype is dtype or g.dtype == dtype)
                and p.ndim == 1
                and (p.dtype is dtype or p.dtype == dtype)
                and p.flags.writeable
                and params is None
                and out is None
            ):
                status = step(at, p, g, lr)
                if status == ok:
                    return True
                if status == not_finite:
                    return False
            return run(g, lr, params, out)

        def one_of_axes(g: Any, lr: float, params: Any = None, out: Any = None) -> bool:
            if (
                type(g) is ndarray
                and (g.dtype is dtype or g.dtype == dtype)
                and g.shape == shape
                and g.flags.num & reads == reads
                and (p.dtype is dtype or p.dtype == dtype)
                and p.shape == shape
                and p.flags.num & writes == writes
                and params is None
                and out is None
            ):
                status = step(at, p.ravel("K"), g.ravel("K"), lr)
                if status == ok:
                    return True
                if status == not_finite:
                    return False
            return run(g, lr, params, out)

        return one if axes == 1 else one_of_axes

    def _run_one(self, g: Any, lr: float, params: Any = None, out: Any = None) -> bool:
        """Take a step of the only array, whatever it is; False where the guard stopped it."""
        used: dict[int, Leaves] = {pl.G: [g]}
        used |= {slot: [x] for slot, x in ((pl.P, params), (pl.OUT, out)) if x is not None}
        return self.run(used, lr)

    def many(self, grads: Leaves, lr: float) -> bool:
        """Take a step of all arrays; False where the guard stopped it."""
        status = self._many(grads, lr) if self._is_plain else None
        return self.run({pl.G: grads}, lr) if status is None else status == OK

    def _many(self, grads: Leaves, lr: float) -> int | None:
        """The status of a step of usual arrays; None where one is not, or two may overlap."""
        ndarray, dtype, flat = np.ndarray, self._dtype, list[Any]()
        for g, (p, shape, reads, writes, axes) in zip(grads, self._leaves, strict=True):
            if not (
                type(g) is ndarray
                and g.ndim == axes
                and (g.dtype is dtype or g.dtype == dtype)
                and p.ndim == axes
                and (p.dtype is dtype or p.dtype == dtype)
                and p.flags.writeable
            ):
                return None
            if axes == 1:
                flat += p, g
            elif (
                g.shape == p.shape == shape
                and g.flags.num & reads == reads
                and p.flags.num & writes == writes
            ):
                flat += p.ravel("K"), g.ravel("K")
            else:
                return None
        memory, note, sizes, every = self.memory, self._note, self._sizes, 2 * overlap.TOGETHER
        count = len(sizes)
        flat += [self._none] * (2 * count - len(flat))
        table, spans = np.zeros((count, len(memory.columns)), np.int64), self._spans.copy()
        table[: len(memory.table)] = memory.table
        for leaf in range(0, count, overlap.TOGETHER):
            arrays = flat[2 * leaf : 2 * leaf + every]
            if not note(*arrays, table, spans, sizes, leaf):
                return None
        if self._meet(spans, count + 1):
            return None
        frame = changed(memory.work.frame, table=address_of(table))
        return self.kernel().step(address_of(frame), self._none, self._none, lr)

    @cached_property
    def _note(self) -> Callable[..., bool]:
        return overlap.noter(self._dtype)

    def make_by_slot(self, has_out: bool) -> Callable[[tuple[Any, ...], float], bool]:
        """``by_slot(arrays, lr)``: a step of one array of every slot, all the caller's.

        None stands for no array. False, and nothing is written, where an array is not as usual or
        the guard stops the step.
        """
        memory, ndarray, plan = self.memory, np.ndarray, self.memory.plan
        used = {pl.OUT: ()} if has_out else {}
        slots = [slot for slot in range(pl.OUT) if plan.has(slot)] + list(used)
        dtypes = tuple(map(plan.array_dtype, slots))
        written = [pl.is_written(slot, used) for slot in slots]
        flags = [self._wanted[0][is_written] for is_written in written]
        wanted = list(zip(slots, dtypes, flags, strict=True))
        bits = sum(1 << k for k, is_written in enumerate(written) if is_written)
        collect, step = overlap.collector(dtypes), self.kernel(has_out).step
        (shape,), (size,), none = memory.layout.shapes, memory.layout.sizes, self._none
        table, at, axes = memory.table, address_of(memory.work.frame), len(shape)
        spans = np.zeros((len(slots), 2), np.int64)

        def by_slot(arrays: tuple[Any, ...], lr: float) -> bool:
            flat = []
            for slot, dtype, flags in wanted:
                x = arrays[slot]
                if not (
                    type(x) is ndarray
                    and x.ndim == axes
                    and (x.dtype is dtype or x.dtype == dtype)
                    and x.flags.num & flags == flags
                ):
                    return False
                if axes != 1:
                    if x.shape != shape:
                        return False
                    x = x.ravel("K")
                flat.append(x)
            if not collect(*flat, table, spans, size, bits):
                return False
            return step(at, none, none, lr) == OK

        return by_slot

    def _meet(self, spans: np.ndarray, written: int) -> bool:
        """Whether ranges of bytes meet, of which the first are written."""
        meets = overlap.meets()
        if len(self._order) != written:
            self._order = np.arange(written)
        found = meets(spans, self._order, written)
        if found == overlap.UNSORTED:
            self._order = order = np.argsort(spans[:written, 0], kind="stable")
            found = meets(spans, order, written)
        return bool(found == overlap.MEET)

    # --- all arrays ------------------------------------------------------------------------------

    def run(self, used: dict[int, Leaves], lr: float) -> bool:
        """Take a step over `used`, the arrays by slot; view, copy or refuse what is not as usual.

        False where the guard stopped it.
        """
        rows = self._sparse.rows_of(used[pl.G])
        if rows and self._sparse.how == "dense":
            used[pl.G] = dense = self._sparse.as_dense(used[pl.G], rows)
            status = self._take(used, lr, self.memory.work, {})
            self._sparse.clear(dense, rows)
            return status == OK
        if not rows:
            return self._take(used, lr, self.memory.work, rows) == OK
        status = STALE
        while status == STALE:  # a signal handler's step came in between
            status = self._take(used, lr, self._sparse.work(rows), rows)
        return status == OK

    def check(self) -> None:
        """Check the parameters alone, without a step."""
        self._collect({}, {})

    def _take(self, used: dict[int, Leaves], lr: float, work: Work, rows: Rows) -> int:
        """Check the arrays and take the step; `rows` are those of sparse gradients, by leaf."""
        table, before, after, _kept = self._collect(used, rows)
        kernel = self.kernel(pl.OUT in used)
        frame = changed(work.frame, table=address_of(table))
        return kernel.take(frame, (self._none, self._none, lr), before, after)

    def _collect(self, used: dict[int, Leaves], rows: Rows) -> _Collected:
        """The addresses of all arrays; raises what is wrong with one, or with two."""
        memory, everything = self.memory, {pl.P: self._params, **used}
        table, columns = memory.table.copy(), memory.columns
        before, after, kept = list[Any](), list[Any](), list[Any]()
        named: dict[bool, Named] = {True: [], False: []}  # those that are written, and the others
        for leaf, (_, values) in rows.items():
            table[leaf, columns[pl.G]] = address_of(values)
        for slot in sorted(everything):
            is_written = pl.is_written(slot, used)
            for leaf, given in enumerate(everything[slot]):
                if slot == pl.G and leaf in rows:
                    continue
                array = self._checked(given, slot, leaf, is_written)
                flat, dense = self._dense(array, slot, leaf)
                if dense is not None:
                    before.append(partial(assign, dense, ..., array))
                    if is_written:
                        after.append(partial(assign, array, ..., dense))
                table[leaf, columns[slot]] = address_of(flat)
                kept += [array, flat]
                named[is_written].append((self._title(slot, leaf), array))
        self._refuse_overlap(named[True], named[False], rows)
        return _Collected(table, before, after, kept)

    def _dense(self, array: np.ndarray, slot: int, leaf: int) -> tuple[np.ndarray, Any]:
        """The elements of an array one after the other, in the memory order of the parameter.

        Where they lie otherwise: a work array, which is kept, and the same in the array's shape.
        """
        order = self.memory.layout.orders[leaf]
        turned = array.transpose(order)
        if turned.flags.c_contiguous and turned.flags.aligned:
            return turned.reshape(-1), None
        work = self._work.get((slot, leaf))
        if work is None:
            work = aligned_zeros(array.nbytes).view(array.dtype)
            self._work[slot, leaf] = work
        return work, work.reshape(turned.shape).transpose(np.argsort(order))

    def _checked(self, array: Any, slot: int, leaf: int, is_written: bool) -> np.ndarray:
        """A plain array over the same memory, or the error of what does not fit.

        Views are taken of subclasses of ndarray, other spellings of the dtype, and arrays of other
        libraries that are read. Of numbers, which NumPy's arithmetic makes of 0-d arrays, arrays.
        """
        layout, name, of = self.memory.layout, self._title(slot, leaf), self._title(pl.P, leaf)
        dtype, shape = self.memory.plan.array_dtype(slot), layout.shapes[leaf]
        if type(array) is not np.ndarray and not is_written:
            if slot == pl.G:
                array = ar.number_as_array(array, shape, dtype)
            (array,) = as_views([array], "NumPy", lambda _: name)
        fits = ar.is_viewable(array, dtype)
        if fits and is_written and not array.flags.writeable:
            raise ValueError(ar.read_only(name))
        if problem := ar.unfit(array, name, dtype, shape, of):
            raise problem
        if is_written and ar.overlaps_itself(array):
            raise ValueError(ar.same_memory(name))
        return np.ndarray.view(array, dtype, np.ndarray)

    # --- overlap ---------------------------------------------------------------------------------

    def _refuse_overlap(self, written: Named, read: Named, rows: Rows) -> None:
        """Raise where an array that is written shares an element with another one."""
        ends = [byte_bounds(x) if x.size else (0, 0) for _, x in (*written, *read)]
        if _meet([self.memory.state, *ends[: len(written)]], ends[len(written) :]):
            self._compare([*self._bound(), *written], read)
        for leaf, arrays in rows.items():
            # by their bounds, in C: 15 us less than to compare all names and arrays
            every = [*self._bound(), *written]
            near = [one for one in every if any(np.may_share_memory(one[1], a) for a in arrays)]
            of_leaf = [(self._title(pl.G, leaf), array) for array in arrays if near]
            if near and (problem := ar.shared_memory(near, of_leaf)):
                raise ValueError(problem)

    def _compare(self, written: Named, read: Named) -> None:
        """Raise where two arrays share an element; bounds may overlap where none is shared."""
        # pairs of many arrays take long: disjoint ones are remembered by where they lie
        lie = [(a.ctypes.data, a.shape, a.strides) for _, a in written]
        problem = "" if lie == self._known_disjoint else ar.shared_memory(written, written)
        problem = problem or ar.shared_memory(written, read)
        if problem:
            raise ValueError(problem)
        self._known_disjoint = lie
