"""Check of a gradient: verdicts, their explanation, and the public function."""

from __future__ import annotations

import math
import numbers
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import OptimizeResult

from numadam._arrays import formatting
from numadam._arrays.tree import some
from numadam._core.hyper import GradientStatus, count
from numadam._minimize.compiled.objective import is_compiled
from numadam._minimize.gradient.point import Point
from numadam._minimize.gradient.probes import (
    LOOSE,
    NO_SLOPE,
    SAFETY,
    Finding,
    Probe,
    Prober,
    Verdicts,
)
from numadam._minimize.result import ResultType, entry, missing

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from numadam._core.hyper import Bounds, GradientStatus, Nested


# --- the outcome of a check of a gradient --------------------------------------------------------


class GradientCheck(OptimizeResult, metaclass=ResultType):  # type: ignore[misc]  # SciPy has no types
    """Result of `check_grad`: shown as its message, true where `ok` is.

    SciPy's `OptimizeResult`, a dict whose entries are attributes. `max_error` is the largest
    ``(|value - difference| - 4 difference_error) / max(|value|, |difference|)``.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> def fun(x):
    ...     return np.sum(x**2), 2 * x
    >>> check = na.check_grad(fun, np.ones(3), jac=True)
    >>> bool(check), check.status, check.checked
    (True, 'right', 3)
    """

    @entry
    def ok(self) -> bool:
        """Whether the gradient is right, as far as it was checked."""

    @entry
    def status(self) -> GradientStatus:
        """Outcome: "right", "wrong", or "unclear" if the differences are too inaccurate."""

    @entry
    def message(self) -> str:
        """The outcome in one or two sentences."""

    @entry
    def max_error(self) -> float:
        """Largest relative error that the errors of the differences do not explain, or 0."""

    @entry
    def tolerance(self) -> float:
        """Largest `max_error` that is allowed."""

    @entry
    def worst(self) -> str:
        """Element or random direction of `max_error`: ``x0['w'][3, 2]``."""

    @entry
    def value(self) -> float:
        """The gradient in `worst`, by formula."""

    @entry
    def difference(self) -> float:
        """The gradient in `worst`, by differences."""

    @entry
    def difference_error(self) -> float:
        """Estimated error of `difference`."""

    @entry
    def wrong(self) -> tuple[str, ...]:
        """Names of the elements and directions where the gradient is wrong."""

    @entry
    def unclear(self) -> tuple[str, ...]:
        """Names of those for which differences cannot decide."""

    @entry
    def checked(self) -> int:
        """Elements and directions that were compared."""

    @entry
    def nfev(self) -> int:
        """Calls of `fun`."""

    def __getattr__(self, name: str) -> Any:
        raise missing(self, name)

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        return textwrap.fill(self.message, 76, break_long_words=False, break_on_hyphens=False)


# --- words for a wrong gradient ------------------------------------------------------------------


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


# --- `check_grad` --------------------------------------------------------------------------------

#: Stands for the worst finding where there is none.
_NOTHING = Finding(
    Probe(None, np.ones(1), False, 0.0, "", 0, math.nan, math.nan), NO_SLOPE, "doubt"
)


