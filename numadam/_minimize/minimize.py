"""`minimize`: from x0 and an objective to a result in SciPy's form. `scipy_adam` for SciPy."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from numadam._core.hyper import Differences, RateSearch, check_switch, count
from numadam._minimize import arguments as ar
from numadam._minimize import rate_search
from numadam._minimize.arguments import takes_names_of_scipy
from numadam._minimize.checkpoint import Task, read_checkpoint, start_of
from numadam._minimize.compiled.objective import check_plain, is_compiled
from numadam._minimize.compiled.run import minimize_compiled
from numadam._minimize.hints import with_hint
from numadam._minimize.observers import takes_result
from numadam._minimize.result import Result, every_for
from numadam._minimize.run import PythonRun
from numadam._minimize.stopping import Tolerances

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from numpy.typing import ArrayLike

    from numadam._core.hyper import Bounds, Nested, Rate
    from numadam._core.keywords import MinimizeOptions as Options
    from numadam._core.keywords import RuleName
    from numadam._optimizer.optimizer import Optimizer


# --- minimize ------------------------------------------------------------------------------------


@takes_names_of_scipy
def minimize(
    fun: Callable[..., Any],
    x0: ArrayLike | Nested | Any,
    args: Any = (),
    *,
    jac: bool | Differences | Callable[..., Any] | None = None,
    bounds: Bounds | None = None,
    lr: Rate | RateSearch = 0.01,
    rule: RuleName | type[Optimizer] = "adam",
    callback: Callable[..., object] | None = None,
    gtol: float | None = None,
    gtol_rel: float | None = None,
    ftol: float | None = 0.0,
    xtol: float | None = 0.0,
    norm: float = np.inf,
    maxiter: int = 10_000,
    track_best: bool | None = None,
    check_every: int | None = None,
    history: int | bool | None = None,
    state: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    checkpoint_check: bool = True,
    progress: bool = False,
    **options: Unpack[Options],
) -> Result:
    r"""Minimise a function of arrays by Adam or another rule, as `scipy.optimize.minimize` does.

    .. math:: \min_x f(x) \quad \text{subject to} \quad lo \le x \le hi

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> def fun(x, target):
    ...     return np.sum((x - target) ** 2), 2 * (x - target)
    >>> target = np.array([1.0, 2.0, 3.0])
    >>> res = na.minimize(fun, np.zeros(3), (target,), jac=True, lr=0.1)
    >>> res.success, res.x.round(4)
    (True, array([1., 2., 3.]))

    Parameters
    ----------
    fun : function
        ``fun(x, *args)`` returns f, a real number, or ``(f, gradient)`` with ``jac=True``. It is
        never called twice at one x, except for `checkpoint_check` and the trials of ``lr="auto"``.
        Compiled by Numba, the whole minimisation runs without Python. Then the derivatives of
        ``fun(x, *args) -> f`` are exact, for an x of one axis and at most 32 real numbers;
        ``fun(x, g, *args) -> f`` writes the gradient into g (it contains zeros before). A gradient
        of another dtype is converted to that of x.
    x0 : array, number, list of numbers, or nesting of arrays
        Start: real or complex, NumPy or CuPy, any shape. It is not modified. float32 stays
        float32, whole numbers become float64; pandas, xarray and dask arrays become NumPy arrays.
        Arrays with units raise an error. A compiled `fun` gets x itself, read-only.
    args : tuple, default ()
        Further arguments of `fun` and `jac`. For a `fun` in Python, an object that is not a tuple
        is the only further argument, as in SciPy.
    jac : True, function, {"2-point", "3-point", "cs"} or None
        True: `fun` returns the gradient too. A function ``jac(x, *args)``: `fun` is then called
        once at the end, and where f is needed: `ftol`, ``track_best=True``, `progress`, a History
        at its records, a callback that reads `fun`, or a schedule that observes f. Otherwise
        finite differences (SciPy's; None is "2-point", but for a compiled `fun`).
    bounds : (lo, hi), sequence of (lo, hi), scipy.optimize.Bounds, or nesting, optional
        Two numbers for all elements, a pair of numbers for each, two NumPy arrays, or SciPy's
        forms; None leaves a side open. x never leaves the bounds, and an x0 outside is moved to
        the nearest bound first.
    lr : float, callable, array, nesting, or "auto", default 0.01
        Step size in units of x, 0.01 for every rule (see Notes); `numadam.schedules` has callables
        of the iteration. An array sets it by element: the scale on which each one changes. "auto"
        tries nine rates from 0.001 to 10 for ten iterations each, from x0, and smaller or larger
        ones if the best is the first or the last of them. The run uses the rate with the lowest f,
        `lr` of the result. Rates at which f is not finite, or `fun` raises, are rejected. The
        trials use at most half of `maxiter`. Their evaluations count in `nfev` and `njev`. They
        call `jac` and schedules, but not `callback`. Use it only for an f without noise.
    rule : str or class, default "adam"
        Any rule of numadam: "adamw", "nadam", "rmsprop", "sgd", ...
    callback : function or History, optional
        ``callback(intermediate_result)`` (x, fun, nit, grad_norm, lr) or ``callback(x)`` after
        each iteration. StopIteration ends the run with status 99; the return value is ignored. f
        is evaluated when the callback reads `fun`, which it can do only before it returns. A
        `numadam.History` records the run.
    gtol : float, optional
        Stop if the norm of the projected gradient ``x - clip(x - g, lo, hi)`` is at most this, in
        units of f/x. 0 switches a test off.
    gtol_rel : float, optional
        Stop if that norm is at most this times the first one of the run, or of the run that
        `state` continues, and each component at most ``sqrt(gtol_rel)`` times its own first one:
        the larger of those at x0 and after the first step, unless that raises the norm. Default:
        1e-6 if `gtol` is not given, else 0.
    ftol : float, default 0
        Stop if ``|f_before - f| <= ftol * max(|f_before|, |f|, 1)``.
    xtol : float, default 0
        Stop if ``norm(x - x_before) <= xtol * max(1, norm(x))``.
    norm : numpy.inf or 2, default numpy.inf
        The norm of the gradient, of the change of x, and of x in these tests: largest component,
        or Euclidean.
    maxiter : int, default 10000
        Iterations of this call at most; with `checkpoint`, those of the whole run.
    track_best : bool, optional
        True: the result is the iterate with the lowest f, and f is evaluated at every iterate.
        False: it is the last iterate; choose this if f is noisy, as with batches of data. None:
        the lowest f among iterates where f is evaluated anyway; with ``jac=True`` these are all.
    check_every : int, optional
        Run the stop tests, the tracking of the best x and `callback` every this many iterations.
        Default 1; 20 on a GPU, because reading f waits for the device. With a compiled `fun` the
        stop tests always run at every iteration and this sets only how often `callback` is
        called. A History has its own `every`.
    history : int or bool, optional
        Keep a record in the result's `history` every this many iterations. None or True: as often
        as 10,000 records allow. False: no records.
    state : dict, optional
        `state` of an earlier result: the run continues from its `x_last` as if it had never
        stopped. x0 only gives the structure; pass ``result.x``. The best iterate and the size of
        the first gradient are kept. If `fun` or `args` have changed, delete the entries "x" and
        "first_grad_norm"; see `checkpoint_check`.
    checkpoint : str or path, optional
        File of the run. If it exists the run continues from it, otherwise it starts at x0: the
        same call again, after a kill or a crash, ends with the same bits as an uninterrupted run.
        The file has to belong to the same run: x0, rule, options, schedules, stop tests and f are
        compared. Schedules that are your own functions raise an error. `message` says that a file
        was used.
    checkpoint_every : int, optional
        Write the file every this many iterations. Default: by time, every 10 s or less often, so
        that writing takes at most 5 % of the time. The file is also written at the end, and if
        `fun` raises or Ctrl-C ends the run.
    checkpoint_check : bool, default True
        A run that continues from a file or a `state` first evaluates f, and a gradient that is not
        formed by differences, where they are known. If they differ by more than rounding (1e-6 of
        them, 1e-3 if x is float32; less of an f that is nearly a constant), `fun` or `args` have
        changed, and an error is raised. The evaluation is not counted in `nfev`. Pass False if
        `fun` is random.
    progress : bool, default False
        Show a bar with f and the gradient.
    **options
        Of the rule: `beta1`, `eps`, `amsgrad`, `weight_decay`, `clip_norm`, `ema`, ... (see
        `numadam.Adam` and `numadam.Optimizer`). SciPy's `options`, `tol` (sets `gtol`) and
        ``disp=True`` (prints the outcome) are accepted too, and its other arguments if they are
        empty.

    Returns
    -------
    Result
        A `scipy.optimize.OptimizeResult`: ``x``, ``fun``, ``jac`` and ``grad_norm`` of the best
        iterate, ``x_last`` and ``fun_last`` of the last one; ``nit``, ``nfev``, ``njev``,
        ``success`` (a stop test was met, at x_last), ``status`` (0; 1 at maxiter, 2 and 3 where f
        or gradient are not finite, 4 where differences do not show f, 99 from the callback),
        ``message``, ``state``, ``history`` (arrays by name: nit, fun, grad_norm, lr), and
        ``averaged`` with `ema`. With all tests off
        no gradient is computed after the last step, unless it comes with f, or `progress` or a
        History needs it; `jac` of that x is then None.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, says what it is and what to do. An exception from `fun`
        carries the result so far in its attribute ``numadam_result``; Ctrl-C too.
    CheckpointError
        The file is damaged, or belongs to another run. It is not changed.
    OSError
        The file cannot be written or read.


    Notes
    -----
    Stopping at maxiter is not a failure; it only means that no tolerance was met. With a constant
    lr Adam keeps moving by about lr. For tight tolerances pass a decaying rate such as
    `numadam.schedules.Cosine`.

    The default of lr is not that of the rule's class, which is made for networks and many more
    steps: in 10,000 iterations 0.01 reaches 100 units of x, and Adam's 0.001 reaches 10. And
    `weight_decay` is 0 unless given, for AdamW too: with a decay x does not end at a minimum.

    The gradient of a complex x is ``df/dRe(x) + 1j * df/dIm(x)``, the direction of steepest
    ascent. JAX returns its conjugate.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    """
    searched, maxiter = None, ar.check_maxiter(maxiter)
    if isinstance(lr, str):
        rate_search.check_search(lr, maxiter, state=state, checkpoint=checkpoint)
    if track_best not in (None, True, False):
        raise TypeError(f"track_best: expected True, False or None, got {track_best!r}.")
    file = read_checkpoint(checkpoint, checkpoint_every, "minimize")
    x = ar.own_copy(x0)
    if state is not None:
        x = start_of(state, x)
    task = Task(
        fun=fun,
        x=x,
        args=ar.read_args(args, is_compiled(fun)),
        jac=jac,
        rule=ar.rule_class(rule),
        lr=lr,
        options={"bounds": ar.read_bounds(bounds, x), "weight_decay": 0.0, **options},
        tolerances=Tolerances.read(gtol, gtol_rel, ftol, xtol, norm),
        maxiter=maxiter,
        track_best=None if track_best is None else bool(track_best),
        check_every=None if check_every is None else count("check_every", check_every, 1),
        every=every_for(history, maxiter),
        state=state,
        callback=callback,
        progress=progress,
        checkpoint=file,
        checkpoint_check=check_switch("checkpoint_check", checkpoint_check),
    )
    if file is not None:
        file.define(task, track_best=task.track_best)
    compiled = is_compiled(fun) and not callable(jac) and not isinstance(jac, str)
    if is_compiled(fun) and not compiled:
        check_plain(fun, task.args)
    if isinstance(lr, str):
        if callback is not None:
            takes_result(callback)  # before the search, it refuses what cannot be called
        given: dict[str, Any] = {"bounds": bounds, "rule": rule, "norm": norm, **options}

        def run(**trial: Any) -> Result:
            return minimize(fun, x0, args, jac=jac, **rate_search.own_schedules(given), **trial)

        searched = rate_search.RateSearch(run, maxiter)
        lr, maxiter = searched.lr, searched.maxiter
        task = task._replace(lr=lr, maxiter=maxiter, every=every_for(history, maxiter))
    result = minimize_compiled(task) if compiled else PythonRun(task).go()
    result = with_hint(result, x0, lr, state, bounds is not None)
    return result if searched is None else searched.written_into(result)


# --- the method for SciPy ------------------------------------------------------------------------


def scipy_adam(
    fun: Any,
    x0: Any,
    args: tuple[Any, ...] = (),
    *,
    jac: Any = None,
    hess: Any = None,
    hessp: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    callback: Any = None,
    tol: float | None = None,
    disp: bool = False,
    **options: Any,
) -> Result:
    """Adam as a method of SciPy: ``scipy.optimize.minimize(..., method=numadam.scipy_adam)``.

    Parameters
    ----------
    fun, x0, args, jac, bounds, callback
        As SciPy passes them on; x0 is an array of one axis.
    hess, hessp
        Not used; a RuntimeWarning says so.
    constraints
        An error: Adam supports bounds only.
    tol : float, optional
        Sets `gtol`, the largest component of the gradient, unless `options` has one.
    disp : bool, default False
        Print the outcome.
    **options
        ``options={...}`` of SciPy: `lr`, `rule`, `gtol`, `gtol_rel`, `ftol`, `xtol`, `norm`,
        `maxiter`, `state`, `checkpoint`, `progress` and the options of the rule, as in
        `numadam.minimize`.

    Returns
    -------
    scipy.optimize.OptimizeResult
        As `numadam.minimize`.

    Raises
    ------
    ValueError
        For constraints.

    Notes
    -----
    SciPy replaces ``jac="2-point"``, ``"3-point"`` and ``"cs"`` by None before it calls a user's
    method: 2-point differences are used then. `numadam.minimize` supports all three.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.

    Examples
    --------
    >>> import scipy.optimize
    >>> import numadam as na
    >>> res = scipy.optimize.minimize(
    ...     scipy.optimize.rosen, [0.5, 0.5], jac=scipy.optimize.rosen_der,
    ...     method=na.scipy_adam, options={"lr": 0.02},
    ... )
    >>> res.success, res.x.round(3)
    (True, array([1., 1.]))
    """
    for name, given in (("hess", hess), ("hessp", hessp)):
        if given is not None:
            warnings.warn(f"scipy_adam does not use {name}.", RuntimeWarning, stacklevel=2)
    options |= {"constraints": constraints, "tol": tol, "disp": disp}
    whole = getattr(fun, "fun", None)
    if whole is not None and getattr(jac, "__self__", None) is fun:
        fun, jac = whole, True  # SciPy splits a fun that returns f and gradient into two
    return minimize(fun, x0, args, jac=jac, bounds=bounds, callback=callback, **options)
