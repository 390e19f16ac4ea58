"""`least_squares_many`: independent fits, one a row, by Levenberg-Marquardt."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from numadam._arrays.interop import is_cupy, to_host
from numadam._core.hyper import Hyper, OfResiduals, check_switch, count
from numadam._least_squares.batch import Fits, FitTask, run_fits
from numadam._least_squares.objective import DIFFERENCES, adapter_for, form_of
from numadam._minimize.arguments import Run, own_copy, read_args
from numadam._minimize.compiled.objective import check_derives
from numadam._minimize.result import ManyResult
from numadam._settings.bounds import OPEN, Box, check_ends, inward, standard_bounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from numadam._core.hyper import Bounds

#: Arguments of SciPy and of `minimize_many` that this function has not, and what to do instead.
_FOREIGN = {
    "loss": "the sum of squares is the only one. scipy.optimize.least_squares has others",
    "method": "Levenberg-Marquardt is the only one. scipy.optimize.least_squares has others",
    "x_scale": "the columns of J set the scale",
    "checkpoint": "a run is short; after an exception its numadam_result has what is finished",
    "lr": "this method takes none. numadam.minimize_many does",
    "rule": "this method takes none. numadam.minimize_many does",
    "maxiter": "write max_nfev, which counts evaluations of fun",
}
_FOREIGN |= dict.fromkeys(
    ("mask", "frozen", "vary", "groups"), "fixed=[0, 2] holds unknowns 0 and 2 at x0"
)


def _refuses_foreign(function: Run) -> Run:
    """Decorator: refuse arguments of other functions, and say what to do instead."""

    @functools.wraps(function)
    def call(*args: Any, **given: Any) -> Any:
        for name in given.keys() & _FOREIGN.keys():
            raise TypeError(f"{name}: not an argument of least_squares_many: {_FOREIGN[name]}.")
        return function(*args, **given)

    return cast("Run", call)


@_refuses_foreign
def least_squares_many(
    fun: Callable[..., Any],
    x0: ArrayLike,
    args: Any = (),
    *,
    m: int,
    jac: bool | OfResiduals | None = None,
    bounds: Bounds | None = None,
    fixed: ArrayLike | None = None,
    ftol: float = 1e-8,
    xtol: float = 1e-8,
    gtol: float = 1e-8,
    max_nfev: int | None = None,
    absolute_sigma: bool = False,
    sigma: ArrayLike | None = None,
    points: ArrayLike | None = None,
    residuals: bool = False,
    progress: bool = False,
) -> ManyResult:
    r"""Fit many small models by least squares: a decay or a peak in every pixel, with errors.

    Minimises ``cost = 0.5 * sum(r**2)`` for each row of `x0`, by Levenberg-Marquardt:
    :math:`(J^T J + \lambda D^2)\,\delta = -J^T r`, with D and the choice of :math:`\lambda` of
    MINPACK. All cores share the problems. The result of a row depends on nothing but that row.

    Parameters
    ----------
    fun : function
        Compiled by Numba: ``fun(x, r, i, *args)`` writes the m residuals of problem i into r, or
        ``fun(x, r, *args)``. r is 0 before the call: a problem of fewer points leaves the rest 0.
        It is called once more for each run, which checks what it writes. Its derivatives are
        exact, see the page on `minimize`.
    x0 : array of shape (problems, n), or (starts, problems, n)
        Starts, float64 or float32; not modified. One problem is ``x0[None]``. With an array of CuPy
        each thread of the GPU fits a problem; `fun` may use functions of `math`, and make no array.
        An iteration takes about n^2 m operations besides `fun`: above n = 32 a method on LAPACK is
        faster. Of several starts of each problem the result has the one of the lowest cost.
    args : tuple, default ()
        Further arguments of `fun`.
    m : int
        Residuals of a problem, the same number for all. That `fun` writes them all, and nothing
        beyond r and J, is checked as far as they are long; further off only
        ``@numba.njit(boundscheck=True)`` can tell.
    jac : True or "differences", optional
        With True ``fun(x, r, J, i, *args)`` writes the derivatives, ``J[k, j]`` of r[k] by x[j]; J
        is 0 before the call, too. "differences": forward ones, for n above 32 and functions that
        have no exact derivatives. They take some n evaluations, and need an r that is smooth in x,
        over steps that change it by more than its rounding.
    bounds : (low, high), array of shape (n, 2), or scipy.optimize.Bounds, optional
        As in SciPy's `least_squares`: two numbers or arrays, low first; None is open. Pairs for
        each unknown are an array. A start outside is moved to the bound.
    fixed : whole numbers, or mask of shape (n,) or (problems, n), optional
        Unknowns that stay at `x0`, outside of `bounds`, too. They are no unknowns of the fit: they
        have no error, and do not count in the scale of `cov`.
    ftol, xtol, gtol : float, default 1e-8
        Tolerances of MINPACK's tests: of the relative change of the cost, of that of x, and of
        the cosine between r and the columns of J. The first two hold only where the next step
        would be below 0.01 of the error bars, or no more than rounding of r. At least 2.2e-16; in
        float32, a smaller one than 1.2e-7 is raised to that.
    max_nfev : int, optional
        Evaluations of `fun` after which no step is tried, those of differences included: default
        100 (n + 1). The differences at the last x come on top.
    absolute_sigma : bool, default False
        Residuals are in units of their known errors: `cov` is not scaled by what is left of them.
    sigma : array of shape (m,) or (problems, m), optional
        Known errors of the residuals as `fun` writes them, where it does not divide by them: of
        counts, or any that differ. x stays that of the fit without weights; `cov` is
        :math:`(J^T J)^{-1} J^T \mathrm{diag}(\sigma^2) J (J^T J)^{-1}`.
    points : array of shape (problems,), optional
        Points of each problem, where some have fewer than m: for the scale of `cov`.
    residuals : bool, default False
        Keep r and J at `x`: ``residuals`` of shape (problems, m) and ``jacobian`` of shape
        (problems, m, n), NaN where the fit was lost. Differences of fixed unknowns are 0.
    progress : bool, default False
        Show a bar of the problems.

    Returns
    -------
    ManyResult
        Arrays, one entry a problem: ``x``, ``cost``, ``optimality`` (the largest element of
        :math:`J^T r` that no bound holds), ``cov`` of shape (problems, n, n) and its ``stderr`` as
        `pcov` of ``curve_fit``, ``nfev``, ``njev``, ``success``, and ``status`` as of SciPy: 1 to
        4 for gtol, ftol, xtol, and both of these, 0 for `max_nfev`, -1 interrupted; 5: a residual
        or a derivative, or a sum of their squares, is not finite, or all squares underflow; 6: no
        data, or an unknown whose column of J, times max(\|x\|, 1), changes no residual by more
        than its rounding; 7: no step lowers the cost as J says, so J may be wrong.
        ``cov`` is inf where J has no full rank (by rounding it may be finite and huge), or there
        are no more points than unknowns that the bounds leave open; an element at a bound has
        none (NaN). ``message`` counts why they ended. With several starts `nfev` and `njev` are
        those of all, and ``agreed`` counts the successful ones that ended within 0.1 % of the
        lowest cost, or a millionth of its x.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, says what it is and what to do.

    References
    ----------
    More, "The Levenberg-Marquardt Algorithm: Implementation and Theory", 1978.

    Examples
    --------
    >>> import numba, numpy as np
    >>> import numadam as na
    >>> t = np.linspace(0, 3, 30)
    >>> y = np.array([[2.0], [3.0]]) * np.exp(-t * np.array([[1.0], [0.5]]))
    >>> @numba.njit
    ... def fun(x, r, i, t, y):  # problem i has its own data
    ...     for k in range(t.size):
    ...         r[k] = x[0] * np.exp(-x[1] * t[k]) - y[i, k]
    >>> x0 = np.ones((2, 2))
    >>> res = na.least_squares_many(fun, x0, (t, y), m=30)
    >>> res.x.round(6), res.stderr.shape, bool(res.success.all())
    (array([[2. , 1. ],
           [3. , 0.5]]), (2, 2), True)
    """
    x = read_starts(x0)
    problems, n = x.shape[-2:]
    args = read_args(args, compiled=True)
    form, exact = form_of(fun, args, jac), 0 if jac else n
    if exact:
        check_derives((n,), x.dtype, f"write J, with jac=True, or pass jac={DIFFERENCES!r}")
    if sigma is not None and check_switch("absolute_sigma", absolute_sigma):
        raise TypeError(
            "sigma: expected None with absolute_sigma=True, which says that all errors are 1. "
            "Pass sigma alone."
        )
    low, high = _read_fixed(fixed, x, *read_bounds(bounds, x if x.ndim == 2 else x[0]))
    m = count("m", m, 1, 2**40)
    task = FitTask(
        x=x.reshape(-1, n),
        args=args,
        m=m,
        low=low,
        high=high,
        tolerances=tuple(
            _read_tolerance(name, value, x.dtype)
            for name, value in (("ftol", ftol), ("xtol", xtol), ("gtol", gtol))
        ),
        max_nfev=100 * (n + 1) if max_nfev is None else count("max_nfev", max_nfev, 1, 2**53 - 1),
        absolute_sigma=check_switch("absolute_sigma", absolute_sigma),
        points=_read_points(points, problems, m),
        progress=progress,
        derives=form[0] or exact > 0,
        residuals=check_switch("residuals", residuals),
        sigma=_read_sigma(sigma, problems, m),
        starts=len(x) if x.ndim == 3 else None,
    )
    if is_cupy(x0):
        from numadam._least_squares.device import fit_on_device

        return fit_on_device(task, fun, form, x0)
    return run_fits(Fits(task), functools.partial(adapter_for, fun, form, x.dtype, args, exact))


def read_starts(x0: Any) -> np.ndarray:
    """The starts, on the host."""
    x = own_copy(to_host(x0))
    if getattr(x, "ndim", 0) not in {2, 3} or x.shape[-1] == 0 or (x.ndim == 3 and len(x) == 0):
        raise ValueError(
            "x0: expected one array of shape (problems, n), one start a row, or (starts, problems, "
            f"n), got {getattr(x, 'shape', type(x).__name__)}. One problem is x0[None]."
        )
    if x.dtype.kind == "c":
        raise TypeError(f"x0: expected float64 or float32, got {x.dtype}. Fit real and imaginary.")
    own: np.ndarray = x
    return own


def read_bounds(bounds: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low and high, each of shape (1, n) or (problems, n)."""
    pair = OPEN
    if bounds is not None:
        box = bounds if hasattr(bounds, "lb") and hasattr(bounds, "ub") else _read_box(bounds, x)
        pair = standard_bounds(box, x.shape[1:]) or OPEN
    check_ends(pair, x, "bounds", "x")
    rows = len(x) if any(np.ndim(end) == 2 for end in pair) else 1
    low, high = (
        np.broadcast_to(inward(end, x.dtype, other), (rows, x.shape[1])).copy()
        for end, other in zip(pair, (np.inf, -np.inf), strict=True)
    )
    return low, high