def check_grad(
    fun: Callable[..., Any],
    x0: ArrayLike | Nested | Any,
    args: Any = (),
    *,
    jac: bool | Callable[..., Any] | None = None,
    bounds: Bounds | None = None,
    elements: int | None = None,
    directions: int | None = None,
    rng: int | np.random.Generator | None = 0,
    tolerance: float | None = None,
) -> GradientCheck:
    r"""Compare the gradient that `minimize` would get with central differences of `fun`.

    .. math:: \frac{f(x + h d) - f(x - h d)}{2 h} \approx g \cdot d

    Parameters
    ----------
    fun, x0, args, jac, bounds
        As in `minimize`: a function in Python with ``jac=True`` or a `jac` of its own, or one
        compiled by Numba; arrays of any shape, nested, complex, on a GPU. x0 is not modified, and
        an x0 outside of the bounds is moved to the nearest bound. No step leaves the bounds: near
        one, differences are one-sided. Elements that bounds fix are not checked.
    elements : int, optional
        Number of elements of x0 to check, chosen at random if there are more. The real and the
        imaginary part of a complex number are two. Default: all if there are at most 100, else 40.
    directions : int, optional
        Number of random directions in which all elements move. Default: 10 if not all elements are
        checked, else 0.
    rng : int, numpy.random.Generator or None, default 0
        Seed, or generator, of the elements and directions that are chosen; None: others at each
        call.
    tolerance : float, optional
        Relative error that is allowed. Default: 1e-4 in float64, 5e-3 where x0 or f
        is in float32.

    Returns
    -------
    GradientCheck
        Shown as one or two sentences; true in ``if`` and ``assert`` if the gradient is right. Its
        `status` is "right", "wrong", or "unclear" if differences cannot decide, because fun is
        noisy, has a kink, or is flat at x0.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, says what it is and what to do.

    Notes
    -----
    A difference is computed with two step sizes, from which its error is estimated: 4 calls of
    `fun` for each element. If they do not agree, or differ from the gradient, longer and shorter
    steps are tried, at most 56 calls. A gradient is called wrong if it differs by more than
    `tolerance` and 4 estimated errors, at two step sizes, and over the shortest step that rounding
    allows. It is also wrong if a second evaluation at x0 gives another gradient. At a kink of f,
    any number between both slopes is right. If `fun` raises OverflowError or another
    ArithmeticError near x0, f counts as not finite there.

    References
    ----------
    Nocedal and Wright, "Numerical Optimization", 2nd ed., Springer 2006, section 8.1.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> def fun(x):
    ...     return np.sum((x - 3) ** 2), x - 3  # should be 2 * (x - 3)
    >>> check = na.check_grad(fun, np.zeros(2), jac=True)
    >>> check  # doctest: +NORMALIZE_WHITESPACE
    The gradient is wrong in 2 of 2 elements: it is 0.5000 times what
    differences of fun give. Worst: x0[0] is -3 by formula, -6 by differences.
    >>> check.ok, check.worst
    (False, 'x0[0]')
    """
    _refuse_without_gradient(fun, x0, jac)
    limits = [
        None if limit is None else count(name, limit, 0)
        for name, limit in (("elements", elements), ("directions", directions))
    ]
    if limits[0] == 0 and not limits[1]:
        raise ValueError("elements: 0, and no directions, so there is nothing to check.")
    if tolerance is not None:
        tolerance = _positive("tolerance", tolerance)
    point = Point(fun, x0, args, jac, bounds)
    prober = Prober(point, tolerance, _generator(rng))
    findings: list[Finding] = []
    if math.isfinite(prober.f):
        findings = [prober.judge(probe) for probe in prober.probes(*limits)]
        if not findings:
            raise ValueError(
                "x0: has no number that the bounds leave free, so there is nothing to check."
            )
    table = Verdicts(findings)
    status, message = _verdict(point, prober, table)
    worst = findings[table.worst] if findings else _NOTHING
    unit = _length(worst)
    return GradientCheck(
        ok=status == "right",
        status=status,
        message=message,
        max_error=float(table.excess[table.worst]) if findings else math.nan,
        tolerance=prober.tolerance,
        worst=worst.probe.name,
        value=worst.probe.formula / unit,
        difference=worst.slope.value / unit,
        difference_error=worst.slope.error / abs(unit),
        wrong=tuple(table.name[table.wrong]),
        unclear=tuple(table.name[~table.wrong & (table.doubt | table.hidden)]),
        checked=len(findings),
        nfev=point.nfev,
    )


def _positive(name: str, given: Any) -> float:
    if not isinstance(given, numbers.Real) or not 0.0 < float(given) < math.inf:
        raise ValueError(f"{name}: expected a positive number, got {given!r:.80}.")
    return float(given)


def _generator(rng: int | np.random.Generator | None) -> np.random.Generator:
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"rng: expected a seed or a numpy.random.Generator, got {rng!r:.80}."
        ) from error


def _refuse_without_gradient(fun: Any, x0: Any, jac: Any) -> None:
    if callable(x0):
        raise TypeError(
            "x0: got a function. SciPy's order is check_grad(fun, grad, x0); here write "
            "check_grad(fun, x0, jac=grad)."
        )
    if not callable(jac) and jac is not True and not (is_compiled(fun) and jac is None):
        raise TypeError(
            f"jac: expected True, where fun returns (f, gradient), or the function of the gradient,"
            f" got {jac!r:.80}: there is no gradient to check."
        )


