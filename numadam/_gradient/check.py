"""Check of derivatives: the public function, its result and its messages."""

from __future__ import annotations

import math
import numbers
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from numadam._arrays import formatting
from numadam._arrays.tree import some
from numadam._core.hyper import count
from numadam._gradient.causes import cause
from numadam._gradient.differences import LOOSE, SAFETY, Prober, Verdicts
from numadam._gradient.point import Point, Residuals
from numadam._minimize.compiled.objective import is_compiled
from numadam._minimize.result import DocumentedResult

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from numadam._core.hyper import Bounds, GradientStatus, Nested


class GradientCheck(DocumentedResult):
    """Result of `check_grad`: shown as its message, true where `ok` is.

    SciPy's `OptimizeResult`, a dict whose entries are attributes. `max_error` is the largest
    ``(|value - difference| - 4 difference_error) / max(|value|, |difference|)``.

    Attributes
    ----------
    ok : bool
        Whether the derivatives are right, as far as they were checked.
    status : GradientStatus
        Outcome: "right", "wrong", or "unclear" if the differences are too inaccurate.
    message : str
        The outcome in one or two sentences.
    max_error : float
        Largest relative error that the errors of the differences do not explain, or 0.
    tolerance : float
        Largest `max_error` that is allowed.
    worst : str
        Element, entry of J or random direction of `max_error`: ``x0['w'][3, 2]``.
    value : float
        The derivative in `worst`, by formula.
    difference : float
        The derivative in `worst`, by differences.
    difference_error : float
        Estimated error of `difference`.
    wrong : tuple of str
        Names of the elements, entries of J and directions that are wrong.
    unclear : tuple of str
        Names of those for which differences cannot decide.
    checked : int
        Elements, entries of J and directions that were compared.
    nfev : int
        Calls of `fun`.

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

    ok: bool
    status: GradientStatus
    message: str
    max_error: float
    tolerance: float
    worst: str
    value: float
    difference: float
    difference_error: float
    wrong: tuple[str, ...]
    unclear: tuple[str, ...]
    checked: int
    nfev: int

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        return textwrap.fill(self.message, 76, break_long_words=False, break_on_hyphens=False)


# --- `check_grad` --------------------------------------------------------------------------------


def check_grad(
    fun: Callable[..., Any],
    x0: ArrayLike | Nested | Any,
    args: Any = (),
    *,
    m: int | None = None,
    jac: bool | Callable[..., Any] | None = None,
    bounds: Bounds | None = None,
    elements: int | None = None,
    directions: int | None = None,
    rng: int | np.random.Generator | None = 0,
    tolerance: float | None = None,
) -> GradientCheck:
    r"""Compare derivatives with differences of `fun`: a gradient, or the Jacobian of residuals.

    .. math:: \frac{f(x + h d) - f(x - h d)}{2 h} \approx g \cdot d

    Parameters
    ----------
    fun, x0, args, jac, bounds
        As in `minimize`: a function in Python with ``jac=True`` or a `jac` of its own, or one
        compiled by Numba; arrays of any shape, nested, complex, on a GPU. x0 is not modified, and
        an x0 outside of the bounds is moved to the nearest bound. No step leaves the bounds: near
        one, differences are one-sided. Elements that bounds fix are not checked.
    m : int, optional
        Number of residuals: `fun` is then as in `least_squares_many`, ``fun(x, r, J, *args)`` with
        ``jac=True``, and every entry of J is compared. x0 is one start of shape (n,). A `fun` that
        takes the number of the problem gets 0, or the one that is the first of `args`.
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
        Shown as one or two sentences; true in ``if`` and ``assert`` if the derivatives are right.
        Its `status` is "right", "wrong", or "unclear" if differences cannot decide, because fun is
        noisy, has a kink, or is flat at x0. What a compiled `fun` writes is compared with its exact
        derivatives, where it has them (see `minimize`): then no differences are taken.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, says what it is and what to do.

    Notes
    -----
    A difference is computed over a step and over half of it, from which its error is estimated: 4
    calls of `fun` for each element. If it does not agree, other steps are tried, down to 1e-21
    where x is 0 or tiny, at most 76 calls. A derivative is called wrong if it differs by more than
    `tolerance` and 4 estimated errors, at two step sizes, and over the shortest step that rounding
    allows. A gradient is also wrong if a second evaluation at x0 gives another one. At a kink of f,
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
    given = ("elements", elements), ("directions", directions)
    limits = [None if limit is None else count(name, limit, 0) for name, limit in given]
    real = isinstance(tolerance, numbers.Real)
    if tolerance is not None and not (real and 0.0 < float(tolerance) < math.inf):
        raise ValueError(f"tolerance: expected a positive number, got {tolerance!r:.80}.")
    try:
        generator = np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        text = f"rng: expected a seed or a numpy.random.Generator, got {rng!r:.80}."
        raise type(error)(text) from error
    if m is None:
        point = Point(fun, x0, args, jac, bounds)
    else:
        point = Residuals(fun, x0, args, m, jac, bounds)
    prober = Prober(point, tolerance and float(tolerance), generator)
    if not (probes := prober.probes(*limits)):
        raise ValueError(
            "x0: nothing to check: elements=0 without directions, or no number that the bounds "
            "leave free."
        )
    table = Verdicts(point, prober, probes)
    status, message = _verdict(point, prober, table)
    return GradientCheck(
        ok=status == "right",
        status=status,
        message=message,
        **table.of_worst(),
        tolerance=prober.tolerance,
        wrong=tuple(table.name[table.wrong]),
        unclear=tuple(table.name[~table.wrong & (table.doubt | table.hidden)]),
        checked=len(table.name),
        nfev=point.nfev,
    )


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


