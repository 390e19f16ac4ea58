"""What a step looks at of its CuPy arrays before it writes, and what it need not look at again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import ref

import numpy as np

from numadam._arrays.layout import Layout
from numadam._arrays.tree import same_objects
from numadam._backend import Leaves
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._cuda import validate as ca
from numadam._cuda.validate import NO_ROWS, Sparse

Title = Callable[[int, int], str]
#: Arrays from which on a step trusts an array object that it saw at the last two steps, and no
#: longer looks at it.
_TRUSTED_FROM = 16


class Checks:
    """Checks the arrays of a step, and knows those of the last one again.

    Parameters
    ----------
    plan : Plan
    layout : Layout
    device : int
        Number of the GPU.
    title : callable
        ``title(slot, leaf)``: what the user calls that array.
    fixed : list of arrays
        Those that are the same objects at every step: known again by the list itself.
    """

    def __init__(
        self, plan: Plan, layout: Layout, device: int, title: Title, fixed: Leaves
    ) -> None:
        import cupy

        self._ndarray = cupy.ndarray
        self._layout, self._device, self._title = layout, device, title
        self._fixed, self._fixed_spans = fixed, ca.spans_of(fixed, True)
        self._owned: Sequence[ca.Named] = ()
        self._owned_spans: list[ca.Span] = []
        self._dtypes = {slot: plan.array_dtype(slot) for slot in range(pl.SLOTS)}
        self._plain = {
            slot: [
                _plain_look(device, shape, order, self._dtypes[slot])
                for shape, order in zip(layout.shapes, layout.orders, strict=True)
            ]
            for slot in {pl.P, pl.G, pl.OUT, *plan.state_slots().values()}
        }
        self._seen: dict[int, _Seen] = {}

    def owns(self, named: Sequence[ca.Named]) -> None:
        """Let no array of a step overlap these, which every step writes."""
        self._owned = named
        self._owned_spans = ca.spans_of([array for _, array in named], True)

    def are_own(self, arrays: Leaves) -> bool:
        """Whether all are CuPy's arrays, and none is sparse or of another library."""
        return set(map(type, arrays)) <= {self._ndarray}

    def new(self, used: Mapping[int, Leaves]) -> dict[int, Leaves]:
        """Those arrays of a step that are to be looked at: the others are those of the last."""
        seen = self._seen
        return {
            slot: arrays
            for slot, arrays in used.items()
            if slot not in seen or not seen[slot].again(arrays)
        }

    def known(self, used: Mapping[int, Leaves], new: Mapping[int, Leaves]) -> bool:
        """Whether all arrays of a step are those of the last one."""
        return not new and used.keys() == self._seen.keys()

    def forget(self) -> Mapping[int, _Seen]:
        """Hold no array of the last step, and return what is known of them.

        The next step looks at all of its arrays, as after one that was refused.
        """
        before, self._seen = self._seen, {}
        return before

    def remember(
        self,
        used: Mapping[int, Leaves],
        new: Mapping[int, Leaves],
        before: Mapping[int, _Seen],
    ) -> None:
        """The arrays of a step have been checked: the next one may know them again."""
        self._seen = {
            slot: _Seen(arrays, arrays is self._fixed, self._ndarray)
            if slot in new
            else before[slot]
            for slot, arrays in used.items()
        }

    def addresses(self, slot: int, arrays: Leaves) -> list[int] | None:
        """Where plain arrays lie: each flat in the layout's order. None where one is otherwise.

        To look at all in one go takes 0.5 us an array; one by one, with what there may be, 5 us.
        """
        if not self.are_own(arrays):
            return None
        looks = [_look(array) for array in arrays]
        if [look[1:] for look in looks] != self._plain[slot]:
            return None
        found = [look[0] for look in looks]
        size = self._dtypes[slot].itemsize
        return None if any(address % size for address in found) else found

    def check(
        self,
        used: Mapping[int, Leaves],
        new: Mapping[int, Leaves],
        where: Mapping[int, list[int] | None],
        sparse: Sparse = NO_ROWS,
    ) -> None:
        """Check the arrays that are new, and that nothing written overlaps anything else.

        `where` are the `addresses` of the new ones.
        """
        for slot, arrays in new.items():
            if where[slot] is None:
                self._check_each(slot, arrays, pl.is_written(slot, used), sparse)
        if sparse or not ca.lie_apart(self._spans(used, where)):
            self._check_overlap(used, sparse)

    def _check_each(self, slot: int, arrays: Leaves, written: bool, sparse: Sparse) -> None:
        dtype = self._dtypes[slot]
        for k, (array, shape) in enumerate(zip(arrays, self._layout.shapes, strict=True)):
            lazy = slot == pl.G and k in sparse
            if not lazy and not ca.fits(array, shape, dtype, self._device, written):
                named, of = (self._title(slot, k), array), self._title(pl.P, k)
                ca.check_array(named, of, shape, dtype, self._device, written)

    def _spans(
        self, used: Mapping[int, Leaves], where: Mapping[int, list[int] | None]
    ) -> list[ca.Span]:
        """Where the arrays of a step lie, those of the back end's own among them."""
        spans = list(self._owned_spans)
        for slot, arrays in used.items():
            written, plain = pl.is_written(slot, used), where.get(slot)
            if arrays is self._fixed:
                spans += [(low, high, written) for low, high, _ in self._fixed_spans]
            elif plain is not None:
                size = self._dtypes[slot].itemsize
                ends = zip(plain, self._layout.sizes, strict=True)
                spans += [(low, low + size * n, written) for low, n in ends]
            else:
                spans += ca.spans_of(arrays, written)
        return spans

    def _named(self, slot: int, arrays: Leaves) -> list[ca.Named]:
        return [(self._title(slot, k), array) for k, array in enumerate(arrays)]

    def _check_overlap(self, used: Mapping[int, Leaves], sparse: Sparse) -> None:
        """Refuse what overlaps, by name."""
        read: list[ca.Named] = []
        write: list[ca.Named] = []
        for slot, arrays in used.items():
            (write if pl.is_written(slot, used) else read).extend(self._named(slot, arrays))
        for k, parts in sparse.items():
            name = self._title(pl.G, k)
            read = [entry for entry in read if entry[0] != name]
            read += zip((f"{name}.indices", f"{name}.values"), parts, strict=True)
        ca.check_overlap([*self._owned, *write], read)


