"""`check_grad`: the user's gradient beside differences of `fun`."""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING, Any

import numpy as np

from numadam._arrays import formatting
from numadam._arrays.tree import some
from numadam._core.hyper import count
from numadam._minimize.compiled.objective import is_compiled
from numadam._minimize.gradient.differences import LOOSE, NO_SLOPE, SAFETY
from numadam._minimize.gradient.explain import Explanation, told_again
from numadam._minimize.gradient.point import Point
from numadam._minimize.gradient.probes import Finding, Probe, Prober, Verdicts
from numadam._minimize.gradient.result import GradientCheck

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from numadam._core.annotations import Bounds, Nested
    from numadam._core.choices import GradientStatus

#: Stands for the worst finding where there is none.
_NOTHING = Finding(Probe(None, np.ones(1), False, 0.0, "", 0), math.nan, NO_SLOPE, "doubt")


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
        an x0 outside of the bounds is moved in. No step leaves the bounds: beside one, differences
        are one-sided. Numbers that bounds fix are not checked.
    elements : int, optional
        Elements of x0 to check, at random where there are more. The real and the imaginary part
        of a complex number are two. Default: all of 100 at most, else 40.
    directions : int, optional
        Random directions in which all elements move. Default: 10 where not all elements are
        checked, else 0.
    rng : int, numpy.random.Generator or None, default 0
        Seed, or generator, of the elements and directions that are chosen; None: other ones at
        each call.
    tolerance : float, optional
        Relative error that is allowed. Default: 1e-4 in float64, 5e-3 where x0 or f
        is in float32.

    Returns
    -------
    GradientCheck
        Shown as one or two sentences; true in ``if`` and ``assert`` where the gradient is right.
        Its `status` is "right", "wrong", or "unclear" where differences cannot tell, because fun
        is noisy, has a kink, or is flat at x0.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, says what it is and what to do.

    Notes
    -----
    A difference is formed with two step sizes, from which its error is estimated: 4 calls of
    `fun` an element. Where they do not agree, or differ from the gradient, longer and shorter
    steps are tried, at most 56 calls. A gradient is called wrong where it differs by more than
    `tolerance` and 4 estimated errors, at two step sizes, and over the shortest step that
    rounding allows. It is wrong too where it is another one when it is evaluated again at x0.
    Where f has a kink, any number between both slopes is right. Where `fun` raises OverflowError
    or another ArithmeticError beside x0, f counts as not finite there.

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
        value=worst.formula / unit,
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
    text += f"Worst: {worst.probe.name} is {worst.formula / unit:.6g} by formula"
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
    for probe, _, slope, _, longer in table.rows:
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
