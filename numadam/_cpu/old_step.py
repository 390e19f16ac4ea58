"""Step on the CPU: arguments are checked, norms exchanged, the loop called."""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from numadam._arrays import checks as ar
from numadam._arrays.interop import address_of, as_views
from numadam._arrays.sparse import is_sparse
from numadam._backend import Leaves, Rows, SparseGradients, Title
from numadam._core import plan as pl
from numadam._cpu import validate as va
from numadam._cpu.arguments import KernelArguments, RowsRecord
from numadam._cpu.kernel import code_address, compiled_step, validator
from numadam._cpu.records import NORM_SUM
from numadam._jit import loops
from numadam._jit.process import cached_property, defer_interrupts
from numadam._settings.settings import same_numbers

if TYPE_CHECKING:
    from numadam._mpi.exchange import StepExchange

# --- gradients that touch a few rows -------------------------------------------------------------


class CpuSparseGradients(SparseGradients):
    """Sparse gradients, in records that a compiled step reads."""

    def __init__(
        self, arguments: KernelArguments, how: str | None, title: Title, counts: Leaves
    ) -> None:
        super().__init__("NumPy", arguments.layout, how, title, counts)
        self._arguments = arguments

    def checked(self, grad: Any, name: str, leaf: int) -> Any:
        layout = self._arguments.layout
        return ar.as_numpy(grad, name, layout.dtype, layout.shapes[leaf], self._title(pl.P, leaf))

    def record(self, parts: Rows) -> RowsRecord:
        """The records of a step of these rows."""
        record = self._arguments.for_rows(parts)
        for leaf, counts in enumerate(self._counts):
            record.others.extend(self._tabulate(record.leaves, leaf, parts[leaf][0], counts))
        return record

    def _tabulate(
        self, leaves: np.ndarray, leaf: int, rows: np.ndarray, counts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Memory for the scalars of rows, by the steps that each has taken before."""
        taken = counts[rows]
        name = f"state[{pl.ROW_COUNTS!r}]" + self._title(pl.P, leaf).removeprefix("params")
        ar.refuse_counts(taken, name)  # the array is the user's to write
        distinct, classes = classes_of(taken)
        table = self._arguments.new_row_scalars(distinct)
        leaves["table"][leaf], leaves["distinct"][leaf] = address_of(table), len(distinct)
        leaves["classes"][leaf], leaves["marked"][leaf] = address_of(classes), len(rows)
        leaves["counts"][leaf] = address_of(counts)
        return table, classes


def classes_of(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different ones among these counts, sorted, and the place among them of each."""
    low, high = (int(counts.min()), int(counts.max())) if len(counts) else (0, -1)
    if high - low > 8 * len(counts) + 100_000:
        return np.unique(counts, return_inverse=True)
    # 6 to 9 times faster, where few numbers lie between
    offsets, places = counts - low, np.zeros(high - low + 1, np.int64)
    places[offsets] = 1
    found = np.flatnonzero(places)
    places[found] = np.arange(len(found))
    return found + low, places[offsets]


# --- the call of a compiled step into Python -----------------------------------------------------

# takes the GIL, which a large step has let go
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)
_SUM_UP = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 3)


class KernelExchange:
    """Callback that brings the sums of other processes into the step of these arguments.

    `wrap` makes a kernel raise what happened in that call, and lets Ctrl-C wait for the end of the
    step: ranks stay in step.
    """

    def __init__(self, exchange: StepExchange, arguments: KernelArguments) -> None:
        self._exchange, self._caught = exchange, list[BaseException]()
        meta, of_all = arguments.meta, arguments.plan.norm == "all"
        own = np.zeros(1 if of_all else len(arguments.layout.shapes), NORM_SUM)
        sums = np.zeros((len(own), exchange.size, 2), np.int64)
        exchange.words = own.view(np.int64).size
        # held here, as the kernel has only its address; it does not refer to this object
        self._callback = _CALLBACK(_make_fetch(exchange, arguments, own, sums, self._caught))
        meta["exchange"] = ctypes.cast(self._callback, ctypes.c_void_p).value
        meta["ranks"], meta["sums"] = exchange.size, address_of(sums)

    def wrap(self, kernel: Callable[..., Any]) -> Callable[..., int]:
        """A kernel, whose last argument is lr, as a function like it."""
        exchange, caught = self._exchange, self._caught

        def run(*args: Any) -> int:
            caught.clear()
            exchange.begin(args[-1])
            with defer_interrupts():
                status = int(kernel(*args))
            if caught:
                raise caught.pop()
            exchange.done()
            return status

        return run


