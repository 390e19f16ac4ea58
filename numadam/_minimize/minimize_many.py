"""`minimize_many`: independent problems, one a row, each with its own stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from numadam._arrays.checks import refuse_more_than_numbers
from numadam._arrays.interop import is_cupy, to_host
from numadam._core.hyper import LR, check_switch, count
from numadam._minimize import arguments as ar
from numadam._minimize.arguments import takes_names_of_scipy
from numadam._minimize.batches import run_batch
from numadam._minimize.checkpoint import Task, read_checkpoint
from numadam._minimize.compiled.objective import is_compiled
from numadam._minimize.lanes.batch import LaneBatch
from numadam._minimize.result import ManyResult
from numadam._minimize.row_batch import PythonBatch
from numadam._minimize.stopping import Tolerances
from numadam._settings.bounds import standard_bounds

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from numpy.typing import ArrayLike

    from numadam._core.hyper import Array, Bounds, Rate
    from numadam._core.keywords import ManyOptions, RuleName
    from numadam._optimizer.optimizer import Optimizer


@takes_names_of_scipy
def minimize_many(
    fun: Callable[..., Any],
    x0: ArrayLike | Array,
    args: Any = (),
    *,
    jac: bool | Callable[..., Any] | None = None,
    bounds: Bounds | None = None,
    lr: Rate = 0.01,
    rule: RuleName | type[Optimizer] = "adam",
    gtol: float | None = None,
    gtol_rel: float | None = None,
    ftol: float | None = 0.0,
    xtol: float | None = 0.0,
    norm: float = np.inf,
    maxiter: int = 10_000,
    check_every: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    checkpoint_check: bool = True,
    progress: bool = False,
    **options: Unpack[ManyOptions],
) -> ManyResult:
    """Minimise many independent functions at once: a fit of every pixel, many starts, many lr.

    Each problem stops by itself. The results are those of `numadam.minimize` on each problem
    alone, whatever the others do.

    Parameters
    ----------
    fun : function
        Compiled by Numba: ``fun(x, *args) -> f`` on one problem, whose derivatives are exact as in
        `minimize`, ``fun(x, g, *args) -> f``, which writes the gradient into g (it contains zeros
        before), ``fun(x, g, i, *args) -> f`` with the number of the problem, or with ``jac=True``
        ``fun(x, *args) -> (f, gradient)``. All cores share the
        problems, and many small ones are vectorised; a `fun` that needs a contiguous x
        (``np.dot``) is not, and takes up to twice the time. With CuPy `x0` each thread of the GPU
        runs one problem. It cannot create arrays: with ``jac=True`` the gradient is a tuple. In
        Python ``fun(X, *args)`` evaluates all problems at once: it returns f of shape (problems,)
        and, with ``jac=True``, a gradient of the shape of X. A problem that has stopped does not
        change, but is evaluated until the last one stops. A `fun` that takes `rows`, by name or by
        ``**kwargs``, is called as ``fun(X[rows], *args, rows=rows)`` instead, with the numbers of
        the problems that still run (int64), and returns f and gradients of these.
    x0 : array of shape (problems, ...)
        Starts, one problem a row; not modified.
    args : tuple, default ()
        Further arguments of `fun`.
    jac : True or function, optional
        As above; for a `fun` in Python also a function ``jac(X, *args)``, which may take `rows`
        too.
    bounds : (lo, hi), sequence of (lo, hi), or scipy.optimize.Bounds, optional
        As in `minimize`, for the elements of one problem; arrays of low and high may also be given
        for all problems.
    lr : float, callable, or array, default 0.01
        An array of shape (problems,) gives each problem its own rate, to try many at once. An
        array that broadcasts to `x0`, such as (1, n) for rows of n, sets it by element too. A
        schedule applies to all problems.
    rule, maxiter
        As in `minimize`.
    gtol, gtol_rel, ftol, xtol, norm
        The stop tests of `minimize`, for each problem by itself: `gtol_rel` (default 1e-6 if
        `gtol` is not given) is relative to its own first gradient.
    check_every : int, optional
        Run the stop tests of an objective in Python every this many iterations: default 1, on a
        GPU 20. A compiled one is tested at every iteration.
    checkpoint, checkpoint_every, checkpoint_check
        As in `minimize`, with all problems in one file. It is written between two calls of the
        compiled loop, or of an objective in Python; after an exception the last file remains.
    progress : bool, default False
        Show a bar of the iterations, and how many problems still run.
    **options
        Of the rule, as in `minimize`: `weight_decay` is 0 unless given.

    Returns
    -------
    ManyResult
        A scipy.optimize.OptimizeResult of arrays, one entry a problem: ``x``, ``fun``, ``jac`` and
        ``grad_norm`` of its best iterate, ``x_last`` and ``fun_last`` of the last one, ``nit``,
        ``status``, ``success``, and ``averaged`` with `ema`. ``nfev`` counts the evaluations of
        all problems, ``message`` the reasons why they stopped. ``best()`` is the problem with the
        lowest f.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, says what it is and what to do.
    CheckpointError, OSError
        As in `minimize`.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.

    Examples
    --------
    >>> import numba, numpy as np
    >>> import numadam as na
    >>> @numba.njit
    ... def fun(x, g, i, targets):  # problem i has its own data
    ...     g[0] = 2 * (x[0] - targets[i])
    ...     return (x[0] - targets[i]) ** 2
    >>> targets = np.array([1.0, 2.0, 3.0])
    >>> res = na.minimize_many(fun, np.zeros((3, 1)), (targets,), lr=0.1)
    >>> res.x[:, 0].round(4), bool(res.success.all())
    (array([1., 2., 3.]), True)
    """
    _refuse_single(options)
    file = read_checkpoint(checkpoint, checkpoint_every, "minimize_many")
    x, compiled = _read_starts(x0), is_compiled(fun)
    limits = standard_bounds(bounds, x.shape[1:])
    rates = _own_rates(lr, x)
    task = Task(
        fun=fun,
        x=x,
        args=ar.read_args(args, compiled),
        jac=jac,
        lr=lr,
        rates=rates,
        options={"bounds": limits, "weight_decay": 0.0, **options},
        tolerances=Tolerances.read(gtol, gtol_rel, ftol, xtol, norm),
        maxiter=ar.check_maxiter(maxiter),
        progress=progress,
        rule=ar.rule_class(rule),
        check_every=None if check_every is None else count("check_every", check_every, 1),
        checkpoint=file,
        checkpoint_check=check_switch("checkpoint_check", checkpoint_check),
    )
    if file is not None:
        file.define(task)
    if not compiled:
        return run_batch(PythonBatch, task)
    if is_cupy(x):
        from numadam._minimize.device import minimize_on_device

        return minimize_on_device(task)
    return run_batch(LaneBatch, task)


def _read_starts(x0: Any) -> Any:
    x = ar.own_copy(x0)
    if not hasattr(x, "ndim") or x.ndim < 2:
        raise ValueError(
            "x0: expected one array of shape (problems, ...), one start a row, got "
            f"{getattr(x, 'shape', type(x).__name__)}. One problem is for numadam.minimize."
        )
    return x


def _refuse_single(options: Mapping[str, Any]) -> None:
    """Refuse options that only the minimisation of one problem has."""
    for name, instead in ar.NOT_OF_MANY.items():
        if options.get(name):
            raise ValueError(f"{name}: {instead}.")
    for name in ("callback", "history", "state", "track_best"):
        if name in options:
            raise TypeError(
                f"{name}: minimize_many has none, got {options[name]!r:.80}. numadam.minimize has, "
                "for one problem."
            )


def _own_rates(lr: Any, x: Any) -> np.ndarray | None:
    """Learning rates of the problems, where `lr` has one for each; else None."""
    if isinstance(lr, str):
        raise TypeError(
            f"lr: expected a number, a schedule or an array, got {lr!r:.80}. A search, lr='auto', "
            "is for one problem: find a rate with minimize, or try many at once, with equal rows "
            "in x0 and an array of one rate for each."
        )
    shape = getattr(lr, "shape", None)
    if isinstance(lr, (list, tuple)):
        for k, one in enumerate(lr):
            if callable(one):
                raise TypeError(
                    f"lr[{k}]: expected a number, got {type(one).__name__}. A schedule holds for "
                    "all problems: pass it alone, or give each problem a call of numadam.minimize."
                )
        try:
            shape = np.shape(lr)
        except ValueError as error:  # lists of unlike lengths
            raise ValueError(f"lr: {error}") from error
    problems = x.shape[0]
    if shape not in ((problems,), (problems, *[1] * (x.ndim - 1))) or x.shape[1:] == shape:
        if shape == (problems,) and problems > 1:
            raise ValueError(
                f"lr: an array of shape {shape} could be one for each problem or for each element "
                f"of x; use shape {(problems, *[1] * (x.ndim - 1))} or {(1, *x.shape[1:])}."
            )
        return None
    refuse_more_than_numbers(lr, "lr")
    values = np.asarray(to_host(lr))
    return np.array([LR.check(one) for one in values.reshape(-1)])
