"""Storage of a `History`: records of float64 numbers with named columns."""

from __future__ import annotations

import math
from array import array
from typing import Any

import numpy as np

#: The columns of a record; `ratio` is computed from two of them.
_STORED = ("t", "f", "grad_norm", "step_norm", "param_norm", "lr")
#: Columns in the order in which they are shown.
SHOWN = ("t", "f", "grad_norm", "step_norm", "param_norm", "ratio", "lr")


class Records:
    """Records of steps in increasing order of t, 48 bytes each."""

    def __init__(self) -> None:
        self._values = array("d")

    def append(self, record: tuple[float, float, float, float, float, float]) -> None:
        """Add a record by one call: Ctrl-C comes before or after it."""
        self._values.extend(record)

    @property
    def last(self) -> int:
        """The t of the last record; -1 before any."""
        return int(self._values[-len(_STORED)]) if self._values else -1

    def drop_from(self, t: int) -> None:
        """Delete the records from step t on."""
        while self.last >= t:
            del self._values[-len(_STORED) :]

    def __len__(self) -> int:
        return len(self._values) // len(_STORED)

    def column(self, name: str) -> np.ndarray:
        """A column as a new array."""
        if name == "ratio":
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio: np.ndarray = self.column("step_norm") / self.column("param_norm")
            return ratio
        if name not in _STORED:
            raise KeyError(f"{name!r}: the columns are {', '.join(SHOWN)}.")
        column = np.array(self._values[_STORED.index(name) :: len(_STORED)])
        return column.astype(np.int64) if name == "t" else column


def as_number(f: Any) -> float:
    """The objective as a float; NaN where there is none."""
    if f is None:
        return math.nan
    try:
        return float(f)
    except (TypeError, ValueError):
        raise TypeError(f"f: expected a number, got {type(f).__name__}.") from None
