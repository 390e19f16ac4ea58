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
from numadam._minimize.gradient.differences import LOOSE, SAFETY
from numadam._minimize.gradient.explain import Explanation, told_again
from numadam._minimize.gradient.finding import Finding
from numadam._minimize.gradient.point import Point
from numadam._minimize.gradient.probes import Prober
from numadam._minimize.gradient.result import GradientCheck

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from numadam._core.annotations import Bounds, Nested
    from numadam._core.choices import GradientStatus


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
    asked = [None if n is None else count(name, n, 0) for name, n in _numbers(elements, directions)]
    if asked[0] == 0 and not asked[1]:
        raise ValueError("elements: 0, and no directions, so there is nothing to check.")
    if tolerance is not None:
        tolerance = _positive("tolerance", tolerance)
    point = Point(fun, x0, args, jac, bounds)
    prober = Prober(point, tolerance, _generator(rng))
    allowed = prober.tolerance
    if not math.isfinite(prober.f):
        return _outcome(point, [], allowed, "unclear", _told_not_finite(point, prober.f))
    findings = [prober.judge(probe) for probe in prober.probes(*asked)]
    if not findings:
        raise ValueError(
            "x0: has no number that the bounds leave free, so there is nothing to check."
        )
    if (factor := prober.again()) != 1.0:
        return _outcome(point, findings, allowed, "wrong", told_again(point, factor))
    if any(one.wrong for one in findings):
        hint = Explanation(point, prober.g, allowed).of(findings)
        return _outcome(point, findings, allowed, "wrong", _told_wrong(point, findings, hint))
    largest = max(one.size for one in findings)
    findings = [one._replace(doubt=one.doubt or one.rough(largest)) for one in findings]
    resolved = sum(one.resolved(largest) for one in findings)
    doubts = any(one.doubt for one in findings) or all(one.hidden for one in findings)
    if doubts or 2 * resolved < len(findings):
        text = _told_unclear(findings, largest, prober.is_random)
        return _outcome(point, findings, allowed, "unclear", text)
    return _outcome(point, findings, allowed, "right", _told_right(findings, largest))


def _numbers(elements: Any, directions: Any) -> list[tuple[str, Any]]:
    return [("elements", elements), ("directions", directions)]


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


def _outcome(
    point: Point,
    findings: list[Finding],
    allowed: float,
    status: GradientStatus,
    message: str,
) -> GradientCheck:
    worst = max(findings, key=_order, default=None)
    slope = None if worst is None else worst.slope
    unit = 1.0 if worst is None else _unit(worst)
    return GradientCheck(
        ok=status == "right",
        status=status,
        message=message,
        max_error=worst.excess if worst else math.nan,
        tolerance=allowed,
        worst=worst.probe.name if worst else "",
        value=worst.formula / unit if worst else math.nan,
        difference=slope.value / unit if slope else math.nan,
        difference_error=slope.error / abs(unit) if slope else math.nan,
        wrong=tuple(one.probe.name for one in findings if one.wrong),
        unclear=tuple(one.probe.name for one in findings if one.unclear),
        checked=len(findings),
        nfev=point.nfev,
    )


def _order(one: Finding) -> tuple[bool, float, float]:
    """Order of findings, the worst last."""
    return one.wrong, one.excess, one.slope.error / one.size if one.slope and one.size else 0.0


def _unit(one: Finding) -> float:
    """The length of a direction: slopes are shown for one of length 1."""
    d = one.probe.d
    return float(d[0]) if one.probe.element is not None else float(np.linalg.norm(d))


def _told_wrong(point: Point, findings: list[Finding], hint: str) -> str:
    wrong = [one for one in findings if one.wrong]
    worst = max(wrong, key=_order)
    elements = [one for one in wrong if one.probe.element is not None]
    total = sum(one.probe.element is not None for one in findings)
    if elements:
        where = f"{len(elements)} of {formatting.count(total, 'element')}"
        if total < len(point.x):
            where += f" that were checked, of {len(point.x):,}"
    else:
        where = f"{len(wrong)} of {formatting.count(len(findings) - total, 'random direction')}"
    named = f" ({some([one.probe.name for one in elements])})" if 0 < len(elements) < total else ""
    unit, slope = _unit(worst), worst.slope
    last = f"{worst.probe.name} is {worst.formula / unit:.6g} by formula"
    if slope is not None:
        last += f", {slope.value / unit:.6g} by differences"
    told = f": {hint}" if hint else ""
    return f"The gradient is wrong in {where}{named}{told}. Worst: {last}."


def _told_right(findings: list[Finding], largest: float) -> str:
    hidden = [one.probe.name for one in findings if one.hidden]
    seen = [one for one in findings if not one.hidden]
    elements = sum(one.probe.element is not None for one in seen)
    rest = len(seen) - elements
    parts = [formatting.count(elements, "element")] if elements else []
    parts += [formatting.count(rest, "random direction")] if rest else []
    good = [
        SAFETY * one.slope.error / max(one.size, LOOSE * largest)
        for one in seen
        if one.slope is not None and one.resolved(largest)
    ]
    text = f"The gradient is right in {' and '.join(parts)}: it agrees with differences, whose "
    text += f"relative error is {max(good):.1g} at most."
    kinks = sum(one.kink for one in seen)
    text += f" fun has a kink in {kinks} of them." if kinks else ""
    return text + (
        f" Differences cannot tell for {some(hidden)}, where the slope is too small beside f."
        if hidden
        else ""
    )


def _told_not_finite(point: Point, f: float) -> str:
    lost = np.flatnonzero(~np.isfinite(point.x))
    if len(lost):
        return f"Cannot tell: {point.name(int(lost[0]))} is {point.x[lost[0]]}."
    return f"Cannot tell: fun is {f} at x0."


def _told_unclear(findings: list[Finding], largest: float, is_random: bool) -> str:
    slopes = [one.slope for one in findings if one.slope is not None]
    if not slopes:
        return "Cannot tell: fun is not finite around x0."
    error = SAFETY * float(np.median([slope.error for slope in slopes]))
    if is_random:
        return (
            "Cannot tell: fun is random. It gives another f when it is called again at x0. Fix its "
            "seed, or its batch."
        )
    if 2 * sum(one.kink for one in findings) >= len(findings):
        return "Cannot tell: fun has a kink at x0. Take another x0."
    for one in findings:
        if one.longer is not None and one.slope is not None:
            return (
                "Cannot tell: fun has waves, stairs or noise on a very short scale. Along "
                f"{one.probe.name} its slope is the gradient's with a step of "
                f"{one.slope.step:.0e} times x, and another with {one.longer.step:.0e}."
            )
    rounding = SAFETY * float(np.median([slope.rounding for slope in slopes]))
    if largest <= error <= SAFETY * rounding:
        return (
            "Cannot tell: the gradient is 0 at x0, or too small for differences to see. Take "
            "another x0."
        )
    lost = [one.probe.name for one in findings if one.slope is None]
    if lost:
        return (
            f"Cannot tell: fun is not finite near x0, where {some(lost)} is larger or smaller. "
            "Take another x0, or pass bounds within which fun is finite."
        )
    doubts = [one.probe.name for one in findings if one.doubt]
    where = f" in {some(doubts)}" if doubts else ""
    return (
        f"Cannot tell: fun is noisy, or not smooth{where}. Differences of it are good to "
        f"{error / largest:.1g} of the largest slope only."
    )
