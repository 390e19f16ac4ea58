"""Words for a wrong gradient: what it is in terms of the right one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from numadam._minimize.gradient.differences import SAFETY
from numadam._minimize.gradient.finding import Finding
from numadam._minimize.gradient.point import Point

#: A gradient of one array, rearranged.
Rearranged = Callable[[np.ndarray], np.ndarray]


def _same(g: np.ndarray) -> np.ndarray:
    return g


def _conjugate(g: np.ndarray) -> np.ndarray:
    return g.conj()


def _transpose(g: np.ndarray) -> np.ndarray:
    return g.T if g.ndim == 2 and g.shape[0] == g.shape[1] else g


def _by_columns(g: np.ndarray) -> np.ndarray:
    return g.reshape(-1).reshape(g.shape, order="F")


def _from_columns(g: np.ndarray) -> np.ndarray:
    return g.reshape(-1, order="F").reshape(g.shape)


def _adjoint(g: np.ndarray) -> np.ndarray:
    return _transpose(g).conj()


def _reversed(g: np.ndarray) -> np.ndarray:
    return g[::-1] if g.ndim else g


def _place_before(g: np.ndarray) -> np.ndarray:
    return np.roll(g, -1)


def _place_after(g: np.ndarray) -> np.ndarray:
    return np.roll(g, 1)


#: Words for a gradient that is right once it is rearranged.
_ARRANGEMENTS: tuple[tuple[str, Rearranged], ...] = (
    ("", _same),
    ("the conjugate", _conjugate),
    ("transposed", _transpose),
    ("in Fortran order, column by column", _by_columns),
    ("in Fortran order, column by column", _from_columns),
    ("the conjugate, transposed", _adjoint),
    ("in reversed order", _reversed),
    ("moved by one place", _place_before),
    ("moved by one place", _place_after),
)
#: Length from which a mean or a sum of so many numbers is seen in a factor; 2 and 3 are powers.
_LONG_ENOUGH = 4


class Explanation:
    """Search for what a wrong gradient and the right one have in common.

    Parameters
    ----------
    point : Point
    g : array
        The gradient, one vector as `point.x`.
    tolerance : float
        Relative error that counts as none.
    """

    def __init__(self, point: Point, g: np.ndarray, tolerance: float) -> None:
        self._point, self._tolerance = point, tolerance
        self._g = np.where(np.isfinite(g), g, 0.0)

    def of(self, findings: Sequence[Finding]) -> str:
        """Words for all findings, for those of one array, or for the wrong ones; or ""."""
        told = [one for one in findings if one.slope is not None and not one.kink]
        with np.errstate(all="ignore"):  # gradients may be as large as numbers are
            for where, some in self._parts(told):
                wrong = [one for one in some if one.wrong]
                if wrong and (text := self._whole(some)):
                    return f"{where}it {text}"
        return ""

    def _parts(self, told: list[Finding]) -> Iterator[tuple[str, list[Finding]]]:
        yield "", told
        by_leaf: dict[int, list[Finding]] = {}
        for one in told:
            if one.probe.element is not None:
                by_leaf.setdefault(self._point.leaf_of(one.probe.element), []).append(one)
        if len(self._point.ends) > 1:
            for leaf, some in by_leaf.items():
                yield f"in {self._point.leaf_name(leaf)} ", some
        wrong = [one for one in told if one.wrong and one.probe.element is not None]
        if 1 < len(wrong) < len(told):
            yield "in these ", wrong

    def _whole(self, some: list[Finding]) -> str:
        slopes = np.array([one.slope.value for one in some if one.slope])
        unit = np.abs(slopes).max() or 1.0  # squares of slopes may overflow or underflow
        errors = np.array([one.slope.error for one in some if one.slope]) / unit
        slopes /= unit
        for words, rearranged in _ARRANGEMENTS:
            given = self._along(self._rearranged(rearranged), some) / unit
            if not given.any():
                if not words and slopes.any():
                    return "is 0, where fun changes"
                continue
            ratio = float(given @ slopes / (given @ given))
            if ratio and self._alike(ratio * given, slopes, errors):
                return _times(words, 1 / ratio, self._tolerance) + self._mean(words, 1 / ratio)
        if len(some) > 2 and sum(one.wrong for one in some) > 1:
            return self._lacking(some, slopes, errors, unit)
        return ""

    def _lacking(
        self, some: list[Finding], slopes: np.ndarray, errors: np.ndarray, unit: float
    ) -> str:
        """Words for a term that is missing: a constant, or a multiple of x."""
        x, given = self._point.x, self._along(self._g, some) / unit
        for term, words in (
            (np.ones_like(x), "lacks {:.4g} in each element"),
            (x, "lacks {:.4g} * x, such as that of a penalty on x"),
        ):
            along = self._along(term, some)
            size = np.abs(along).max()
            if size:
                along /= size
                factor = float(along @ (slopes - given) / (along @ along))
                if self._alike(given + factor * along, slopes, errors):
                    return words.format(factor * unit / size)
        return ""

    def _mean(self, words: str, factor: float) -> str:
        """A guess for a factor that is the number of elements, or one over it."""
        sizes = [*np.diff(self._point.ends, prepend=0), len(self._point.x)]
        for n in map(int, sizes):
            if not words and n >= _LONG_ENOUGH:
                if abs(factor / n - 1) <= self._tolerance:
                    return f", as a sum in place of a mean of {n:,} would be"
                if abs(factor * n - 1) <= self._tolerance:
                    return f", 1/{n:,}, as a mean in place of a sum would be"
        return ""

    def _rearranged(self, rearranged: Rearranged) -> np.ndarray:
        parts = [
            np.ascontiguousarray(rearranged(part)).reshape(-1).view(np.float64)
            for part in self._point.arrays(self._g)
        ]
        return np.concatenate(parts)

    @staticmethod
    def _along(g: np.ndarray, some: list[Finding]) -> np.ndarray:
        """The slopes of a gradient in the directions of findings."""
        return np.array([float(g[one.probe.places] @ one.probe.d) for one in some])

    def _alike(self, one: np.ndarray, other: np.ndarray, errors: np.ndarray) -> bool:
        allowed = self._tolerance * np.maximum(abs(one), abs(other)) + SAFETY * errors
        return bool((abs(one - other) <= allowed).all())


def _times(words: str, factor: float, tolerance: float) -> str:
    """``is transposed, and 2.000 times as large``."""
    if abs(factor + 1) <= 10 * tolerance:
        return f"is {words}, and has the wrong sign" if words else "has the wrong sign"
    if not words:
        return f"is {factor:#.4g} times what differences of fun give"
    if abs(factor - 1) <= 10 * tolerance:
        return f"is {words}"
    return f"is {words}, and {factor:#.4g} times as large"
