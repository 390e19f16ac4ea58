"""Words for a wrong gradient: what it is in terms of the right one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from numadam._minimize.gradient.differences import SAFETY
from numadam._minimize.gradient.point import Point
from numadam._minimize.gradient.probes import Probe, Prober, Verdicts


def _transposed(g: np.ndarray) -> np.ndarray:
    return g.T if g.ndim == 2 and g.shape[0] == g.shape[1] else g


#: What a gradient may be made of, in words, and how each array of the right one comes of it.
_ARRANGEMENTS: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = (
    ("", lambda g: g),
    ("the conjugate", np.conj),
    ("transposed", _transposed),
    ("in Fortran order, column by column", lambda g: g.reshape(-1).reshape(g.shape, order="F")),
    ("in Fortran order, column by column", lambda g: g.reshape(-1, order="F").reshape(g.shape)),
    ("the conjugate, transposed", lambda g: _transposed(g).conj()),
    ("in reversed order", lambda g: g[::-1] if g.ndim else g),
    ("moved by one place", lambda g: np.roll(g, -1)),
    ("moved by one place", lambda g: np.roll(g, 1)),
)
#: Length from which a mean or a sum of so many numbers is seen in a factor; 2 and 3 are powers.
_LONG_ENOUGH = 4


class Explanation:
    """Search for what a wrong gradient and the right one have in common."""

    def __init__(self, point: Point, prober: Prober) -> None:
        self._point, self._tolerance = point, prober.tolerance
        self._g = np.where(np.isfinite(prober.g), prober.g, 0.0)

    def of(self, table: Verdicts) -> str:
        """Words for all findings, for those of one array, or for the wrong ones; or ""."""
        with np.errstate(all="ignore"):  # gradients may be as large as numbers are
            for where, part in self._parts(table):
                if table.wrong[part].any() and (text := self._text(table, part)):
                    return f"{where}it {text}"
        return ""

    def _parts(self, table: Verdicts) -> Iterator[tuple[str, np.ndarray]]:
        """Masks of findings with a slope by differences."""
        smooth = np.isfinite(table.spread)
        yield "", smooth
        if len(self._point.ends) > 1:
            places = [finding.probe.places[0] for finding in table.rows]
            leaves = np.where(table.is_element, list(map(self._point.leaf_of, places)), -1)
            for leaf in np.unique(leaves[smooth & table.is_element]):
                yield f"in {self._point.leaf_name(leaf)} ", smooth & (leaves == leaf)
        wrong = smooth & table.wrong & table.is_element
        if 1 < wrong.sum() < smooth.sum():
            yield "in these ", wrong

    def _text(self, table: Verdicts, part: np.ndarray) -> str:
        """Words for findings that one rearrangement, or one term, explains; or ""."""
        probes = [table.rows[k].probe for k in np.flatnonzero(part)]
        unit = np.abs(table.value[part]).max() or 1.0  # squares may overflow or underflow
        slopes, errors = table.value[part] / unit, table.error[part] / unit
        for words, arrange in _ARRANGEMENTS:
            leaves = [_flat(arrange(leaf)) for leaf in self._point.arrays(self._g)]
            along = _along(np.concatenate(leaves), probes) / unit
            if not along.any():
                if not words and slopes.any():
                    return "is 0, where fun changes"
            elif ratio := self._factor(along, 0.0, slopes, errors):
                return _times(words, 1 / ratio, self._tolerance) + self._mean(words, 1 / ratio)
        if len(probes) > 2 and table.wrong[part].sum() > 1:
            given, x = _along(self._g, probes) / unit, self._point.x
            for words, term in (
                ("lacks {:.4g} in each element", np.ones_like(x)),
                ("lacks {:.4g} * x, such as that of a penalty on x", x),
            ):
                along = _along(term, probes)
                size = np.abs(along).max()
                if size and (factor := self._factor(along / size, given, slopes, errors)):
                    return words.format(factor * unit / size)
        return ""

    def _factor(
        self, along: np.ndarray, given: np.ndarray | float, slopes: np.ndarray, errors: np.ndarray
    ) -> float:
        """The multiple of `along` that is missing in what is given; 0 where none explains it."""
        factor = float(along @ (slopes - given) / (along @ along))
        reached = given + factor * along
        allowed = self._tolerance * np.maximum(abs(reached), abs(slopes)) + SAFETY * errors
        return factor if (abs(reached - slopes) <= allowed).all() else 0.0

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


def _flat(leaf: np.ndarray) -> np.ndarray:
    """The real numbers of an array in C order."""
    return np.ascontiguousarray(leaf).reshape(-1).view(np.float64)


def _along(g: np.ndarray, probes: list[Probe]) -> np.ndarray:
    """The slopes of a gradient in some directions."""
    return np.array([float(g[probe.places] @ probe.d) for probe in probes])


def _times(words: str, factor: float, tolerance: float) -> str:
    """``is transposed, and 2.000 times as large``."""
    if abs(factor + 1) <= 10 * tolerance:
        return f"is {words}, and has the wrong sign" if words else "has the wrong sign"
    if not words:
        return f"is {factor:#.4g} times what differences of fun give"
    if abs(factor - 1) <= 10 * tolerance:
        return f"is {words}"
    return f"is {words}, and {factor:#.4g} times as large"


def told_again(point: Point, factor: float) -> str:
    """Message where the gradient is `factor` times the first one when it is evaluated again."""
    other = "another one" if math.isnan(factor) else f"{factor:.4g} times the first one"
    alone = ", without fun before it" if point.has_jac else ""
    return (
        f"The gradient is wrong: called again at x0{alone}, it is {other}. It may be added to an "
        "array that is kept between calls, or belong to an earlier x."
    )
