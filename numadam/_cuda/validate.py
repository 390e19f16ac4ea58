"""Validation of the CuPy arrays of a step: one transaction, before anything is written.

Nothing here touches the GPU. Arrays that are flat are compared with what they have to be, which
takes 0.5 us each; any other is checked by itself. A refused step leaves nothing that is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from numadam._arrays import checks as ar
from numadam._arrays.interop import Layout, as_views
from numadam._backend import Leaves, Rows, Title
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._cuda import arrays as ca
from numadam._cuda.arrays import CudaSparseGradients

#: Device, shape, strides and dtype of an array.
_Header = tuple[Any, ...]


class CheckedArrays(NamedTuple):
    """The arrays of one slot, found valid.

    `addresses` are where they begin, of sparse gradients their values, and `spans` the memory of
    each. Kernels cannot read `strided` ones in place, by leaf: they go through a work array.
    """

    addresses: list[int]
    spans: list[ca.Span]
    strided: Mapping[int, Any]


class Validated(NamedTuple):
    """Arrays of a step that have been checked together.

    `slots` holds them by slot, and `rows` by leaf the rows and values of sparse gradients that
    the step visits one by one.
    """

    slots: dict[int, CheckedArrays]
    rows: Rows


class Validator:
    """Validates the arrays of each step; `fixed` are checked once, as long as the list is this."""

    def __init__(
        self,
        plan: Plan,
        layout: Layout,
        device: int,
        title: Title,
        sparse: CudaSparseGradients,
        fixed: Leaves = (),
    ) -> None:
        import cupy

        self._ndarray = cupy.ndarray
        self._layout, self._device, self._title = layout, device, title
        self._sparse, self._fixed = sparse, fixed
        self._checked: CheckedArrays | None = None  # those that are fixed
        self._owned: Sequence[ca.Named] = ()
        self._owned_spans: list[ca.Span] = []
        self._dtypes = {slot: plan.array_dtype(slot) for slot in range(pl.SLOTS)}
        self._headers = {
            slot: [
                _flat_header(device, shape, order, self._dtypes[slot])
                for shape, order in zip(layout.shapes, layout.orders, strict=True)
            ]
            for slot in {pl.P, pl.G, pl.OUT, *plan.state_slots.values()}
        }
        self._last: Validated | None = None

    def protect(self, named: Sequence[ca.Named]) -> None:
        """Let no array of a step overlap these, which every step writes."""
        self._owned = named
        self._owned_spans = [ca.span(array) for _, array in named]

    def validate(self, used: dict[int, Leaves]) -> Validated:
        """Check the arrays of a step, by slot: each by itself, then that none overlaps.

        If all lie where those of the last step did, its result itself is returned. `used` is
        changed: arrays of other libraries are replaced by views, and sparse gradients by dense
        ones.
        """
        last, self._last = self._last, None  # until everything has been checked
        rows: Rows = {}
        flat = {slot: self._flat(slot, arrays) for slot, arrays in used.items()}
        by_row = self._sparse.by_row
        if pl.G in used and (by_row or not (flat[pl.G] or self._are_cupy(used[pl.G]))):
            rows, flat[pl.G] = self._sparse.convert(used), None
        slots = {k: checked or self._check_slot(k, used, rows) for k, checked in flat.items()}
        if last is None or rows or slots != last.slots:
            self._check_overlap(used, slots, rows)
            last = Validated(slots, rows)
            if used[pl.P] is self._fixed and pl.OUT not in used:  # checked as what is written
                self._checked = slots[pl.P]
        # not with strided arrays, which would be compared by their elements
        if not rows and not any(checked.strided for checked in slots.values()):
            self._last = last
        return last

    def accept(self, grad: Any) -> int:
        """The address of the only gradient, where it may take the place of the last; or 0.

        The short way of a step on the optimiser's own parameters, where all arrays are flat.
        """
        last, checked = self._last, self._flat(pl.G, (grad,))
        if checked is None or last is None or last.slots.keys() != {pl.P, pl.G}:
            return 0
        params, before = last.slots.values()
        if params is not self._checked:
            return 0
        if checked != before:
            if not ar.are_disjoint([*self._owned_spans, *params.spans, *checked.spans]):
                return 0
            self._last = Validated({pl.P: params, pl.G: checked}, {})
        return checked.addresses[0]

    def _flat(self, slot: int, arrays: Leaves) -> CheckedArrays | None:
        """Arrays of CuPy that are all flat in the layout's order and aligned, or None."""
        if arrays is self._fixed and self._checked is not None:
            return self._checked
        addresses, size = [], self._dtypes[slot].itemsize
        for array, header in zip(arrays, self._headers[slot], strict=True):
            if type(array) is not self._ndarray:
                return None
            data = array.data
            address = data.ptr
            if (data.device_id, array.shape, array.strides, array.dtype) != header:
                return None
            if address % size:
                return None
            addresses.append(address)
        ends = zip(addresses, self._layout.sizes, strict=True)
        return CheckedArrays(addresses, [(low, low + size * n) for low, n in ends], {})

    def _are_cupy(self, arrays: Leaves) -> bool:
        """Whether all are CuPy's arrays: none is sparse, or of another library."""
        return set(map(type, arrays)) <= {self._ndarray}

    def _check_slot(self, slot: int, used: dict[int, Leaves], rows: Rows) -> CheckedArrays:
        arrays, written = used[slot], pl.is_written(slot, used)
        if not self._are_cupy(arrays) and not rows and not written:
            arrays = used[slot] = as_views(arrays, "CuPy", partial(self._title, slot))
        return self._flat(slot, arrays) or self._check_each(slot, arrays, written, rows)

    def _check_each(self, slot: int, arrays: Leaves, written: bool, rows: Rows) -> CheckedArrays:
        layout, dtype, strided = self._layout, self._dtypes[slot], {}
        in_place = list(arrays)
        for k, (array, shape) in enumerate(zip(arrays, layout.shapes, strict=True)):
            if slot == pl.G and k in rows:
                in_place[k] = rows[k][1]
                continue
            named, of = (self._title(slot, k), array), self._title(pl.P, k)
            ca.check_array(named, of, shape, dtype, self._device, written)
            if not ca.is_flat(array, layout.orders[k]):
                strided[k] = array
        spans = [] if rows else list(map(ca.span, arrays))
        return CheckedArrays(list(map(ca.address_of, in_place)), spans, strided)

    def _check_overlap(
        self, used: Mapping[int, Leaves], slots: Mapping[int, CheckedArrays], rows: Rows
    ) -> None:
        """Refuse a written array that overlaps any other, by name."""
        spans = (span for checked in slots.values() for span in checked.spans)
        if not rows and ar.are_disjoint([*self._owned_spans, *spans]):
            return
        written, read = list(self._owned), list[ca.Named]()
        for slot, arrays in used.items():
            named = written if pl.is_written(slot, used) else read
            named += self._named(slot, arrays, rows)
        ca.check_overlap(written, read)

    def _named(self, slot: int, arrays: Leaves, rows: Rows) -> list[ca.Named]:
        """Arrays by what the user calls them; of sparse gradients their two."""
        named: list[ca.Named] = []
        for k, array in enumerate(arrays):
            name = self._title(slot, k)
            if slot == pl.G and k in rows:
                named += zip((f"{name}.indices", f"{name}.values"), rows[k], strict=True)
            else:
                named.append((name, array))
        return named


def _flat_header(
    device: int, shape: tuple[int, ...], order: Sequence[int], dtype: Any
) -> _Header | None:
    """That of an array that is flat in this order; None if it has no elements."""
    if 0 in shape:
        return None
    strides, step = [0] * len(shape), dtype.itemsize
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis]
    return device, shape, tuple(strides), dtype
