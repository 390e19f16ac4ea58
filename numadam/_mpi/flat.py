"""Arrays as one flat index: a range of it is a view where one array holds it, else a copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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

    def __init__(self, cut: Cut, leaves: Any) -> None:
        self._cut, self._leaves = cut, leaves
        self._whole = not isinstance(leaves, list)

    def view(self, begin: int, end: int) -> Any:
        """A range as a view; None where it lies in several arrays."""
        if self._whole:
            return self._leaves[begin:end]
        run = next(self._cut.runs(begin, end), None)
        if run is None:
            return self._leaves[0][:0]
        if run.high - run.low < end - begin:
            return None
        return self._leaves[run.leaf][run.low : run.high]

    def leaves(self, parts: Sequence[tuple[int, int]]) -> list[Any]:
        """For each array some of its elements, low to before high, as a view."""
        if not self._whole:
            return [leaf[low:high] for leaf, (low, high) in zip(self._leaves, parts, strict=True)]
        pairs = zip(self._cut.offsets, parts)  # noqa: B905  # the last offset is the end
        return [self._leaves[at + low : at + high] for at, (low, high) in pairs]

    def read(self, begin: int, end: int, memory: Any = None, copied: bool = False) -> Any:
        """A range, as a view or a copy in `memory`; one array needs none."""
        view = self.view(begin, end)
        if view is not None and not copied:
            return view
        out = memory[: end - begin]
        if view is not None:
            out[...] = view
        else:
            runs = self._cut.runs(begin, end)
            np.concatenate([self._leaves[leaf][low:high] for leaf, low, high in runs], out=out)
        return out

    def write(self, begin: int, values: Any) -> None:
        """Write a range from its begin on."""
        at = 0
        for leaf, low, high in self._cut.runs(begin, begin + len(values)):
            self._leaves[leaf][low:high] = values[at : at + high - low]
            at += high - low
