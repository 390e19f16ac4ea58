"""Results of a minimisation.

A third of the lines are names, types and texts of entries for users.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

import numpy as np
from scipy.optimize import OptimizeResult

from numadam._arrays import formatting
from numadam._arrays.interop import is_array, to_host
from numadam._arrays.tree import Tree
from numadam._core.hyper import count

if TYPE_CHECKING:
    from numpy.typing import NDArray

# --- documented entries --------------------------------------------------------------------------


Value = TypeVar("Value")


class ResultType(type):
    """Type of a result; completion lists the names of its class too, here without a dict's."""

    def __dir__(cls) -> list[str]:
        hidden = {name for name in dir(dict) if not name.startswith("_")}
        return [name for name in super().__dir__() if name not in hidden]


class entry(Generic[Value]):
    """Decorator: an entry of a result as an attribute, with the type and text of a method.

    The method is never called: it says name, type and meaning, for `help` and for completion.
    """

    def __init__(self, method: Callable[[Any], Value]) -> None:
        self.__doc__ = method.__doc__
        self._name = method.__name__
        self.type: str = str(method.__annotations__["return"])

    # `object`: a result is a dict, but not for those who have scipy-stubs installed
    @overload
    def __get__(self, result: None, owner: type) -> Self: ...
    @overload
    def __get__(self, result: object, owner: type) -> Value: ...
    def __get__(self, result: Any, owner: type) -> Any:
        if result is None:
            return self
        try:
            return result[self._name]
        except KeyError:
            raise missing(result, self._name) from None

    def __set__(self, result: Any, value: Value) -> None:
        result[self._name] = value


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


def missing(result: dict[str, Any], name: str) -> AttributeError:
    """The error at an attribute that a result has not; Python adds the nearest name."""
    text = f"{name}: this result has none; it has {', '.join(result)}.{_WITHOUT.get(name, '')}"
    return AttributeError(text, name=name, obj=result)


def entries(kind: type) -> dict[str, entry[Any]]:
    """The entries that a class of results declares, in their order."""
    return {name: one for name, one in vars(kind).items() if isinstance(one, entry)}


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
    table = np.asarray(lines, dtype=np.float64).reshape(-1, 4)
    return {
        "nit": table[:, 0].astype(np.int64),
        "fun": table[:, 1].copy(),
        "grad_norm": table[:, 2].copy(),
        "lr": table[:, 3].copy(),
    }


