"""Schedules one after another."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from numadam._core.hyper import Hyper, count
from numadam.schedules.base import Scheduled, several


@dataclass(frozen=True)
class Piecewise(Scheduled):
    """Values, or schedules, one after the other.

    Parameters
    ----------
    values : sequence of float in [0, inf] or callable
        One more than `boundaries`. A callable gets the steps since the start of its own piece, 0 at
        the first.
    boundaries : sequence of int
        Steps after which the next piece starts, increasing.

    References
    ----------
    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (0.1 divided by 10 after
    32000 and 48000 steps).

    Examples
    --------
    >>> from numadam.schedules import Piecewise, Polynomial, Step
    >>> schedule = Piecewise([0.1, 0.01, 0.001], boundaries=[32000, 48000])
    >>> [schedule(t) for t in (0, 31999, 32000, 48000)]
    [0.1, 0.1, 0.01, 0.001]
    >>> up, down = Polynomial(0.0, steps=4, end=1.0), Step(1.0, steps=2)
    >>> schedule = Piecewise([up, down], boundaries=[4])
    >>> [schedule(t) for t in (0, 2, 4, 6)]
    [0.0, 0.5, 1.0, 0.1]
    """

    values: Sequence[float | Callable[[int], float]]
    boundaries: Sequence[int]

    def __post_init__(self) -> None:
        kept = {name: several(name, getattr(self, name)) for name in ("values", "boundaries")}
        values = tuple(
            value if callable(value) else Hyper(f"values[{k}]", closed=True).check(value)
            for k, value in enumerate(kept["values"])
        )
        boundaries: list[int] = []
        for k, value in enumerate(kept["boundaries"]):
            least = boundaries[-1] + 1 if boundaries else 1
            boundaries.append(count(f"boundaries[{k}]", value, least))
        if len(values) != len(boundaries) + 1:
            raise ValueError(
                f"values: expected one more than boundaries, {len(boundaries) + 1}, "
                f"got {len(values)}."
            )
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "boundaries", tuple(boundaries))

    def _at(self, t: int) -> float:
        k = bisect_right(self.boundaries, t)
        piece = self.values[k]
        if not callable(piece):
            return piece
        begin = self.boundaries[k - 1] if k else 0
        return Hyper(f"values[{k}]", closed=True).check(piece(t - begin))
