"""Step on the CPU: arguments are checked, norms exchanged, the loop called."""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from numadam._arrays import checks as ar
from numadam._arrays.interop import address_of, as_views
from numadam._arrays.sparse import is_sparse
from numadam._backend import Leaves, Rows, SparseGradients, Title
from numadam._core import plan as pl
from numadam._cpu import validate as va
from numadam._cpu.arguments import KernelArguments
from numadam._cpu.kernel import code_address, compiled_step, validator
from numadam._cpu.records import NORM_SUM
from numadam._jit import loops, pool
from numadam._jit.process import cached_property, defer_interrupts
from numadam._settings.settings import same_numbers

if TYPE_CHECKING:
    from numadam._mpi.exchange import StepExchange

# --- the step in threads of our own --------------------------------------------------------------


def pooled(kernel: Any, meta: np.ndarray) -> Any:
    """The pooled form of a step as a function like the others.

    It reads at each step how many threads Numba would give the caller, starts those that are
    missing (all of them in a forked child), and notes them in META.
    """
    pool.work_at()  # compiled now, not in a step

    def run(*args: Any) -> int:
        meta["pool"], meta["threads"] = pool.started(loops.count())
        return int(kernel(*args))

    return run


# --- gradients that touch a few rows -------------------------------------------------------------


class CpuSparseGradients(SparseGradients):
    """Sparse gradients, put where the compiled step finds them."""

    def __init__(
        self, arguments: KernelArguments, how: str | None, title: Title, counts: Leaves
    ) -> None:
        super().__init__("NumPy", arguments.layout, how, title, counts)
        self._arguments = arguments
        #: rows and values that are installed, by leaf: the arrays must stay alive
        self.rows: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        #: by leaf scalars and their places
        self._tables: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def checked(self, grad: Any, name: str, leaf: int) -> Any:
        layout = self._arguments.layout
        return ar.as_numpy(grad, name, layout.dtype, layout.shapes[leaf], self._title(pl.P, leaf))

    @contextmanager
    def installed(self, used: dict[int, Leaves]) -> Iterator[None]:
        """Within this block the sparse gradients of `used` are what the step reads."""
        parts = self.rows_of(used[pl.G])
        with defer_interrupts():  # no other step may begin meanwhile
            try:
                if self._how == "lazy":
                    self._install(parts)
                else:
                    used[pl.G] = self.as_dense(used[pl.G], parts)
                yield
            finally:
                self._remove()
                self.clear()

    def _install(self, parts: Rows) -> None:
        leaves, counts = self._arguments.leaves, dict[int, int]()
        for leaf, (rows, values) in parts.items():
            self.rows[leaf] = rows, values
            counts[leaf] = values.size
            # without rows there is nothing to look up, and no address to be trusted
            leaves["rows"][leaf] = address_of(rows) if len(rows) else 0
            leaves["width"][leaf] = values.size // max(len(rows), 1) or 1
            leaves["address"][leaf, pl.G] = address_of(values)
            if self._counts:
                self._install_table(leaf, rows)
        self._arguments.set_iterations(counts)

    def _install_table(self, leaf: int, rows: np.ndarray) -> None:
        """Install memory for the scalars of rows, by the steps that each has taken before."""
        leaves, counts = self._arguments.leaves, self._counts[leaf]
        distinct, classes = classes_of(counts[rows])
        table = self._arguments.new_row_scalars(distinct)
        self._tables[leaf] = table, classes
        leaves["table"][leaf], leaves["distinct"][leaf] = address_of(table), len(distinct)
        leaves["classes"][leaf], leaves["marked"][leaf] = address_of(classes), len(rows)
        leaves["counts"][leaf] = address_of(counts)

    def _remove(self) -> None:
        if self.rows:
            self._arguments.leaves["rows"][list(self.rows)] = 0
            self.rows.clear()
            self._arguments.set_iterations({})
        if self._tables:
            self._arguments.leaves["table"] = 0
            self._tables.clear()


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
    meta, control, leaves = arguments.meta, arguments.control, arguments.leaves
    sum_up, own_at = _SUM_UP(code_address("sum_up")), address_of(own)

    def fetch(meta_at: int) -> int:
        try:
            sum_up(meta_at, own_at, len(own))
            same = same_numbers(meta["steps"][0], control)
            rows = exchange.gather(own.view(np.int64), same)
            rows = rows.reshape(exchange.size, len(own), 3)
            units = rows[:, :, 2]
            if (units != units[0]).any():
                leaves["exponent"][:-1] = units.max(axis=0)
                return va.NORMS_AGAIN
            sums[...] = rows[:, :, :2].swapaxes(0, 1)
        except BaseException as error:  # an exception cannot pass through compiled code
            caught.append(error)
            return va.EXCHANGE_FAILED
        return va.OK

    return fetch


# --- one step over NumPy arrays ------------------------------------------------------------------

#: Compiled functions that few steps need, by the status that asks for them; fields of META.
_ON_DEMAND = {va.NEEDS_SEARCH: "overlap_search", va.NEEDS_STRIDED: "strided_arrays"}
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
        arguments.meta["validator"] = code_address("validator")
        self.kernel = self._kernel(out=False)

    @cached_property
    def _pack(self) -> Any:
        return struct.Struct(f"{self.ids.shape[1]}q").pack_into

    def _kernel(self, out: bool) -> Any:
        """The step that this size takes."""
        total = sum(self.arguments.layout.sizes) * self.arguments.plan.unit
        parallel = loops.wants_parallel(total)
        kernel = compiled_step(self.arguments.plan, out).fork_safe(parallel)
        if parallel and loops.layer() == "workqueue":
            kernel = pooled(kernel, self.arguments.meta)
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
        with self._sparse.installed(used):
            self._refuse_overlapping_rows(used)
            return self._call_until_valid(used, call)

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
    ) -> int:
        """Call, mend what was refused, and call again; the status of the last call.

        That is `OK`, `NOT_FINITE`, or the refusal of a sparse gradient.
        """
        known_disjoint = 0
        while True:
            if status is None:
                status = self._call(used, call, known_disjoint)
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
        self, used: Mapping[int, Leaves], call: Callable[[int, int], int], known_disjoint: int
    ) -> int:
        slots = tuple(used)
        # taken from its place while in use, so that a signal handler's step has its own
        ids, ids_at = self._free.pop(slots, None) or self._new_ids()
        for slot, leaves in used.items():
            self._pack(ids.data, slot * ids.strides[0], *map(id, leaves))
        for leaf in self._sparse.rows:
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

    def _refuse_overlapping_rows(self, used: Mapping[int, Leaves]) -> None:
        """Raise where installed rows share an element with what is written."""
        written, _ = self._named(used)
        for leaf, arrays in self._sparse.rows.items():
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
            return ValueError(f"{name}: is read-only. Pass a writable array, e.g. a copy.")
        if what == va.SELF_OVERLAP:
            return ValueError(ar.same_memory(name))
        shape, of = self.arguments.layout.shapes[leaf], self._title(pl.P, leaf)
        problem = ar.unfit(array, name, plan.array_dtype(slot), shape, of)
        assert problem is not None  # which the compiled check has found
        return problem