def _verdict(point: Point, prober: Prober, table: Verdicts) -> tuple[GradientStatus, str]:
    """Status and message; doubts that only all findings show are added to the table."""
    if not table.rows:
        return "unclear", f"Cannot tell: {_told_not_finite(point, prober.f)}"
    if (factor := prober.again()) != 1.0:
        return "wrong", told_again(point, factor)
    if table.wrong.any():
        return "wrong", _told_wrong(point, table, Explanation(point, prober).of(table))
    table.doubt |= table.rough
    unresolved = 2 * table.resolved.sum() < len(table.rows)
    if table.doubt.any() or table.hidden.all() or unresolved:
        return "unclear", f"Cannot tell: {_told_unclear(table, prober.is_random)}"
    return "right", _told_right(table)


def _length(finding: Finding) -> float:
    """The length of a direction: slopes are shown for one of length 1."""
    d = finding.probe.d
    return float(d[0]) if finding.probe.element is not None else float(np.linalg.norm(d))


def _told_wrong(point: Point, table: Verdicts, hint: str) -> str:
    wrong, elements = table.name[table.wrong & table.is_element], int(table.is_element.sum())
    where = f"{len(wrong)} of {formatting.count(elements, 'element')}"
    if not len(wrong):
        directions = formatting.count(len(table.rows) - elements, "random direction")
        where = f"{table.wrong.sum()} of {directions}"
    elif elements < len(point.x):
        where += f" that were checked, of {len(point.x):,}"
    if 0 < len(wrong) < elements:
        where += f" ({some(list(wrong))})"
    worst = table.rows[table.worst]
    told, unit = f": {hint}" if hint else "", _length(worst)
    text = f"The gradient is wrong in {where}{told}. "
    text += f"Worst: {worst.probe.name} is {worst.probe.formula / unit:.6g} by formula"
    if worst.slope is not NO_SLOPE:
        text += f", {worst.slope.value / unit:.6g} by differences"
    return f"{text}."


def _told_right(table: Verdicts) -> str:
    seen = ~table.hidden
    numbers = (seen & table.is_element).sum(), (seen & ~table.is_element).sum()
    nouns = zip(numbers, ("element", "random direction"), strict=True)
    where = " and ".join(formatting.count(number, noun) for number, noun in nouns if number)
    error = (table.spread / np.maximum(table.size, LOOSE * table.size.max()))[
        seen & table.resolved
    ].max()
    text = f"The gradient is right in {where}: it agrees with differences, whose relative error is "
    text += f"{error:.1g} at most."
    if table.kink.any():
        text += f" fun has a kink in {table.kink.sum()} of them."
    if table.hidden.any():
        hidden = some(list(table.name[table.hidden]))
        text += f" Differences cannot tell for {hidden}, where the slope is too small beside f."
    return text


def _told_not_finite(point: Point, f: float) -> str:
    lost = np.flatnonzero(~np.isfinite(point.x))
    if len(lost):
        return f"{point.name(int(lost[0]))} is {point.x[lost[0]]}."
    return f"fun is {f} at x0."


def _told_unclear(table: Verdicts, is_random: bool) -> str:
    lost = list(table.name[np.isnan(table.error)])
    if len(lost) == len(table.rows):
        return "fun is not finite around x0."
    if is_random:
        return (
            "fun is random. It gives another f when it is called again at x0. Fix its seed, or its "
            "batch."
        )
    if 2 * table.kink.sum() >= len(table.rows):
        return "fun has a kink at x0. Take another x0."
    for probe, slope, _, longer in table.rows:
        if longer is not None:
            return (
                f"fun has waves, stairs or noise on a very short scale. Along {probe.name} its "
                f"slope is the gradient's with a step of {slope.step:.0e} times x, and another "
                f"with {longer.step:.0e}."
            )
    largest = table.size.max()
    error, rounding = (SAFETY * np.nanmedian(c) for c in (table.error, table.rounding))
    if largest <= error <= SAFETY * rounding:
        return "the gradient is 0 at x0, or too small for differences to see. Take another x0."
    if lost:
        return (
            f"fun is not finite near x0, where {some(lost)} is larger or smaller. Take another x0, "
            "or pass bounds within which fun is finite."
        )
    where = f" in {some(list(table.name[table.doubt]))}" if table.doubt.any() else ""
    return (
        f"fun is noisy, or not smooth{where}. Differences of it are good to {error / largest:.1g} "
        "of the largest slope only."
    )
