"""Validation of the CuPy arrays of a step: one transaction, before anything is written.

Nothing here touches the GPU. The result is cached: at the next step only those slots are checked
again whose arrays have changed. A refused step empties the cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from weakref import ref

from numadam._arrays import checks as ar
from numadam._arrays.interop import Layout, as_views
from numadam._arrays.tree import same_objects
from numadam._backend import Leaves, Rows, Title
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._cuda import arrays as ca
from numadam._cuda.arrays import CudaSparseGradients

#: Arrays of a slot from which on those of the last two steps are trusted without a check.
_TRUSTED_FROM = 16
#: Memory of arguments, and a place in it.
Places = Sequence[tuple[Any, int]]
#: Pointer, device, shape, strides and dtype of an array.
_Header = tuple[Any, ...]


class _Identity:
    """Recognises the arrays of a slot at the next step.

    Few arrays are recognised by their headers: what equals a valid array in pointer, shape,
    strides and dtype is valid. Reading 1000 headers takes 0.5 ms; comparing 1000 objects takes
    3 us, so from 16 arrays on the same objects are trusted. CuPy's array objects keep their
    memory and dtype, and only an assignment to ``a.shape`` changes their shape.

    An object can only be compared safely while a reference keeps it alive. Gradients that are
    made anew at each step must not be kept alive, so references are kept only to objects that
    came at two steps in succession: their owner evidently keeps them, too. A list that is `fixed`
    is itself the same at every step.
    """

    def __init__(self, arrays: Leaves, headers: list[_Header] | None, fixed: bool) -> None:
        self._fixed, self._headers = arrays if fixed else None, headers
        self._type = type(arrays[0]) if arrays else None
        self._seen = () if fixed or headers is not None else tuple(map(ref, arrays))
        self._trusted: Leaves = ()

    def matches(self, arrays: Leaves) -> bool:
        """Whether these are the arrays that were checked, or equal them in what was checked."""
        if self._fixed is not None:
            return arrays is self._fixed
        if self._headers is not None:
            for array, header in zip(arrays, self._headers, strict=True):
                if type(array) is not self._type or _header(array) != header:
                    return False
            return True
        if self._trusted:
            return same_objects(arrays, self._trusted)
        for seen, array in zip(self._seen, arrays, strict=True):
            if array is None or seen() is not array:  # None is what a dead reference gives
                return False
        self._trusted = tuple(arrays)
        return True


class CheckedArrays(NamedTuple):
    """The arrays of one slot, found valid: fit to be written where they were to be `written`.

    `identity` recognises them at the next step. `addresses` are where they begin, of sparse
    gradients their values, and `spans` the memory of each, none in a step with sparse rows. Kernels
    cannot read `strided` ones in place, by leaf: they go through a work array.
    """

    identity: _Identity
    addresses: list[int]
    strided: Mapping[int, Any]
    spans: list[ca.Span]
    written: bool


class Validated(NamedTuple):
    """Arrays of a step that have been checked together.

    `slots` holds them by slot, and `rows` by leaf the rows and values of sparse gradients that
    the step visits one by one.
    """

    slots: dict[int, CheckedArrays]
    rows: Rows


class Validator:
    """Validates the arrays of each step; `fixed` are those recognised by the list itself."""

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
        self._owned: Sequence[ca.Named] = ()
        self._owned_spans: list[ca.Span] = []
        self._dtypes = {slot: plan.array_dtype(slot) for slot in range(pl.SLOTS)}
        self._flat_headers = {
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

    def kept_spans(self, params: Leaves, validated: Validated) -> list[ca.Span] | None:
        """The memory of the optimiser's own arrays, where the parameters are these."""
        own = params is self._fixed
        return [*self._owned_spans, *validated.slots[pl.P].spans] if own else None

    def forget(self) -> None:
        """Empty the cache, which refers to the caller's arrays."""
        self._last = None

    def validate(self, used: dict[int, Leaves]) -> Validated:
        """Check the arrays of a step, by slot: each by itself, then that none overlaps.

        If nothing has changed, the last result itself is returned. `used` is changed: arrays
        of other libraries are replaced by views, and sparse gradients by dense ones.
        """
        last = self._last
        slots = {} if last is None else last.slots
        known = {
            slot: slots[slot]
            for slot, arrays in used.items()
            if slot in slots and slots[slot].identity.matches(arrays)
        }
        if last is not None and len(known) == len(used) == len(slots):
            return last
        self._last = None  # until everything has been checked
        rows: Rows = {}
        sparse = pl.G in used and (self._sparse.by_row or not self._are_cupy(used[pl.G]))
        if sparse and pl.G not in known:
            rows = self._sparse.convert(used)
        found: dict[int, CheckedArrays] = {}
        for slot in used:
            written, checked = pl.is_written(slot, used), known.get(slot)
            if rows or checked is None or (written and not checked.written):
                checked = self._check_slot(slot, used, written, rows)
            found[slot] = checked
        self._check_overlap(used, found, rows)
        validated = Validated(found, rows)
        self._last = None if rows else validated
        return validated

    def _are_cupy(self, arrays: Leaves) -> bool:
        """Whether all are CuPy's arrays: none is sparse, or of another library."""
        return set(map(type, arrays)) <= {self._ndarray}

    def _check_slot(
        self, slot: int, used: dict[int, Leaves], written: bool, rows: Rows
    ) -> CheckedArrays:
        are_cupy = self._are_cupy(used[slot])
        if not are_cupy and not rows and not written:
            # new views at each step: the owner of such an object may put other memory into it
            used[slot] = as_views(used[slot], "CuPy", partial(self._title, slot))
            are_cupy = self._are_cupy(used[slot])
        arrays, strided = used[slot], {}
        headers = [_header(array) for array in arrays] if are_cupy else None
        addresses = self._flat_addresses(slot, headers)
        if addresses is not None:
            size = self._dtypes[slot].itemsize
            ends = zip(addresses, self._layout.sizes, strict=True)
            spans = [(low, low + size * n) for low, n in ends]
        else:
            self._check_each(slot, arrays, written, rows)
            lazy = rows if slot == pl.G else {}
            strided = {
                k: array
                for k, array in enumerate(arrays)
                if k not in lazy and not ca.is_flat(array, self._layout.orders[k])
            }
            in_place = [lazy[k][1] if k in lazy else array for k, array in enumerate(arrays)]
            addresses = list(map(ca.address_of, in_place))
            spans = [] if rows else list(map(ca.span, arrays))
        if rows or len(arrays) >= _TRUSTED_FROM:
            headers = None
        identity = _Identity(() if rows else arrays, headers, arrays is self._fixed)
        return CheckedArrays(identity, addresses, strided, spans, written)

    def _flat_addresses(self, slot: int, headers: list[_Header] | None) -> list[int] | None:
        """Addresses of arrays that are all flat in the layout's order and aligned, or None.

        Comparing all headers at once takes 0.5 us an array; `check_array` would take 5 us.
        """
        if headers is None or [header[1:] for header in headers] != self._flat_headers[slot]:
            return None
        addresses, size = [header[0] for header in headers], self._dtypes[slot].itemsize
        return None if any(address % size for address in addresses) else addresses

    def _check_each(self, slot: int, arrays: Leaves, written: bool, rows: Rows) -> None:
        dtype = self._dtypes[slot]
        for k, (array, shape) in enumerate(zip(arrays, self._layout.shapes, strict=True)):
            if slot != pl.G or k not in rows:
                named, of = (self._title(slot, k), array), self._title(pl.P, k)
                ca.check_array(named, of, shape, dtype, self._device, written)

    def _check_overlap(
        self, used: Mapping[int, Leaves], found: Mapping[int, CheckedArrays], rows: Rows
    ) -> None:
        """Refuse a written array that overlaps any other, by name."""
        spans = (span for checked in found.values() for span in checked.spans)
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