@np.errstate(all="ignore")
def _verdict(point: Point, prober: Prober, table: Verdicts) -> tuple[GradientStatus, str]:
    """Status and message; doubts that only all findings show are added to the table."""
    whole = point.nouns[0]
    if prober.gives_other_gradient():
        alone = ", without fun before it" if point.has_jac else ""
        return "wrong", (
            f"The {whole} is wrong: called again at x0{alone}, it is another one. It may be added "
            "to an array that is kept between calls, or belong to an earlier x."
        )
    if table.wrong.any():
        return "wrong", f"The {whole} is wrong in {_told_wrong(point, prober, table)}"
    if prober.exact is not None:
        told = formatting.count(len(table.name), point.nouns[1])
        return "right", f"The {whole} is right in {told}: it agrees with exact derivatives of fun."
    # f jumps or has a kink near: the slope may be any, even beside the largest one
    table.doubt |= ~table.flat & (table.spread > LOOSE * table.largest)
    enough = table.spread <= LOOSE * np.maximum(table.size, LOOSE * table.largest)
    resolved = enough & ~table.doubt & (table.largest > 0.0)
    if table.doubt.any() or table.hidden.all() or 2 * resolved.sum() < len(table.name):
        return "unclear", f"Cannot tell: {_told_unclear(point, prober, table)}"
    return "right", f"The {whole} is right in {_told_right(point, table, resolved)}"


def _told_wrong(point: Point, prober: Prober, table: Verdicts) -> str:
    """Text on where derivatives are wrong, a cause, and the worst one."""
    part, noun = table.is_element, point.nouns[1]
    if not (table.wrong & part).any():
        part, noun = ~part, "random direction"
    names, count = list(table.name[table.wrong & part]), int(part.sum())
    where = f"{len(names)} of {formatting.count(count, noun)}"
    if noun != "random direction" and len(names) < count:
        where += f" ({some(names)})"
    told, worst = cause(point, table), table.of_worst()
    text = f"{where}{told and f': {told}'}. Worst: {worst['worst']} is {worst['value']:.6g} by "
    if math.isnan(worst["difference"]):
        return f"{text}formula."
    by = "by differences" if prober.exact is None else "exactly"
    return f"{text}formula, {worst['difference']:.6g} {by}."


def _told_right(point: Point, table: Verdicts, resolved: np.ndarray) -> str:
    """Text on where derivatives are right, and how well differences tell."""
    seen, hidden = ~table.hidden, some(list(table.name[table.hidden]))
    parts = (table.is_element, point.nouns[1]), (~table.is_element, "random direction")
    told = [formatting.count((seen & part).sum(), n) for part, n in parts if (seen & part).any()]
    error = table.spread / np.maximum(table.size, LOOSE * table.largest)
    text = f"{' and '.join(told)}: it agrees with differences, whose relative error is "
    text += f"{error[seen & resolved].max():.1g} at most."
    if table.kink.any():
        text += f" fun has a kink in {table.kink.sum()} of them."
    if hidden:
        text += f" Differences cannot tell for {hidden}, where the slope is too small beside f."
    return text


def _told_unclear(point: Point, prober: Prober, table: Verdicts) -> str:
    """The first cause of doubt that holds."""
    lost, doubt = (list(table.name[part]) for part in (np.isnan(table.error), table.doubt))
    if not np.isfinite(point.x).all():
        place = int(np.argmin(np.isfinite(point.x)))
        return f"{point.name(place)} is {point.x[place]}."
    if not np.isfinite(prober.f).all():
        return f"fun is {prober.f[~np.isfinite(prober.f)][0]} at x0."
    if len(lost) == len(table.name):
        return "fun is not finite around x0."
    if prober.is_random:
        return "fun is random: called again at x0, it gives another f. Fix its seed, or its batch."
    if 2 * table.kink.sum() >= len(table.name):
        return "fun has a kink at x0. Take another x0."
    error, rounding = (SAFETY * np.nanmedian(c) for c in (table.error, table.rounding))
    if table.largest <= error <= SAFETY * rounding:
        return f"the {point.nouns[0]} is 0 at x0, or too small for differences. Take another x0."
    if lost:
        return (
            f"fun is not finite near x0, where {some(lost)} is larger or smaller. Take another x0, "
            "or pass bounds within which fun is finite."
        )
    return (
        f"fun is noisy, or not smooth{f' in {some(doubt)}' if doubt else ''}. Differences of it "
        f"are good to {error / table.largest:.1g} of the largest slope only."
    )
