"""Names of arguments of a minimisation: SciPy's are translated, those of others refused."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, TypeVar, cast

from numadam._core.hyper import Hyper
from numadam._core.options import DEFAULTS
from numadam._core.synonyms import run_hint
from numadam._minimize.arguments import rule_class
from numadam._minimize.result import ManyResult

Run = TypeVar("Run", bound=Callable[..., Any])

#: Options of an optimiser that a minimisation cannot have, and what to do instead.
_REFUSED = {
    "maximize": "minimise -fun instead",
    "loss_scale": "f and its gradient belong together: leave it out",
    "accumulate": "each iteration takes one gradient; let fun form the mean",
    "nonfinite": "a run stops at a gradient that is not finite, with status 3",
    "max_skips": "a run stops at a gradient that is not finite, with status 3",
    "sparse": "gradients are dense here; use the optimiser's step",
    "master": "x is float32 or float64 here",
    "state_dtype": "x is float32 or float64 here, and so is the state",
}

#: Arguments of `minimize` that many problems cannot have.
_ONLY_OF_ONE = {
    "comm": "problems are independent: give each rank some of them, such as x0[comm.rank::"
    "comm.size], and gather the results",
    "f": "each problem has an f of its own",
}

#: Arguments of SciPy that are accepted where they are empty, and why they are refused otherwise.
_EMPTY = {
    "method": "Write rule='adam', rule='sgd' and so on. Methods of SciPy, such as 'L-BFGS-B', are "
    "those of scipy.optimize.minimize",
    "constraints": "Adam takes bounds=... alone; SciPy has methods for others",
    "hess": "Adam takes no second derivatives. Leave it out",
    "hessp": "Adam takes no second derivatives. Leave it out",
    "maxfun": "Write maxiter=...; an iteration is one evaluation where fun gives the gradient, "
    "and n + 1 with 2-point differences",
}
_EMPTY |= {"maxfev": _EMPTY["maxfun"]}
#: Options that many problems cannot have, and why.
NOT_OF_MANY = {"ema_debias": "problems stop at different iterations; use ema_warmup"}

_TOL = Hyper("tol")


class OfSciPy(TypedDict, total=False):
    """Keywords of SciPy that are translated."""

    options: Mapping[str, Any]
    tol: float | None
    disp: bool


def not_for_one() -> set[str]:
    """Options of optimisers that are no further keywords of `minimize`; two are arguments of it."""
    return {*_REFUSED, "bounds", "comm"}


def not_for_many() -> set[str]:
    """Options of optimisers that are no further keywords of `minimize_many`."""
    return {*not_for_one(), *NOT_OF_MANY}


def takes_names_of_scipy(function: Run) -> Run:
    """Decorator of `minimize`: `options`, `tol`, `disp` and empty arguments as SciPy has them."""
    parameters = inspect.signature(function).parameters.values()
    names = tuple(one.name for one in parameters if one.kind is not one.VAR_KEYWORD)
    known = frozenset(names)

    @functools.wraps(function)
    def call(*args: Any, **given: Any) -> Any:
        if given.keys() <= known:
            return function(*args, **given)
        given = _translated(given)
        shows = given.pop("disp", False)
        _refuse_foreign(given, names)
        result: Any = function(*args, **given)
        if shows and _is_first(given.get("comm")):
            print(_summary(result))
        return result

    return cast(Run, call)


def _translated(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of SciPy's users as those of numadam."""
    inner, given = given.get("options"), {**given}
    given.pop("options", None)
    if inner is not None and not isinstance(inner, Mapping):
        raise TypeError(f"options: expected a dict of keywords, got {type(inner).__name__}.")
    for name, value in (inner or {}).items():
        if not isinstance(name, str):
            raise TypeError(f"options: its keys are names of arguments, got {name!r:.80}.")
        if name in given:
            raise TypeError(f"{name}: is given as a keyword and in options; leave one out.")
        given[name] = value
    for name, instead in _EMPTY.items():
        value = given.pop(name, None)
        if value is not None and not _is_nothing(value):
            raise ValueError(f"{name}: not supported. {instead}.")
    tol = given.pop("tol", None)
    if tol is not None and given.get("gtol") is None:
        given["gtol"] = _TOL.check(tol)
    return given


def _is_nothing(x: Any) -> bool:
    return isinstance(x, (list, tuple, dict)) and not x


def _refuse_foreign(given: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Refuse what is no argument of a minimisation, where its name says what was meant."""
    for name, instead in (_REFUSED | _ONLY_OF_ONE).items():
        if name in given and name not in names:
            raise ValueError(f"{name}: not for a minimisation: {instead}.")
    for name in given:
        if name in names or name in DEFAULTS:
            continue
        hint = run_hint(name, names)
        # an option of the rule may have such a name
        if hint and name not in inspect.signature(rule_class(given.get("rule", "adam"))).parameters:
            raise TypeError(f"{name}: there is no such argument. {hint}")


def _is_first(comm: Any) -> bool:
    """Whether this process is the one that prints."""
    return comm is None or comm.rank == 0


def _summary(result: Any) -> str:
    """Outcome of one run in three lines; of many, their counts."""
    if isinstance(result, ManyResult):
        return repr(result)
    return f"{result.message}\n  f: {result.fun}\n  iterations: {result.nit}"