def _read_box(bounds: Any, x: np.ndarray) -> Box:
    """(low, high) as SciPy's least_squares reads it, or an array of a pair for each unknown."""
    n, shape = x.shape[1], getattr(bounds, "shape", None)
    if shape == (2, 2) == (n, 2):
        raise ValueError(
            "bounds: an array of shape (2, 2) for two unknowns could be low and high, or a pair "
            "for each. Write (low, high), or scipy.optimize.Bounds(low, high)."
        )
    if shape == (n, 2):
        return Box(bounds[:, 0], bounds[:, 1])
    if not (isinstance(bounds, (tuple, list)) or shape) or len(bounds) != 2:
        got = f"shape {shape}" if shape else f"{bounds!r:.80}"
        raise ValueError(
            f"bounds: expected (low, high), each a number or one for each of the {n} unknowns, "
            f"got {got}. Pairs are an array of shape ({n}, 2)."
        )
    ends = [
        np.array([other if value is None else value for value in end])
        if isinstance(end, (tuple, list))
        else end
        for end, other in zip(bounds, OPEN, strict=True)
    ]
    return Box(*ends)


def _read_fixed(
    fixed: Any, x: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Low and high, equal to x where an unknown is fixed."""
    if fixed is None:
        return low, high
    n = x.shape[-1]
    wanted = f"fixed: expected numbers of unknowns, 0 to {n - 1}, each once, or a mask of bool"
    try:
        held = np.atleast_1d(to_host(fixed))
    except ValueError:  # rows of different lengths
        raise ValueError(f"{wanted}, got {fixed!r:.80}.") from None
    if held.dtype.kind in "iu" or held.size == 0:
        numbers = held.ravel().astype(np.int64)
        once = len(np.unique(numbers)) == len(numbers)
        if held.ndim != 1 or not once or ((numbers < 0) | (numbers >= n)).any():
            raise ValueError(f"{wanted}, got {fixed!r:.80}.")
        held = np.isin(np.arange(n), numbers)
    if held.dtype != bool or held.shape not in {(n,), x.shape[-2:]}:
        raise ValueError(
            f"{wanted}, of shape ({n},) or {x.shape[-2:]}, got shape {held.shape} of {held.dtype}."
        )
    low, high = np.where(held, x, low), np.where(held, x, high)
    return low.reshape(-1, n), high.reshape(-1, n)


def _read_tolerance(name: str, value: Any, dtype: np.dtype[Any]) -> float:
    """A tolerance; below the spacing of numbers no test could hold."""
    least = float(np.finfo(np.float64).eps)
    if Hyper(name).check(value) < least:
        raise ValueError(
            f"{name}: expected at least {least:.2g}, the spacing of float64 at 1, got {value!r}."
        )
    return max(float(value), float(np.finfo(dtype).eps))


def _read_points(points: Any, problems: int, m: int) -> np.ndarray | None:
    if points is None:
        return None
    try:
        given = np.asarray(to_host(points))
        got = f"shape {given.shape} of {given.dtype}"
    except ValueError:  # rows of different lengths
        given, got = np.empty(0), f"{points!r:.80}"
    if given.shape != (problems,) or given.dtype.kind not in "iu":
        raise ValueError(
            f"points: expected whole numbers of shape ({problems},), the points of each problem, "
            f"got {got}."
        )
    wrong = given[(given < 0) | (given > m)]
    if wrong.size:
        raise ValueError(f"points: expected 0 to m = {m} of each problem, got {wrong[0]}.")
    return given.astype(np.int64)


def _read_sigma(sigma: Any, problems: int, m: int) -> np.ndarray | None:
    if sigma is None:
        return None
    wanted = f"sigma: expected finite numbers >= 0 of shape ({m},) or ({problems}, {m})"
    try:
        given = np.asarray(to_host(sigma))
    except ValueError:  # rows of different lengths
        raise ValueError(f"{wanted}, got {sigma!r:.80}.") from None
    if given.dtype.kind not in "iuf" or given.shape not in {(m,), (problems, m)}:
        raise ValueError(f"{wanted}, got shape {given.shape} of {given.dtype}.")
    wrong = given[~((given >= 0) & (given < np.inf))]
    if wrong.size:
        raise ValueError(f"{wanted}, got {wrong[0]}. Where a problem has no data, write 0.")
    return given.astype(np.float64)