def _make_fetch(
    exchange: StepExchange,
    arguments: KernelArguments,
    own: np.ndarray,
    sums: np.ndarray,
    caught: list[BaseException],
) -> Callable[[int], int]:
    """``fetch(meta_at) -> status``: fill in the sums of all processes; where it fails, `caught`.

    `own` are the sums of this process. Sums of unlike units cannot be added: all processes take
    the largest and form their sums anew.
    """
    meta, control = arguments.meta, arguments.control
    sum_up, own_at = _SUM_UP(code_address("sum_up")), address_of(own)

    def fetch(meta_at: int) -> int:
        try:
            sum_up(meta_at, own_at, len(own))
            same = same_numbers(meta["steps"][0], control)
            rows = exchange.gather(own.view(np.int64), same)
            rows = rows.reshape(exchange.size, len(own), 3)
            units = rows[:, :, 2]
            if (units != units[0]).any():
                arguments.leaves_at(meta_at)["exponent"][:-1] = units.max(axis=0)
                return va.NORMS_AGAIN
            sums[...] = rows[:, :, :2].swapaxes(0, 1)
        except BaseException as error:  # an exception cannot pass through compiled code
            caught.append(error)
            return va.EXCHANGE_FAILED
        return va.OK

    return fetch


# --- one step over NumPy arrays ------------------------------------------------------------------

#: Compiled functions that few steps need, by the status that asks for them; fields of META.
_ON_DEMAND = {
    va.NEEDS_SEARCH: "overlap_search",
    va.NEEDS_STRIDED: "strided_arrays",
}
Named = list[tuple[str, Any]]


