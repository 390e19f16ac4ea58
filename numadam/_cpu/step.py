"""Step on the CPU: arrays are checked, addresses noted, norms exchanged, the loop called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import byte_bounds

from numadam._arrays import checks as ar
from numadam._arrays.interop import address_of, aligned_zeros, as_views, assign
from numadam._backend import Leaves, Rows, Title
from numadam._core import plan as pl
from numadam._cpu.arrays import TOGETHER, header_of, meet, noter, step_by_slot, step_of_one
from numadam._cpu.loop import (
    NOT_FINITE,
    OK,
    STALE,
    Kernel,
)
from numadam._cpu.memory import StepMemory, Work
from numadam._cpu.rows import CpuSparseGradients
from numadam._jit.process import Writes, at_once, cached_property

if TYPE_CHECKING:
    from numadam._mpi import StepExchange

# --- one step over NumPy arrays ------------------------------------------------------------------

Named = list[tuple[str, Any]]


class _Collected(NamedTuple):
    """The arrays of a step."""

    block: np.ndarray  # of words, as `StepMemory.block`
    before: Writes  # copies into work arrays
    after: Writes  # and back
    kept: list[Any]  # keeps the memory that its table points at


class _Noting(NamedTuple):
    """The calls that note the addresses of many arrays."""

    note: Callable[..., int]
    each: int  # arrays of a leaf
    places: list[tuple[int, tuple[Any, ...]]]  # by call its first array, what it gets before them


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
        self._rows = sparse, counts
        #: by slot and leaf a dense array through which one of other strides goes
        self._work: dict[tuple[int, int], np.ndarray] = {}
        self._kernels: dict[bool, Kernel] = {}
        self._notings: dict[bool, _Noting] = {}
        self._known_disjoint: Any = None
        layout = memory.layout
        #: in place of the only parameter and gradient where they are in the table
        self._none, self._dtype = np.empty(0, layout.dtype), layout.dtype
        #: whether a step may need no more than addresses
        self._is_plain = exchange is None and not counts and bool(self._params)
        #: what arrays of each leaf are as a rule: those that are read, those that are written
        self._headers = [
            [header_of(*each, written) for each in zip(layout.shapes, layout.orders, strict=True)]
            for written in (False, True)
        ]

    def kernel(self, has_out: bool = False) -> Kernel:
        """The step that writes parameters, or its direction to `out`; compiled when first asked."""
        if has_out not in self._kernels:
            self._kernels[has_out] = Kernel(self.memory, has_out, self._exchange)
        return self._kernels[has_out]

    def compile(self) -> None:
        """Compile or load now what steps of usual arrays need, and not in the first of them."""
        self.kernel()
        if len(self._params) > 1:
            self._noting(False)
        if self._rows[0] == "lazy":
            _ = self._sparse

    @cached_property
    def _sparse(self) -> CpuSparseGradients:
        how, counts = self._rows
        return CpuSparseGradients(self.memory, how, self._title, counts)

    @property
    def work_bytes(self) -> int:
        """Bytes of all work arrays."""
        return sum(array.nbytes for array in self._work.values())

    # --- usual arrays ----------------------------------------------------------------------------

    def make_one(self) -> Callable[..., bool]:
        """``one(grad, lr, params=None, out=None)``: a step of the only array, as `step`."""
        memory = self.memory
        if not self._is_plain or len(self._params) > 1 or 0 in memory.layout.sizes:
            return self._step_one
        (read,), (written,) = self._headers
        step, at = self.kernel().step, address_of(memory.block)
        how = {"step": step, "at": at, "ok": OK, "not_finite": NOT_FINITE}
        how |= {"run": self._step_strided}  # 10 to 20 us less than `_step_one`
        return step_of_one(read, written, p=self._params[0], dtype=self._dtype, **how)

    def _step_strided(self, g: Any, lr: float, params: Any = None, out: Any = None) -> bool:
        """As `_step_one`; a gradient of other strides is copied where all else is as usual."""
        (read,), (written,), p, dtype = *self._headers, self._params[0], self._dtype
        same = type(g) is np.ndarray and g.dtype == dtype and g.shape == read.shape
        if params is None and out is None and same and written.fits(p, dtype):
            (first, last), (state, end) = byte_bounds(g), self.memory.state
            flat, dense = self._dense(g, pl.G, 0)
            apart = (last <= state or end <= first) and not np.may_share_memory(g, p)
            if dense is not None and apart:
                step, at = self.kernel().step, address_of(self.memory.block)
                copy = partial(assign, dense, ..., g)
                _, status = at_once([copy, partial(step, at, p.ravel("K"), flat, lr)])
                if status in (OK, NOT_FINITE):
                    return bool(status == OK)
        return self._step_one(g, lr, params, out)

    def _step_one(self, g: Any, lr: float, params: Any = None, out: Any = None) -> bool:
        """Take a step of the only array, whatever it is; False where the guard stopped it."""
        used: dict[int, Leaves] = {pl.G: [g]}
        used |= {slot: [x] for slot, x in ((pl.P, params), (pl.OUT, out)) if x is not None}
        return self.step(used, lr)

    def step(self, used: dict[int, Leaves], lr: float) -> bool:
        """Take a step over `used`, the arrays by slot; False where the guard stopped it."""
        status = self._step_usual(used, lr) if self._is_plain else None
        return self.run(used, lr) if status is None else status == OK

    def _noting(self, has_out: bool) -> _Noting:
        """The calls that note the arrays of all leaves: p, g and, with `out`, that behind them."""
        if has_out not in self._notings:
            memory, each = self.memory, 3 if has_out else 2
            width, count = len(memory.columns), len(memory.sizes)
            spans = memory.spans + 2 * (1 + np.arange(count * each).reshape(count, each))
            written = [memory.spans, *spans[:, -1 if has_out else 0]]
            order = np.array([*written, *np.setdiff1d(spans, written)])
            places = []
            for k in range(0, count, TOGETHER):
                where = memory.head + k * width, width, int(spans[k, 0]), memory.sizes, k
                places.append((k * each, (*where, order, len(written) * (k + TOGETHER == count))))
            note = noter((self._dtype,) * each, TOGETHER, has_out)
            self._notings[has_out] = _Noting(note, each, places)
        return self._notings[has_out]

    def _step_usual(self, used: dict[int, Leaves], lr: float) -> int | None:
        """The status of a step of usual arrays; None where one is not, or two may overlap."""
        ndarray, dtype, (reads, writes) = np.ndarray, self._dtype, self._headers
        params, outs = used.get(pl.P, self._params), used.get(pl.OUT)
        flat: list[Any] = []
        has_out = outs is not None
        leaves = zip(params, used[pl.G], outs or repeat(None), reads, writes)  # noqa: B905  # 0.2 us
        for p, g, out, (shape, axes, flags, _), write in leaves:
            if not (
                type(g) is ndarray
                and type(p) is ndarray
                and g.ndim == p.ndim == axes
                and (g.dtype is dtype or g.dtype == dtype)
                and (p.dtype is dtype or p.dtype == dtype)
                and (has_out or p.flags.writeable)
            ):
                return None
            if axes == 1:
                flat += p, g
            elif (
                g.shape == p.shape == shape
                and g.flags.num & flags == flags
                and p.flags.num & flags == flags
            ):
                flat += p.ravel("K"), g.ravel("K")
            else:
                return None
            if has_out:
                if not write.fits(out, dtype):
                    return None
                flat.append(out.ravel("K"))
        note, each, places = self._noting(has_out)
        flat += [self._none] * (each * len(self.memory.sizes) - len(flat))
        block, at = self.memory.block.copy(), 0
        for k, place in places:
            at = note(block, *place, *flat[k : k + each * TOGETHER])
            if not at:
                return None
        return self.kernel(has_out).step(at, self._none, self._none, lr)

    def make_by_slot(self, has_out: bool) -> Callable[[tuple[Any, ...], int, float], bool]:
        """``by_slot(arrays, t, lr)``: step t of one array of every slot, all the caller's.

        None stands for no array. False, and nothing is written, where an array is not as usual or
        the guard stops the step. The block of the memory is written: no two calls share it.
        """
        memory, plan = self.memory, self.memory.plan
        used = {pl.OUT: ()} if has_out else {}
        slots = [slot for slot in range(pl.OUT) if plan.has(slot)] + list(used)
        written = [pl.is_written(slot, used) for slot in slots]
        dtypes = tuple(map(plan.array_dtype, slots))
        # those that are written come first
        order = memory.spans + 2 * np.argsort(np.logical_not(written), kind="stable")
        rest = memory.sizes, 0, order, sum(written)
        return step_by_slot(
            slots,
            [self._headers[is_written][0] for is_written in written],
            dtypes,
            counters=memory.counters.data,
            note=noter(dtypes, 1, has_out),
            given=(memory.block, memory.head, len(memory.columns), memory.spans, *rest),
            step=self.kernel(has_out).step,
            none=self._none,
            ok=OK,
        )

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
        params = self._params
        if len(params) == 1 and self._headers[True][0].fits(params[0], self._dtype):
            return  # 12 us less
        self._collect({}, {}, self.memory.work)

    def _take(self, used: dict[int, Leaves], lr: float, work: Work, rows: Rows) -> int:
        """Check the arrays and take the step; `rows` are those of sparse gradients, by leaf."""
        block, before, after, _kept = self._collect(used, rows, work)
        kernel = self.kernel(pl.OUT in used)
        return kernel.take(block, lr, before, after)

    def _collect(self, used: dict[int, Leaves], rows: Rows, work: Work) -> _Collected:
        """The addresses of all arrays; raises what is wrong with one, or with two."""
        memory, everything = self.memory, {pl.P: self._params, **used}
        (block, table), columns = memory.begin(work), memory.columns
        before: Writes = []
        after: Writes = []
        kept: list[Any] = []
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
        return _Collected(block, before, after, kept)

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
        if meet([self.memory.state, *ends[: len(written)]], ends[len(written) :]):
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
