"""`scipy_adam`: a method for `scipy.optimize.minimize`."""

from __future__ import annotations

import warnings
from typing import Any

from numadam._minimize.minimize import minimize
from numadam._minimize.result import Result


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
        Refused: Adam knows bounds only.
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
    SciPy makes ``jac="2-point"``, ``"3-point"`` and ``"cs"`` None before it calls a method of the
    user's: 2-point differences are taken then. `numadam.minimize` takes all of them.

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
    fun, jac = _unwrapped(fun, jac)
    return minimize(fun, x0, args, jac=jac, bounds=bounds, callback=callback, **options)


def _unwrapped(fun: Any, jac: Any) -> tuple[Any, Any]:
    """The user's fun and jac: SciPy splits a fun that returns f and gradient into two."""
    whole = getattr(fun, "fun", None)
    if whole is not None and getattr(jac, "__self__", None) is fun:
        return whole, True
    return fun, jac
