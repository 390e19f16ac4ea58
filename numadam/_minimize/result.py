"""Results of a minimisation."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import OptimizeResult

from numadam._arrays import formatting
from numadam._arrays.interop import is_array, to_host
from numadam._arrays.tree import Tree
from numadam._core.hyper import count

if TYPE_CHECKING:
    from numpy.typing import NDArray

# --- documented entries --------------------------------------------------------------------------


#: Entries of results of SciPy, and of `minimize` alone: what to do without.
_WITHOUT = {
    **dict.fromkeys(
        ("hess_inv", "hess", "nhev"),
        " Adam forms no second derivatives; the errors of a fit follow from differences of the "
        "gradient at x.",
    ),
    "state": " A run of many problems goes on from a file: pass checkpoint=path.",
    "history": " minimize records one problem, and minimize_many none.",
    "lr": ' Only lr="auto" puts the rate that it found there.',
    "averaged": " Pass ema=0.999 for an average.",
    **dict.fromkeys(("residuals", "jacobian"), " least_squares_many(residuals=True) keeps it."),
    "agreed": " least_squares_many counts them for x0 of shape (starts, problems, n).",
}


class ResultType(type):
    """Type of a result; completion lists the entries of its class, here without a dict's."""

    def __dir__(cls) -> list[str]:
        hidden = {name for name in dir(dict) if not name.startswith("_")}
        return [name for name in (*super().__dir__(), *cls.__annotations__) if name not in hidden]


