"""Words for a wrong gradient: what it is in terms of the right one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from numadam._minimize.gradient.differences import SAFETY
from numadam._minimize.gradient.point import Point
from numadam._minimize.gradient.probes import Finding


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
        leaves = point.arrays(np.where(np.isfinite(g), g, 0.0))
        self._arranged = [
            (words, np.concatenate([_flat(arrange(leaf)) for leaf in leaves]))
            for words, arrange in _ARRANGEMENTS
        ]
        self._terms = (
            ("lacks {:.4g} in each element", np.ones_like(point.x)),
            ("lacks {:.4g} * x, such as that of a penalty on x", point.x),
        )

    def of(self, findings: Sequence[Finding]) -> str:
        """Words for all findings, for those of one array, or for the wrong ones; or ""."""
        smooth = [finding for finding in findings if math.isfinite(finding.spread)]
        with np.errstate(all="ignore"):  # gradients may be as large as numbers are
            for where, part in self._parts(smooth):
                if any(finding.wrong for finding in part) and (text := self._text(part)):
                    return f"{where}it {text}"
        return ""

    def _parts(self, findings: list[Finding]) -> Iterator[tuple[str, list[Finding]]]:
        yield "", findings
        by_leaf: dict[int, list[Finding]] = {}
        for finding in findings:
            if (element := finding.probe.element) is not None:
                by_leaf.setdefault(self._point.leaf_of(element), []).append(finding)
        if len(self._point.ends) > 1:
            for leaf, part in by_leaf.items():
                yield f"in {self._point.leaf_name(leaf)} ", part
        wrong = [one for one in findings if one.wrong and one.probe.element is not None]
        if 1 < len(wrong) < len(findings):
            yield "in these ", wrong

    def _text(self, findings: list[Finding]) -> str:
        """Words for findings that one rearrangement, or one term, explains; or ""."""
        slopes = np.array([finding.slope.value for finding in findings])
        unit = np.abs(slopes).max() or 1.0  # squares of slopes may overflow or underflow
        errors = np.array([finding.slope.error for finding in findings]) / unit
        slopes /= unit
        for words, g in self._arranged:
            along = _along(g, findings) / unit
            if not along.any():
                if not words and slopes.any():
                    return "is 0, where fun changes"
            elif ratio := self._factor(along, 0.0, slopes, errors):
                return _times(words, 1 / ratio, self._tolerance) + self._mean(words, 1 / ratio)
        if len(findings) > 2 and sum(finding.wrong for finding in findings) > 1:
            given = _along(self._arranged[0][1], findings) / unit
            for words, term in self._terms:
                along = _along(term, findings)
                if size := np.abs(along).max():
                    factor = self._factor(along / size, given, slopes, errors)
                    if factor:
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


def _along(g: np.ndarray, findings: list[Finding]) -> np.ndarray:
    """The slopes of a gradient in the directions of findings."""
    return np.array([float(g[probe.places] @ probe.d) for probe, *_ in findings])


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
