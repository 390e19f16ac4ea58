"""One pass over NumPy arrays: the compiled step, and what to do when the door stops an array."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from numadam._arrays import checks as ar
from numadam._arrays.interop import as_views
from numadam._arrays.sparse import is_sparse
from numadam._backend import Leaves
from numadam._core import plan as pl
from numadam._cpu import validate as dr
from numadam._cpu.arguments import KernelArguments
from numadam._cpu.compiled import compiled_step, validate_arrays, validator_address
from numadam._cpu.sparse import SparseGradients
from numadam._jit import forks, threads

#: Leaves from which ids are better made one by one: 8 instead of 48 bytes each meanwhile.
_MANY = 64
Named = list[tuple[str, Any]]
Title = Callable[[int, int], str]


class CpuStep:
    """A table, the compiled twins of its step, and what to do when the door refuses an array.

    Parameters
    ----------
    table : Table
        With the plan of what the step computes.
    title : callable
        ``title(slot, leaf)``: what the user calls that array.
    kept : list of arrays
        Parameters of every step that gets no others.
    owned : callable
        The named arrays whose addresses the table has fixed, for the overlap message.
    sparse : {None, "lazy", "dense"}
        What becomes of gradients that touch a few rows.
    """

    def __init__(
        self,
        table: KernelArguments,
        title: Title,
        kept: Sequence[Any] = (),
        owned: Callable[[], Named] = list,
        sparse: str | None = None,
    ) -> None:
        self._sparse = SparseGradients(table, sparse, title)
        self.table, self._title, self._kept, self._owned = table, title, list(kept), owned
        self.ids = np.zeros((pl.CHECKED, len(table.layout.shapes)), np.int64)
        if self._kept:
            self.ids[pl.P] = list(map(id, self._kept))
        self.ids_at = self.ids.ctypes.data
        self._spare: dict[tuple[int, ...], tuple[np.ndarray, int] | None] = {}
        self._pack = struct.Struct(f"{self.ids.shape[1]}q").pack_into
        self._apart: Any = None
        table.meta[dr.DOOR] = validator_address()
        steps = compiled_step(table.plan)
        self.serial = steps.serial
        parallel = threads.wants_parallel(sum(table.layout.sizes) * table.plan.unit)
        self.kernel = steps.parallel if parallel else self.serial

    def run(self, used: dict[int, Leaves], lr: float) -> int:
        """Take a step over `used`, the arrays by slot; mend or refuse what the door stops.

        Returns `door.OK`, or `door.NOT_FINITE` where the guard stopped the step.
        """
        kernel = self.serial if forks.serial_only else self.kernel

        def call(ids_at: int, apart: int) -> int:
            return int(kernel(self.table.meta_at, ids_at, 0, apart, lr))

        status = self._through(used, call)
        if status in (dr.OK, dr.NOT_FINITE):
            return status
        with self._sparse.lent(used):
            self._refuse_lent(used)
            return self._through(used, call)

    def check(self) -> None:
        """Send the kept parameters alone through the door, without a step."""
        self._through({}, lambda ids_at, apart: validate_arrays(self.table.meta_at, ids_at, apart))

    def _through(self, used: dict[int, Leaves], call: Callable[[int, int], int]) -> int:
        apart = 0
        while True:
            slots = tuple(used)
            # taken from its place while in use, so that a signal handler's step has its own
            spare = self._spare.pop(slots, None)
            ids, ids_at = self._new_ids() if spare is None else spare
            for slot, leaves in used.items():
                if len(leaves) < _MANY:
                    self._pack(ids.data, slot * ids.strides[0], *map(id, leaves))
                else:
                    ids[slot] = np.fromiter(map(id, leaves), np.int64, len(leaves))
            for leaf in self._sparse.rows:
                ids[pl.G, leaf] = 0
            status = call(ids_at, apart)
            self._spare[slots] = ids, ids_at
            if status == dr.OK:
                return status
            what, slot, leaf = dr.unpack_status(status)
            if what == dr.NOT_FINITE or self._is_sparse(what, slot, leaf, used):
                return status
            if what == dr.OVERLAP:
                self._refuse_overlap(used)
                apart = 1
            elif what == dr.NEEDS_WORK:
                self.table.add_work(slot, leaf)
            else:
                used[slot] = self._viewed(what, slot, leaf, used)

    def _is_sparse(self, what: int, slot: int, leaf: int, used: Mapping[int, Leaves]) -> bool:
        """Whether the door stopped at a sparse gradient; asked here, and not of all arrays."""
        return what == dr.BAD_TYPE and slot == pl.G and is_sparse(used[pl.G][leaf])

    def _new_ids(self) -> tuple[np.ndarray, int]:
        ids = self.ids.copy()
        return ids, ids.ctypes.data

    def _named(self, used: Mapping[int, Leaves]) -> tuple[Named, Named]:
        """What a step over `used` writes and what it reads, with the names of the user."""
        everything = {pl.P: self._kept, **used}
        named = {
            slot: [(self._title(slot, j), array) for j, array in enumerate(arrays)]
            for slot, arrays in everything.items()
        }
        read = named.pop(pl.G, [])
        if pl.OUT in named:
            read += named.pop(pl.P)
        return [*self._owned(), *(pair for pairs in named.values() for pair in pairs)], read

    def _refuse_lent(self, used: Mapping[int, Leaves]) -> None:
        """Raise where the rows lent to the table share an element with what is written."""
        written, _ = self._named(used)
        for leaf, lent in self._sparse.rows.items():
            read = [(self._title(pl.G, leaf), array) for array in lent]
            if problem := ar.shared_memory(written, read):
                raise ValueError(problem)

    def _refuse_overlap(self, used: Mapping[int, Leaves]) -> None:
        """Raise where two arrays share an element; bounds may overlap where none is shared."""
        written, read = self._named(used)
        # pairs of many arrays take long: those that were apart are remembered by where they lie
        lie = [(a.ctypes.data, a.shape, a.strides) for _, a in written]
        problem = "" if lie == self._apart else ar.shared_memory(written, written)
        problem = problem or ar.shared_memory(written, read)
        if problem:
            raise ValueError(problem)
        self._apart = lie

    def _viewed(self, what: int, slot: int, leaf: int, used: Mapping[int, Leaves]) -> list[Any]:
        """The arrays of a slot as plain arrays of the dtype, where their memory serves as it is.

        These are subclasses of ndarray, other spellings of the dtype, and arrays of other
        libraries. And numbers, which NumPy's arithmetic makes of 0-d arrays, as gradients of such.
        """
        dtype, arrays = self.table.plan.array_dtype(slot), used.get(slot, self._kept)
        if what == dr.BAD_TYPE and slot == pl.G and self._is_number(arrays[leaf], leaf):
            number = arrays[leaf]
            known = None if isinstance(number, np.generic) else dtype
            return [*arrays[:leaf], np.asarray(number, known), *arrays[leaf + 1 :]]
        if what == dr.BAD_TYPE:
            seen = as_views(arrays, "NumPy", pl.is_written(slot, used))
            if seen[leaf] is not arrays[leaf]:
                return seen
        if what not in (dr.BAD_TYPE, dr.BAD_DTYPE) or not ar.is_viewable(arrays[leaf], dtype):
            raise self._refusal(what, arrays[leaf], slot, leaf)
        return [
            np.ndarray.view(array, dtype, np.ndarray) if ar.is_viewable(array, dtype) else array
            for array in arrays
        ]

    def _is_number(self, x: Any, leaf: int) -> bool:
        """Whether `x` is a number where an array of no axes is wanted."""
        number = isinstance(x, (np.generic, float, int)) and not isinstance(x, bool)
        return number and self.table.layout.shapes[leaf] == ()

    def _refusal(self, what: int, array: Any, slot: int, leaf: int) -> Exception:
        name, layout = self._title(slot, leaf), self.table.layout
        of = self._title(pl.P, leaf)
        if what == dr.BAD_TYPE:
            return TypeError(f"{name}: {ar.describe(array, 'NumPy')}")
        if what == dr.BAD_DTYPE:
            return TypeError(ar.bad_dtype(name, array.dtype, self.table.plan.array_dtype(slot), of))
        if what == dr.READ_ONLY:
            return ValueError(f"{name}: is read-only. Pass a writable array, e.g. a copy.")
        if what == dr.BAD_SHAPE:
            return ValueError(ar.bad_shape(name, array.shape, layout.shapes[leaf], of))
        return ValueError(
            f"{name}: several of its elements lie on the same memory (a broadcast or sliding "
            "view). Pass a copy."
        )


def check_params(params: Sequence[Any], names: Sequence[str]) -> np.dtype:
    """Check type and dtype of parameters, the rest is for the door; return their dtype."""
    for array, name in zip(params, names, strict=True):
        if not ar.is_numpy(array):
            raise TypeError(f"{name}: {ar.describe(array, 'NumPy')}")
    return ar.common_dtype(params, names)
