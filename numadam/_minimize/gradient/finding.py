"""A direction along which a gradient is checked, and what was found there."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from numadam._minimize.gradient.differences import LOOSE, SAFETY, Slope


class Probe(NamedTuple):
    """A direction: ``x + t * d`` at the elements `places`; `name` is that of an element.

    The bounds leave room for a step of the length `room`, on both sides where it is `central`.
    """

    places: Any
    d: np.ndarray
    central: bool
    room: float
    name: str
    element: int | None


class Finding(NamedTuple):
    """A probe with its slope by formula and by differences.

    They differ where it is `wrong`, and perhaps where it is in `doubt`: differences are too bad to
    tell. `kink`: f has a kink, and the formula is between the slopes on both sides. `longer`: the
    slope over a longer step, where that alone is not the formula's.
    """

    probe: Probe
    formula: float
    slope: Slope | None
    wrong: bool = False
    doubt: bool = False
    kink: bool = False
    longer: Slope | None = None

    @property
    def size(self) -> float:
        """The larger of both slopes."""
        return max(abs(self.formula), abs(self.slope.value) if self.slope else 0.0)

    @property
    def hidden(self) -> bool:
        """Whether the slope is too small beside f for the differences to tell it from others."""
        if not self.formula or self.slope is None or self.kink:
            return False
        return SAFETY * self.slope.error > LOOSE * self.size

    @property
    def unclear(self) -> bool:
        """Whether the differences leave it open."""
        return not self.wrong and (self.doubt or self.hidden)

    def rough(self, largest: float) -> bool:
        """Whether the slope may be any, even beside the largest one: f jumps or has a kink near."""
        if self.slope is None or self.kink or self.slope.flat:
            return False
        return SAFETY * self.slope.error > LOOSE * largest

    def resolved(self, largest: float) -> bool:
        """Whether the differences are good enough to tell, beside the largest slope."""
        if self.slope is None or self.kink or self.doubt or largest == 0.0:
            return False
        return SAFETY * self.slope.error <= LOOSE * max(self.size, LOOSE * largest)

    @property
    def excess(self) -> float:
        """Relative error of the formula that the errors of the differences do not explain."""
        if not np.isfinite(self.formula):
            return np.inf
        if self.slope is None or self.kink or self.size == 0.0:
            return 0.0
        away = abs(self.formula - self.slope.value) - SAFETY * self.slope.error
        return max(0.0, away) / self.size
