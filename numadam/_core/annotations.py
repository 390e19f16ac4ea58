"""Types of arguments that take more than one kind of value; for signatures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numadam._core.hyper import Schedule


class Array(Protocol):
    """Arrays and numbers of NumPy, CuPy, and of libraries with their like."""

    @property
    def shape(self) -> Any:
        """Length along each axis."""

    @property
    def dtype(self) -> Any:
        """Type of the elements."""


class Box(Protocol):
    """Bounds as `scipy.optimize.Bounds` has them."""

    lb: Any
    ub: Any


#: Containers of arrays that need no further library to be named; optree knows more.
Nested = list[Any] | tuple[Any, ...] | Mapping[Any, Any]
#: Learning rate: a number, a function of the steps taken, or one for each element or array. A text
#: is none of them, which `Sequence` would let pass.
Rate = float | Schedule | Array | Nested
#: Lower and upper bounds.
Bounds = Box | Array | Nested