def _plain_look(
    device: int, shape: tuple[int, ...], order: Sequence[int], dtype: np.dtype[Any]
) -> tuple[Any, ...] | None:
    """How an array looks that is flat in this order of axes; None where it has no elements."""
    if 0 in shape:
        return None
    strides, step = [0] * len(shape), dtype.itemsize
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis]
    return device, shape, tuple(strides), dtype


class _Seen:
    """The arrays of a slot at the last step, and whether this one may trust them.

    Few arrays are known again by how they look: an array that lies where one did that was found
    right, with its shape, strides and dtype, is right too. To look at each of 1000 takes 0.5 ms,
    to ask whether it is the same object 3 us. An object keeps its memory, so what was right of it
    stays right. But whoever makes new gradients at each step shall not find the old ones held: an
    object is kept only if it was alive through two steps, as its owner evidently keeps it too.
    """

    def __init__(self, arrays: Leaves, fixed: bool, own: type) -> None:
        self._fixed, self._type = arrays if fixed else None, own
        self._looks: list[Any] | None = None
        self._weak: list[Any] = []
        self._kept: Sequence[Any] = ()
        if not fixed and len(arrays) < _TRUSTED_FROM:
            self._looks = [_look(array) for array in arrays]
        elif not fixed:
            self._weak = list(map(ref, arrays))

    def again(self, arrays: Leaves) -> bool:
        """Whether these are the arrays of the last step, or look as they did."""
        if self._fixed is not None:
            return arrays is self._fixed
        if self._looks is not None:
            for array, look in zip(arrays, self._looks, strict=True):
                if type(array) is not self._type or _look(array) != look:
                    return False
            return True
        if self._kept:
            return same_objects(arrays, self._kept)
        if any(r() is not a for r, a in zip(self._weak, arrays, strict=True)):
            return False
        self._kept = tuple(arrays)
        return True


def _look(array: Any) -> tuple[Any, ...]:
    data = array.data
    return data.ptr, data.device_id, array.shape, array.strides, array.dtype