class Result(OptimizeResult, metaclass=ResultType):  # type: ignore[misc]  # SciPy has no types
    """Result of `minimize`: SciPy's `OptimizeResult`, a dict whose entries are attributes.

    It shows a summary of history and state.

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

    @entry
    def x(self) -> Any:
        """Best iterate, nested as `x0`."""

    @entry
    def fun(self) -> float:
        """Value of f at `x`."""

    @entry
    def jac(self) -> Any:
        """Gradient at `x`; None if it was not computed."""

    @entry
    def grad_norm(self) -> float:
        """Norm of the projected gradient at `x`; the argument `norm` selects which."""

    @entry
    def success(self) -> bool:
        """Whether a stop test was met, at `x_last`."""

    @entry
    def status(self) -> int:
        """0: a test held; 1: maxiter; 2: f, 3: gradient not finite; 4: a doubt; 99: callback."""

    @entry
    def message(self) -> str:
        """Why the run ended, and what may help."""

    @entry
    def nit(self) -> int:
        """Iterations, including those of the runs that this one continues."""

    @entry
    def nfev(self) -> int:
        """Evaluations of f."""

    @entry
    def njev(self) -> int:
        """Evaluations of the gradient."""

    @entry
    def x_last(self) -> Any:
        """Last iterate, nested as `x0`."""

    @entry
    def fun_last(self) -> float:
        """Value of f at `x_last`; NaN if it was not evaluated."""

    @entry
    def history(self) -> dict[str, NDArray[Any]]:
        """Arrays by name: nit, fun, grad_norm, lr."""

    @entry
    def state(self) -> dict[str, Any]:
        """All that `minimize` needs to continue: pass it as `state`."""

    @entry
    def averaged(self) -> Any:
        """Running average of x; with the option `ema` only."""

    @entry
    def lr(self) -> float:
        """Learning rate that was found; with ``lr="auto"`` only."""

    @entry
    def index(self) -> int:
        """Number of the problem; of `ManyResult.best` only."""

    @entry
    def cost(self) -> float:
        """Half the sum of squares at `x`; of `least_squares_many` only, as all that follow."""

    @entry
    def optimality(self) -> float:
        """Largest element of the gradient of `cost`, less those that a bound holds."""

    @entry
    def cov(self) -> NDArray[np.float64]:
        """Covariance of `x`, as `pcov` of ``scipy.optimize.curve_fit``."""

    @entry
    def stderr(self) -> NDArray[np.float64]:
        """Standard errors of `x`: the root of the diagonal of `cov`."""

    @entry
    def agreed(self) -> int:
        """Starts that ended as the best one; with several starts only."""

    @entry
    def residuals(self) -> NDArray[Any]:
        """Residuals at `x`; with ``residuals=True`` only."""

    @entry
    def jacobian(self) -> NDArray[Any]:
        """Derivatives of the residuals, (m, n); with ``residuals=True`` only."""

    def _brief(self) -> dict[str, Any]:
        shown = {name: _short(value) if name in _LIKE_X else value for name, value in self.items()}
        if "history" in self:
            kept, names = len(self.history["nit"]), ", ".join(self.history)
            shown["history"] = f"{formatting.count(kept, 'iteration')} of {names}"
        if "state" in self:
            shown["state"] = f"to go on from nit={self.nit}: state=result.state"
        return shown

    def __getattr__(self, name: str) -> Any:
        raise missing(self, name)

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


class ManyResult(OptimizeResult, metaclass=ResultType):  # type: ignore[misc]  # SciPy has no types
    """Result of many problems: SciPy's `OptimizeResult`, of arrays with an element a problem.

    `minimize_many` and `least_squares_many` return it. It shows counts and ranges. Arrays are CuPy
    arrays where x0 was one, but for `success`, `status` and `nit`.

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

    @entry
    def x(self) -> Any:
        """Best iterate of each problem, of the shape of `x0`."""

    @entry
    def fun(self) -> Any:
        """Value of f at `x`."""

    @entry
    def jac(self) -> Any:
        """Gradient at `x`."""

    @entry
    def grad_norm(self) -> Any:
        """Norm of the projected gradient at `x`."""

    @entry
    def success(self) -> NDArray[np.bool_]:
        """Whether a stop test was met."""

    @entry
    def status(self) -> NDArray[np.int64]:
        """As in `Result`, or in ``scipy.optimize.least_squares``; -1: interrupted."""

    @entry
    def message(self) -> str:
        """Number of problems that ended for each reason."""

    @entry
    def nit(self) -> Any:
        """Iterations of each problem."""

    @entry
    def nfev(self) -> Any:
        """Evaluations of f by all problems together; in `least_squares_many` by each."""

    @entry
    def x_last(self) -> Any:
        """Last iterates."""

    @entry
    def fun_last(self) -> Any:
        """Value of f at `x_last`."""

    @entry
    def averaged(self) -> Any:
        """Running averages of x; with the option `ema` only."""

    @entry
    def cost(self) -> NDArray[np.float64]:
        """Half the sum of squares at `x`; of `least_squares_many` only, as what follows."""

    @entry
    def optimality(self) -> NDArray[np.float64]:
        """Largest element of the gradient of `cost`, less those that a bound holds."""

    @entry
    def njev(self) -> NDArray[np.int64]:
        """Number of Jacobians that each fit has computed."""

    @entry
    def cov(self) -> NDArray[np.float64]:
        """Covariance of `x`, (problems, n, n): inf where J is singular, NaN at a bound."""

    @entry
    def residuals(self) -> NDArray[Any]:
        """Residuals at `x`, of shape (problems, m); with ``residuals=True`` only."""

    @entry
    def jacobian(self) -> NDArray[Any]:
        """Derivatives of the residuals, (problems, m, n); with ``residuals=True`` only."""

    @entry
    def agreed(self) -> NDArray[np.int64]:
        """Starts that ended as the best one of their problem; with several starts only."""

    @entry
    def stderr(self) -> NDArray[np.float64]:
        """Standard errors of `x`: the root of the diagonal of `cov`."""

    def __missing__(self, key: object) -> Any:
        if isinstance(key, int):
            raise KeyError(
                f"{key}: a result is a dict; problem {key} is at res.x[{key}] and so on."
            )
        raise KeyError(key)

    def __getattr__(self, name: str) -> Any:
        raise missing(self, name)

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