class Alike:
    """Recognises arrays that equal those of the last step in all but where they begin.

    They go straight into the arguments of the launches: `places` are by array the memory of
    arguments and where in it the array's address stands. `fixed` is the memory of the arrays that
    stay. Holds no reference to an array.
    """

    def __init__(self, arrays: Leaves, places: Sequence[Places], fixed: Sequence[ca.Span]) -> None:
        self._type, self._headers = type(arrays[0]), [_header(array)[1:] for array in arrays]
        self._sizes = [(array.nbytes, array.dtype.itemsize) for array in arrays]
        self._addresses = [array.data.ptr for array in arrays]
        self._places, self._fixed = places, fixed

    def accept(self, arrays: Leaves) -> bool:
        """Whether the arrays of this step are such; nothing has changed where they are not."""
        addresses = []
        for array, header in zip(arrays, self._headers, strict=True):
            if type(array) is not self._type:
                return False
            address, *rest = _header(array)
            if tuple(rest) != header:
                return False
            addresses.append(address)
        if addresses != self._addresses:
            pairs = list(zip(addresses, self._sizes, strict=True))
            spans = [(low, low + nbytes) for low, (nbytes, _) in pairs]
            aligned = not any(address % size for address, (_, size) in pairs)
            if not aligned or not ar.are_disjoint([*self._fixed, *spans]):
                return False
            for address, places in zip(addresses, self._places, strict=True):
                for words, k in places:
                    words[k] = address
            self._addresses = addresses
        return True


def _flat_header(
    device: int, shape: tuple[int, ...], order: Sequence[int], dtype: Any
) -> _Header | None:
    """All but the pointer of an array that is flat in this order; None if it has no elements."""
    if 0 in shape:
        return None
    strides, step = [0] * len(shape), dtype.itemsize
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis]
    return device, shape, tuple(strides), dtype


def _header(array: Any) -> _Header:
    data = array.data
    return data.ptr, data.device_id, array.shape, array.strides, array.dtype
