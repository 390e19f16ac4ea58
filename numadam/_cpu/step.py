"""One step over NumPy arrays: the compiled step, and what to do about arrays that it refuses."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from numadam._arrays import checks as ar
from numadam._arrays.interop import as_views
from numadam._arrays.layout import address_of
from numadam._arrays.sparse import is_sparse
from numadam._backend import Exchange, Leaves
from numadam._core import plan as pl
from numadam._cpu import validate as va
from numadam._cpu.arguments import KernelArguments
from numadam._cpu.compiled import (
    compiled_step,
    overlap_address,
    strided_address,
    validate_arrays,
    validator_address,
)
from numadam._cpu.exchange import KernelExchange
from numadam._cpu.pooled import pooled
from numadam._cpu.sparse import SparseGradients
from numadam._jit import threads
from numadam._jit.forks import cached_property
from numadam._jit.interrupts import defer_interrupts

#: Leaves from which ids are better made one by one: 8 instead of 48 bytes each meanwhile.
_MANY = 64
Named = list[tuple[str, Any]]
Title = Callable[[int, int], str]


class CpuStep:
    """The compiled step of some arguments, and what to do about arrays that it refuses.

    Parameters
    ----------
    arguments : KernelArguments
        With the plan of what the step computes.
    title : callable
        ``title(slot, leaf)``: what the user calls that array.
    params : list of arrays
        Parameters of every step that gets no others.
    bound : callable
        The named arrays whose addresses are bound, for the overlap message.
    sparse : {None, "lazy", "dense"}
        Treatment of gradients that touch a few rows.
    exchange : Exchange, optional
        With the other processes whose gradients count in a norm.

    Attributes
    ----------
    serial, kernel : compiled function
        The step in one thread, and the one that this size takes: ``kernel(address of META,
        address of ids, id of the only gradient, known_disjoint, lr) -> status``.
    kernel_with_out : compiled function
        The same where the direction goes to `out`.
    """

    def __init__(
        self,
        arguments: KernelArguments,
        title: Title,
        params: Sequence[Any] = (),
        bound: Callable[[], Named] = list,
        sparse: str | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        self._sparse = SparseGradients(arguments, sparse, title)
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
        arguments.meta["validator"] = validator_address()
        self.kernel, self.serial = self._kernels(out=False)

    @cached_property
    def _pack(self) -> Any:
        return struct.Struct(f"{self.ids.shape[1]}q").pack_into

    def _bind_code(self, what: int) -> None:
        """Compile or load what few steps need, before this one writes anything."""
        with defer_interrupts():  # an exception while it loads code may crash LLVM
            if what == va.NEEDS_SEARCH:
                self.arguments.meta["overlap_search"] = overlap_address()
            else:
                self.arguments.meta["strided_arrays"] = strided_address()

    def _kernels(self, out: bool) -> tuple[Any, Any]:
        """The step that this size takes, and the serial one."""
        total = sum(self.arguments.layout.sizes) * self.arguments.plan.unit
        steps = compiled_step(self.arguments.plan, out)
        kernel = serial = steps.fork_safe(parallel=False)
        if threads.wants_parallel(total):
            kernel = steps.fork_safe(parallel=True)
            if threads.layer() == "workqueue":
                kernel = pooled(kernel, self.arguments.meta)
        if self._exchange is not None:
            kernel, serial = map(self._exchange.wrap, (kernel, serial))
        return kernel, serial

    @cached_property
    def kernel_with_out(self) -> Any:
        """The step that writes its direction to `out`: compiled when first asked for."""
        with defer_interrupts():
            return self._kernels(out=True)[0]

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
        meta_at = self.arguments.meta_at
        if validate_arrays(meta_at, self.ids_at, 0) != va.OK:
            self._call_until_valid(
                {}, lambda ids_at, known: validate_arrays(meta_at, ids_at, known)
            )

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
            if what == va.NOT_FINITE or self._is_sparse(what, slot, leaf, used):
                return status
            if what == va.OVERLAP:
                self._refuse_overlap(used)
                known_disjoint = 1
            elif what in (va.NEEDS_SEARCH, va.NEEDS_STRIDED):
                self._bind_code(what)
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
        free = self._free.pop(slots, None)
        ids, ids_at = self._new_ids() if free is None else free
        for slot, leaves in used.items():
            if len(leaves) < _MANY:
                self._pack(ids.data, slot * ids.strides[0], *map(id, leaves))
            else:
                ids[slot] = np.fromiter(map(id, leaves), np.int64, len(leaves))
        for leaf in self._sparse.rows:
            ids[pl.G, leaf] = 0
        status = call(ids_at, known_disjoint)
        self._free[slots] = ids, ids_at
        return status

    def _is_sparse(self, what: int, slot: int, leaf: int, used: Mapping[int, Leaves]) -> bool:
        """Whether a sparse gradient was refused; asked here, and not of all arrays."""
        return what == va.BAD_TYPE and slot == pl.G and is_sparse(used[pl.G][leaf])

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
            read = [(self._title(pl.G, leaf), array) for array in arrays]
            if problem := ar.shared_memory(written, read):
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
        if what == va.BAD_TYPE and slot == pl.G and self.arguments.layout.shapes[leaf] == ():
            number = ar.number_as_array(arrays[leaf], dtype)
            if number is not None:
                return [*arrays[:leaf], number, *arrays[leaf + 1 :]]
        if what == va.BAD_TYPE:
            title = functools.partial(self._title, slot)
            views = as_views(arrays, "NumPy", pl.is_written(slot, used), title)
            if views[leaf] is not arrays[leaf]:
                return views
        if what not in (va.BAD_TYPE, va.BAD_DTYPE) or not ar.is_viewable(arrays[leaf], dtype):
            raise self._refusal(what, arrays[leaf], slot, leaf)
        return [
            np.ndarray.view(array, dtype, np.ndarray) if ar.is_viewable(array, dtype) else array
            for array in arrays
        ]

    def _refusal(self, what: int, array: Any, slot: int, leaf: int) -> Exception:
        name, layout, plan = self._title(slot, leaf), self.arguments.layout, self.arguments.plan
        of = self._title(pl.P, leaf)
        if what == va.BAD_TYPE and not ar.is_numpy(array):
            return TypeError(f"{name}: {ar.describe(array, 'NumPy')}")
        if what in (va.BAD_TYPE, va.BAD_DTYPE):  # a subclass is viewed if its dtype is right
            return TypeError(ar.bad_dtype(name, array.dtype, plan.array_dtype(slot), of))
        if what == va.READ_ONLY:
            return ValueError(f"{name}: is read-only. Pass a writable array, e.g. a copy.")
        if what == va.BAD_SHAPE:
            return ValueError(ar.bad_shape(name, array.shape, layout.shapes[leaf], of))
        return ValueError(ar.same_memory(name))
