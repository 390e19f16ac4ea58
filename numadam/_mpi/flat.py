"""Arrays as one flat index: a range of it is a view where one array holds it, else a copy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from numadam._mpi.cut import Cut


class Flat:
    """Flat arrays, one after the other.

    Parameters
    ----------
    cut : Cut
        With the begin of each array.
    leaves : sequence of 1-D arrays
        Or one array that holds all of them already.
    """

    def __init__(self, cut: Cut, leaves: Sequence[np.ndarray] | np.ndarray) -> None:
        self._cut, self._leaves = cut, leaves
        self._whole = isinstance(leaves, np.ndarray)

    def view(self, begin: int, end: int) -> np.ndarray | None:
        """A range as a view; None where it lies in several arrays."""
        if self._whole:
            view: np.ndarray = self._leaves[begin:end]  # type: ignore[assignment]
            return view
        first = next(self._cut.runs(begin, end))
        if first.high - first.low < end - begin:
            return None
        return self._leaves[first.leaf][first.low : first.high]

    def leaves(self, parts: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """For each array some of its elements, low to before high, as a view."""
        if not self._whole:
            return [one[low:high] for one, (low, high) in zip(self._leaves, parts, strict=True)]
        pairs = zip(self._cut.offsets, parts)  # noqa: B905  # the last offset is the end
        return [self._leaves[at + low : at + high] for at, (low, high) in pairs]  # type: ignore[misc]

    def read(self, begin: int, end: int, spare: Spare | None, at: int = 0) -> np.ndarray:
        """A range, as a view or gathered in spare memory from `at` on; one array needs none."""
        view = self.view(begin, end)
        if view is not None:
            return view
        assert spare is not None
        runs = self._cut.runs(begin, end)
        out = spare.of(end - begin, at)
        np.concatenate([self._leaves[leaf][low:high] for leaf, low, high in runs], out=out)
        return out

    def write(self, begin: int, values: np.ndarray) -> None:
        """Write a range from its begin on."""
        at = 0
        for leaf, low, high in self._cut.runs(begin, begin + len(values)):
            self._leaves[leaf][low:high] = values[at : at + high - low]
            at += high - low


class Spare:
    """Memory that is kept from step to step, and begins when it is first needed."""

    def __init__(self, size: int, dtype: np.dtype) -> None:
        self._size, self._dtype = size, dtype
        self._memory: np.ndarray | None = None

    def of(self, size: int, at: int = 0) -> np.ndarray:
        """So many elements of it, from `at` on."""
        if self._memory is None:
            self._memory = np.empty(self._size, self._dtype)
        return self._memory[at : at + size]