class CpuStep:
    """The compiled step of some arguments, and what to do about arrays that it refuses.

    `kernel` is the step that this size takes: ``kernel(address of META, address of ids, id of the
    only gradient, known_disjoint, lr) -> status``. `kernel_with_out` writes the direction to `out`.

    `params` are those of every step that gets no others. `bound` names the arrays whose addresses
    are bound, for a message on overlap. `counts` are the steps of each row, of each parameter.
    """

    def __init__(
        self,
        arguments: KernelArguments,
        title: Title,
        params: Sequence[Any] = (),
        bound: Callable[[], Named] = list,
        sparse: str | None = None,
        exchange: StepExchange | None = None,
        counts: Leaves = (),
    ) -> None:
        self._sparse = CpuSparseGradients(arguments, sparse, title, counts)
        self.arguments, self._title = arguments, title
        self._params, self._bound = list(params), bound
        count = len(arguments.layout.shapes)
        self.ids = np.repeat(arguments.meta["absent"].reshape(-1, 1), count, 1)
        if self._params:
            self.ids[pl.P] = list(map(id, self._params))
        self.ids_at = address_of(self.ids)
        self._free: dict[tuple[int, ...], tuple[np.ndarray, int] | None] = {}
        self._known_disjoint: Any = None
        self._exchange = None if exchange is None else KernelExchange(exchange, arguments)
        for field in ("validator", "settle"):
            arguments.meta[field] = code_address(field)
        self.kernel = self._kernel(out=False)

    @cached_property
    def _pack(self) -> Any:
        return struct.Struct(f"{self.ids.shape[1]}q").pack_into

    def _kernel(self, out: bool) -> Any:
        """The step that this size takes."""
        total = sum(self.arguments.layout.sizes) * self.arguments.plan.unit
        kernel = compiled_step(self.arguments.plan, out).fork_safe(loops.wants_parallel(total))
        return kernel if self._exchange is None else self._exchange.wrap(kernel)

    @cached_property
    def kernel_with_out(self) -> Any:
        """The step that writes its direction to `out`: compiled when first asked for."""
        with defer_interrupts():
            return self._kernel(out=True)

    def run(self, used: dict[int, Leaves], lr: float, status: int | None = None) -> int:
        """Take a step over `used`, the arrays by slot; view, copy or refuse what is not valid.

        `status` is what the kernel has said of these arrays already. Returns `OK`, or
        `NOT_FINITE` where the guard stopped the step.
        """
        kernel = self.kernel_with_out if pl.OUT in used else self.kernel

        def call(ids_at: int, known_disjoint: int) -> int:
            return int(kernel(self.arguments.meta_at, ids_at, 0, known_disjoint, lr))

        status = self._call_until_valid(used, call, status)
        if status in (va.OK, va.NOT_FINITE):
            return status
        parts = self._sparse.rows_of(used[pl.G])
        if self._sparse.how == "dense":
            used[pl.G] = dense = self._sparse.as_dense(used[pl.G], parts)
            status = self._call_until_valid(used, call)
            self._sparse.clear(dense, parts)
            return status
        self._refuse_overlapping_rows(used, parts)

        def call_for_rows(ids_at: int, known_disjoint: int) -> int:
            status = va.NEEDS_ROWS
            while status == va.NEEDS_ROWS:  # a signal handler's step came in between
                record = self._sparse.record(parts)
                status = int(kernel(address_of(record.meta), ids_at, 0, known_disjoint, lr))
            # where the norm of the next step begins
            self.arguments.leaves["exponent"] = record.leaves["exponent"]
            return status

        return self._call_until_valid(used, call_for_rows, rows=parts)

    def check(self) -> None:
        """Validate the parameters alone, without a step."""
        meta_at, validate = self.arguments.meta_at, validator()
        if validate(meta_at, self.ids_at, 0, 0) != va.OK:
            self._call_until_valid({}, lambda ids_at, known: validate(meta_at, ids_at, 0, known))

    def _call_until_valid(
        self,
        used: dict[int, Leaves],
        call: Callable[[int, int], int],
        status: int | None = None,
        rows: Iterable[int] = (),
    ) -> int:
        """Call, mend what was refused, and call again; the status of the last call.

        That is `OK`, `NOT_FINITE`, or the refusal of a sparse gradient. `rows` are the leaves whose
        gradients the call brings itself.
        """
        known_disjoint = 0
        while True:
            if status is None:
                status = self._call(used, call, known_disjoint, rows)
            if status == va.OK:
                return status
            what, slot, leaf = va.unpack_status(status)
            sparse = what == va.BAD_TYPE and slot == pl.G and is_sparse(used[pl.G][leaf])
            if sparse or what in (va.NOT_FINITE, va.NEEDS_ROWS):
                return status
            if what == va.OVERLAP:
                self._refuse_overlap(used)
                known_disjoint = 1
            elif what in _ON_DEMAND:
                with defer_interrupts():  # an exception while it loads code may crash LLVM
                    self.arguments.meta[_ON_DEMAND[what]] = code_address(_ON_DEMAND[what])
            elif what == va.NEEDS_WORK:
                self.arguments.add_work(slot, leaf)
            else:
                used[slot] = self._viewed(what, slot, leaf, used)
            status = None

    def _call(
        self,
        used: Mapping[int, Leaves],
        call: Callable[[int, int], int],
        known_disjoint: int,
        rows: Iterable[int],
    ) -> int:
        slots = tuple(used)
        # taken from its place while in use, so that a signal handler's step has its own
        ids, ids_at = self._free.pop(slots, None) or self._new_ids()
        for slot, leaves in used.items():
            self._pack(ids.data, slot * ids.strides[0], *map(id, leaves))
        for leaf in rows:
            ids[pl.G, leaf] = 0
        status = call(ids_at, known_disjoint)
        self._free[slots] = ids, ids_at
        return status

    def _new_ids(self) -> tuple[np.ndarray, int]:
        ids = self.ids.copy()
        return ids, address_of(ids)

    def _named(self, used: Mapping[int, Leaves]) -> tuple[Named, Named]:
        """The arrays that a step over `used` writes and reads, by what the user calls them."""
        everything = {pl.P: self._params, **used}
        named = {
            slot: [(self._title(slot, j), array) for j, array in enumerate(arrays)]
            for slot, arrays in everything.items()
        }
        read = named.pop(pl.G, [])
        if pl.OUT in named:
            read += named.pop(pl.P)
        return [*self._bound(), *(pair for pairs in named.values() for pair in pairs)], read

    def _refuse_overlapping_rows(self, used: Mapping[int, Leaves], parts: Rows) -> None:
        """Raise where rows share an element with what is written."""
        written, _ = self._named(used)
        for leaf, arrays in parts.items():
            # by their bounds, in C: 15 us less than to compare all names and arrays
            near = [one for one in written if any(np.may_share_memory(one[1], a) for a in arrays)]
            read = [(self._title(pl.G, leaf), array) for array in arrays if near]
            if near and (problem := ar.shared_memory(near, read)):
                raise ValueError(problem)

    def _refuse_overlap(self, used: Mapping[int, Leaves]) -> None:
        """Raise where two arrays share an element; bounds may overlap where none is shared."""
        written, read = self._named(used)
        # pairs of many arrays take long: disjoint ones are remembered by where they lie
        lie = [(a.ctypes.data, a.shape, a.strides) for _, a in written]
        problem = "" if lie == self._known_disjoint else ar.shared_memory(written, written)
        problem = problem or ar.shared_memory(written, read)
        if problem:
            raise ValueError(problem)
        self._known_disjoint = lie

    def _viewed(self, what: int, slot: int, leaf: int, used: Mapping[int, Leaves]) -> list[Any]:
        """The arrays of a slot as plain arrays of the dtype, where their memory serves as it is.

        These are subclasses of ndarray, other spellings of the dtype, and arrays of other
        libraries. And numbers, which NumPy's arithmetic makes of 0-d arrays, as gradients of such.
        """
        dtype, arrays = self.arguments.plan.array_dtype(slot), used.get(slot, self._params)
        if what == va.BAD_TYPE and slot == pl.G:
            shape, given = self.arguments.layout.shapes[leaf], arrays[leaf]
            number = ar.number_as_array(given, shape, dtype)
            if number is not given:
                return [*arrays[:leaf], number, *arrays[leaf + 1 :]]
        if what == va.BAD_TYPE and not pl.is_written(slot, used):
            views = as_views(arrays, "NumPy", functools.partial(self._title, slot))
            if views[leaf] is not arrays[leaf]:
                return views
        if what not in (va.BAD_TYPE, va.BAD_DTYPE) or not ar.is_viewable(arrays[leaf], dtype):
            raise self._refusal(what, arrays[leaf], slot, leaf)
        return [
            np.ndarray.view(array, dtype, np.ndarray) if ar.is_viewable(array, dtype) else array
            for array in arrays
        ]

    def _refusal(self, what: int, array: Any, slot: int, leaf: int) -> Exception:
        name, plan = self._title(slot, leaf), self.arguments.plan
        if what == va.READ_ONLY:
            return ValueError(ar.read_only(name))
        if what == va.SELF_OVERLAP:
            return ValueError(ar.same_memory(name))
        shape, of = self.arguments.layout.shapes[leaf], self._title(pl.P, leaf)
        problem = ar.unfit(array, name, plan.array_dtype(slot), shape, of)
        assert problem is not None  # which the compiled check has found
        return problem