class DocumentedResult(OptimizeResult, metaclass=ResultType):  # type: ignore[misc]  # SciPy has no types
    """SciPy's `OptimizeResult`; its classes declare their entries, and say which is missing."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            instead = _WITHOUT.get(name, "")
            text = f"{name}: this result has none; it has {', '.join(self)}.{instead}"
            # Python adds the nearest name
            raise AttributeError(text, name=name, obj=self) from None


# --- results -------------------------------------------------------------------------------------


#: Entries of a result in the order in which they are shown; others follow.
_FIRST = ("message", "success", "status", "fun", "x", "nit", "nfev", "njev", "grad_norm")
#: Entries that are nested as x0 is.
_LIKE_X = ("x", "x_last", "jac", "averaged")
#: The meaning of a status, for several problems.
_STATUS_TEXT = {
    0: "a stop test held",
    1: "maxiter was reached",
    2: "f is not finite",
    3: "the gradient is not finite",
    -1: "interrupted",
}
#: As of `least_squares_many`.
FIT_STATUS = {
    0: "max_nfev was reached",
    1: "gtol held",
    2: "ftol held",
    3: "xtol held",
    4: "ftol and xtol held",
    5: "a residual or a derivative is not finite, or all squares underflow",
    6: "no data, or an unknown of which the residuals show nothing",
    7: "no step lowers the cost as J says: J may be wrong, or fun is not smooth",
    -1: "interrupted",
}
#: Entries of a problem, in the result of the best one.
_OF_ONE_PROBLEM = (
    *("success", "status", "x", "fun", "jac", "grad_norm"),
    *("x_last", "fun_last", "nit", "averaged"),
    *("cost", "optimality", "cov", "stderr", "agreed", "residuals", "jacobian"),
)
#: Arrays that the summary of many problems is made of.
_SHOWN_OF_MANY = "x", "success", "status"
#: The longest history that is recorded by default.
_HISTORY_LENGTH = 10_000


def every_for(history: Any, maxiter: int) -> int:
    """Iterations from one line of the history to the next; 0: no history."""
    if history is None or history is True:
        return max(1, -(-maxiter // _HISTORY_LENGTH))
    if history is False:
        return 0
    return count("history", history, 0)


def make_history(lines: Any) -> dict[str, np.ndarray]:
    """Copies of the kept lines (iteration, f, gradient, lr) as arrays by name."""
    nit, fun, grad_norm, lr = np.asarray(lines, np.float64).reshape(-1, 4).T.copy()
    return {"nit": nit.astype(np.int64), "fun": fun, "grad_norm": grad_norm, "lr": lr}


class Result(DocumentedResult):
    """Result of `minimize`: SciPy's `OptimizeResult`, a dict whose entries are attributes.

    It shows a summary of history and state.

    Attributes
    ----------
    x : array
        Best iterate, nested as `x0`.
    fun : float
        Value of f at `x`.
    jac : array
        Gradient at `x`; None if it was not computed.
    grad_norm : float
        Norm of the projected gradient at `x`; the argument `norm` selects which.
    success : bool
        Whether a stop test was met, at `x_last`.
    status : int
        0: a test held; 1: maxiter; 2: f, 3: gradient not finite; 4: a doubt; 99: callback.
    message : str
        Why the run ended, and what may help.
    nit : int
        Iterations, including those of the runs that this one continues.
    nfev : int
        Evaluations of f.
    njev : int
        Evaluations of the gradient.
    x_last : array
        Last iterate, nested as `x0`.
    fun_last : float
        Value of f at `x_last`; NaN if it was not evaluated.
    history : dict
        Arrays by name: nit, fun, grad_norm, lr.
    state : dict
        All that `minimize` needs to continue: pass it as `state`.
    averaged : array
        Running average of x; with the option `ema` only.
    lr : float
        Learning rate that was found; with ``lr="auto"`` only.
    index : int
        Number of the problem; of `ManyResult.best` only.
    cost : float
        Half the sum of squares at `x`; of `least_squares_many` only, as all that follow.
    optimality : float
        Largest element of the gradient of `cost`, less those that a bound holds.
    cov : array
        Covariance of `x`, as `pcov` of ``scipy.optimize.curve_fit``.
    stderr : array
        Standard errors of `x`: the root of the diagonal of `cov`.
    agreed : int
        Starts that ended as the best one; with several starts only.
    residuals : array
        Residuals at `x`; with ``residuals=True`` only.
    jacobian : array
        Derivatives of the residuals, (m, n); with ``residuals=True`` only.

    Examples
    --------
    >>> import numadam as na
    >>> def fun(x):
    ...     return x @ x, 2 * x
    >>> na.minimize(fun, [1.0, 2.0], jac=True, rule="sgd", lr=0.25, maxiter=2)
       message: The number of iterations has reached maxiter.
       success: False
        status: 1
           fun: 0.3125
             x: [ 2.500e-01  5.000e-01]
           nit: 2
           jac: [ 5.000e-01  1.000e+00]
          nfev: 3
          njev: 3
        x_last: [ 2.500e-01  5.000e-01]
      fun_last: 0.3125
     grad_norm: 1.0
       history: 3 iterations of nit, fun, grad_norm, lr
         state: to go on from nit=2: state=result.state
    """

    x: Any
    fun: float
    jac: Any
    grad_norm: float
    success: bool
    status: int
    message: str
    nit: int
    nfev: int
    njev: int
    x_last: Any
    fun_last: float
    history: dict[str, NDArray[Any]]
    state: dict[str, Any]
    averaged: Any
    lr: float
    index: int
    cost: float
    optimality: float
    cov: NDArray[np.float64]
    stderr: NDArray[np.float64]
    agreed: int
    residuals: NDArray[Any]
    jacobian: NDArray[Any]

    def _brief(self) -> dict[str, Any]:
        shown = {name: _short(value) if name in _LIKE_X else value for name, value in self.items()}
        if "history" in self:
            kept, names = len(self.history["nit"]), ", ".join(self.history)
            shown["history"] = f"{formatting.count(kept, 'iteration')} of {names}"
        if "state" in self:
            shown["state"] = f"to go on from nit={self.nit}: state=result.state"
        return shown

    def __repr__(self) -> str:
        return repr(OptimizeResult(self._brief())) if len(self.keys()) else "Result()"

    def _repr_html_(self) -> str:
        """The table that notebooks show."""
        shown = self._brief()
        first = [name for name in _FIRST if name in shown]
        names = [*first, *(name for name in shown if name not in first)]
        rows = [
            (name, shown[name] if isinstance(shown[name], str) else formatting.brief(shown[name]))
            for name in names
        ]
        return formatting.table("Result of numadam.minimize", rows)


def _short(x: Any) -> Any:
    """Shapes of nested arrays, instead of pages of numbers; one array as it is."""
    if x is None or is_array(x):
        return x
    if type(x) in (dict, list, tuple):
        return formatting.brief(x)
    if Tree(x).is_leaf:  # a number that the user has put there
        return x
    return f"{type(x).__name__} of {formatting.outline(Tree(x).flatten(x, 'x'))}"


def attach(error: BaseException, result: OptimizeResult) -> None:
    """Attach the result of the run to the exception that ended it."""
    done = result.get("nit")
    where = f" at iteration {done}" if isinstance(done, int) else ""
    with contextlib.suppress(AttributeError, TypeError):  # exceptions that take no attribute
        error.numadam_result = result  # type: ignore[attr-defined]  # a new one
        error.add_note(
            f"numadam: the run ended{where}; the result so far is `numadam_result` of this "
            "exception."
        )


class ManyResult(DocumentedResult):
    """Result of many problems: SciPy's `OptimizeResult`, of arrays with an element a problem.

    `minimize_many` and `least_squares_many` return it. It shows counts and ranges. Arrays are CuPy
    arrays where x0 was one, but for `success`, `status` and `nit`.

    Attributes
    ----------
    x : array
        Best iterate of each problem, of the shape of `x0`.
    fun : array
        Value of f at `x`.
    jac : array
        Gradient at `x`.
    grad_norm : array
        Norm of the projected gradient at `x`.
    success : array
        Whether a stop test was met.
    status : array
        As in `Result`, or in ``scipy.optimize.least_squares``; -1: interrupted.
    message : str
        Number of problems that ended for each reason.
    nit : array
        Iterations of each problem.
    nfev : array
        Evaluations of f by all problems together; in `least_squares_many` by each.
    x_last : array
        Last iterates.
    fun_last : array
        Value of f at `x_last`.
    averaged : array
        Running averages of x; with the option `ema` only.
    cost : array
        Half the sum of squares at `x`; of `least_squares_many` only, as what follows.
    optimality : array
        Largest element of the gradient of `cost`, less those that a bound holds.
    njev : array
        Number of Jacobians that each fit has computed.
    cov : array
        Covariance of `x`, (problems, n, n): inf where J is singular, NaN at a bound.
    residuals : array
        Residuals at `x`, of shape (problems, m); with ``residuals=True`` only.
    jacobian : array
        Derivatives of the residuals, (problems, m, n); with ``residuals=True`` only.
    agreed : array
        Starts that ended as the best one of their problem; with several starts only.
    stderr : array
        Standard errors of `x`: the root of the diagonal of `cov`.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> def fun(X):
    ...     return np.sum(X**2, axis=1), 2 * X
    >>> na.minimize_many(fun, np.ones((50, 2)), jac=True, lr=0.1, maxiter=1)
     problems: 50, x of shape (50, 2): 1 array, 100 float64, cpu
      success: 0 of 50
     status 1: 50: maxiter was reached
          fun: 1.62 to 1.62, median 1.62
    grad_norm: 1.8 to 1.8, median 1.8
          nit: 1 to 1, median 1
         nfev: 100
    """

    x: Any
    fun: Any
    jac: Any
    grad_norm: Any
    success: NDArray[np.bool_]
    status: NDArray[np.int64]
    message: str
    nit: Any
    nfev: Any
    x_last: Any
    fun_last: Any
    averaged: Any
    cost: NDArray[np.float64]
    optimality: NDArray[np.float64]
    njev: NDArray[np.int64]
    cov: NDArray[np.float64]
    residuals: NDArray[Any]
    jacobian: NDArray[Any]
    agreed: NDArray[np.int64]
    stderr: NDArray[np.float64]

    def __missing__(self, key: object) -> Any:
        if isinstance(key, int):
            raise KeyError(
                f"{key}: a result is a dict; problem {key} is at res.x[{key}] and so on."
            )
        raise KeyError(key)

    def __dir__(self) -> list[str]:
        return [*self, "best"]

    def best(self) -> Result:
        """The result of the problem with the lowest finite f, with its `index`."""
        name = "cost" if "cost" in self else "fun"
        fun = np.asarray(to_host(self[name]))
        if not np.isfinite(fun).any():
            raise ValueError(f"best: {name} is finite in none of the problems.")
        index = int(np.argmin(np.where(np.isfinite(fun), fun, np.inf)))
        one = {name: self[name][index] for name in _OF_ONE_PROBLEM if name in self}
        return Result(index=index, **one)

    def _rows(self) -> list[tuple[str, str]]:
        """Counts and ranges over all problems."""
        if not all(is_array(self.get(name)) for name in _SHOWN_OF_MANY):  # changed by the user
            return [(name, formatting.brief(value)) for name, value in self.items()]
        count, outline = len(self.status), formatting.outline([self.x])
        rows = [("problems", f"{count:,}, x of shape {self.x.shape}: {outline}")]
        rows.append(("success", f"{int(np.sum(self.success)):,} of {count:,}"))
        for status, text in (FIT_STATUS if "cost" in self else _STATUS_TEXT).items():
            number = int(np.sum(self.status == status))
            if number:
                rows.append((f"status {status}", f"{number:,}: {text}"))
        for name in ("fun", "cost", "optimality", "agreed", "grad_norm", "nit"):
            if name in self and count:
                rows.append((name, _spread(np.asarray(to_host(self[name])))))
        rows += [("nfev", f"{int(np.sum(self.nfev)):,}")] if "nfev" in self else []
        return rows

    def __repr__(self) -> str:
        rows = self._rows()
        width = max((len(name) for name, _ in rows), default=0)
        return "\n".join(f"{name:>{width}}: {text}" for name, text in rows) or "ManyResult()"

    def _repr_html_(self) -> str:
        """The table that notebooks show."""
        maker = "least_squares_many" if "cost" in self else "minimize_many"
        return formatting.table(f"Result of numadam.{maker}", self._rows())


@np.errstate(all="ignore")  # the median is a mean of two
def _spread(values: np.ndarray) -> str:
    """Least, median and largest of the finite values."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return "none is finite"
    low, middle, high = map(formatting.number, (finite.min(), np.median(finite), finite.max()))
    lost = len(values) - len(finite)
    return f"{low} to {high}, median {middle}" + (f"; {lost:,} not finite" if lost else "")
