"""Arguments of a minimisation: read and checked; SciPy's names are translated, others refused."""

from __future__ import annotations

import functools
import inspect
import numbers
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from numadam import rules
from numadam._arrays.checks import describe, is_masked
from numadam._arrays.interop import as_view, is_array, is_cupy, is_distributed, to_host, units_of
from numadam._core.hyper import Hyper, count
from numadam._core.options import DEFAULTS, named_options
from numadam._core.synonyms import run_hint
from numadam._minimize.result import ManyResult
from numadam._optimizer.optimizer import Optimizer
from numadam._settings.bounds import standard_bounds

# --- arguments -----------------------------------------------------------------------------------


#: Characters of float32, float64, complex64 and complex128; asking for a name takes 4 us.
_DTYPES = "fdFD"


def _is_number(x: Any) -> bool:
    return isinstance(x, (numbers.Number, np.generic))


def _holds_arrays(x: Any) -> bool:
    """Whether a container is a nesting of arrays, and not numbers that make one array."""
    if isinstance(x, dict):
        return True
    if isinstance(x, (list, tuple)):
        return any(map(_holds_arrays, x))
    return is_array(x) or not _is_number(x)


def _own_array(x: Any, name: str) -> Any:
    x = as_view(x)
    if x is None:
        raise TypeError(f"{name}: expected a start, got None. Pass one, such as numpy.zeros(n).")
    if is_masked(x) or units_of(x) is not None:
        raise TypeError(f"{name}: {describe(x)}")
    if not is_array(x) and not _is_number(x) and not isinstance(x, (list, tuple)):
        if not hasattr(type(x), "__array__") or is_distributed(x):
            raise TypeError(f"{name}: {describe(x)}")
        x = np.asarray(x)  # pandas, xarray: x0 is copied anyway
    try:
        own = x.copy(order="C") if is_cupy(x) else np.array(x, order="C")
    except ValueError as error:  # lists of unlike lengths
        raise ValueError(f"{name}: {error}") from error
    if own.dtype.kind in "iu":
        own = own.astype(np.float64)
    elif not own.dtype.isnative:
        own = own.astype(own.dtype.newbyteorder("="))
    if own.dtype.char not in _DTYPES:
        raise TypeError(
            f"{name}: expected float32, float64, complex64 or complex128 (whole numbers become "
            f"float64), got {own.dtype}. Use .astype(numpy.float64)."
        )
    return own


def read_args(args: Any, compiled: bool) -> tuple[Any, ...]:
    """The user's args as a tuple: an object that is no tuple is the only argument, as in SciPy."""
    if compiled and isinstance(args, list):
        raise TypeError(
            "args: expected a tuple, got a list. Write (a,) for one argument a, or tuple(args)."
        )
    return args if isinstance(args, tuple) else (args,)


def check_maxiter(maxiter: Any) -> int:
    """Validate `maxiter`; returns an int."""
    return count("maxiter", maxiter, 0, 2**53 - 1)


def check_interval(check_every: int | None, on_host: bool) -> int:
    """Iterations between two stop tests; a GPU has to be waited for at each."""
    return check_every or (1 if on_host else 20)


def own_copy(x0: Any) -> Any:
    """Copy x0 to arrays of our own: one array, or the same containers with a copy of each array."""
    if type(x0) in (list, tuple) and all(type(one) is float for one in x0):
        return np.array(x0, np.float64)  # 5 us less
    if isinstance(x0, (list, tuple, dict)) and _holds_arrays(x0):
        import optree

        nested: Any = x0
        if not optree.tree_leaves(nested, none_is_leaf=True):
            raise ValueError("x0: holds no array, there is nothing to minimise.")
        return optree.tree_map_with_accessor(
            lambda accessor, leaf: _own_array(leaf, accessor.codify("x0")),
            nested,
            none_is_leaf=True,
        )
    if not (is_array(x0) or _is_number(x0) or isinstance(x0, (list, tuple)) or x0 is None):
        import optree

        if not optree.tree_is_leaf(x0):
            return optree.tree_map(lambda leaf: _own_array(leaf, "x0"), x0)
    return _own_array(x0, "x0")


def copy_tree(tree: Any) -> Any:
    """The same containers with a copy of each array; None is None."""
    if type(tree) is np.ndarray or is_array(tree):  # the first takes 0.2 us less
        return tree.copy()
    if tree is None:
        return None
    import optree

    return optree.tree_map(lambda leaf: leaf.copy(), tree)


def checksum(leaves: Sequence[Any]) -> int:
    """A checksum of the numbers of arrays, such as those of x0."""
    found = 0
    for leaf in leaves:
        numbers = np.ascontiguousarray(to_host(leaf)).reshape(-1).view(np.uint8)
        found = zlib.crc32(numbers.data, found)
    return found


def read_bounds(bounds: Any, x: Any) -> Any:
    """The bounds of one array, read once; those of a nesting as they are, for its arrays."""
    return standard_bounds(bounds, x.shape) if is_array(x) else bounds


#: Names of methods that are options of a rule.
_VARIANTS = {
    "amsgrad": "rule='adam', amsgrad=True",
    "momentum": "rule='sgd', momentum=0.9",
    "nesterov": "rule='sgd', momentum=0.9, nesterov=True",
}


@functools.cache
def _rules() -> dict[str, Any]:
    return {name.lower(): one for name, one in rules.classes().items()}


def rule_class(rule: Any) -> Any:
    """The class of a rule, given by name or as the class itself."""
    if isinstance(rule, type) and issubclass(rule, Optimizer) and rule is not Optimizer:
        return rule
    known = _rules()
    if not isinstance(rule, str) or rule.lower() not in known:
        instead = _VARIANTS.get(str(rule).lower(), "")
        raise ValueError(
            f"rule: expected one of {', '.join(map(repr, known))}, got {rule!r}."
            f"{instead and f' Write {instead}.'}"
        )
    return known[rule.lower()]


# --- names ---------------------------------------------------------------------------------------


Run = TypeVar("Run", bound=Callable[..., Any])

#: Options of an optimiser that a minimisation cannot have, and what to do instead.
_REFUSED = {
    "maximize": "minimise -fun instead",
    "nonfinite": "a run stops at a gradient that is not finite, with status 3",
    "max_skips": "a run stops at a gradient that is not finite, with status 3",
    "sparse": "gradients are dense here; use the optimiser's step",
    "count": "gradients are dense here; use the optimiser's step",
}

#: What to do instead of `comm`, in `minimize` and in `minimize_many`.
_OF_RANKS = (
    "on the ranks of MPI call the step of an optimiser, such as na.Adam(block, comm=comm)",
    "problems are independent: give each rank some of them, such as x0[comm.rank::"
    "comm.size], and gather the results",
)

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


def not_for_one() -> set[str]:
    """Options of optimisers that are no further keywords of `minimize`; `bounds` is its own."""
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
        if shows:
            many = isinstance(result, ManyResult)
            print(
                result
                if many
                else f"{result.message}\n  f: {result.fun}\n  iterations: {result.nit}"
            )
        return result

    unfit = not_for_one() if "callback" in known else not_for_many()
    shared = {name: default for name, default in DEFAULTS.items() if name not in unfit}
    call.__signature__ = named_options(function, shared)  # type: ignore[attr-defined]  # a new one
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
        if value is not None and not (isinstance(value, (list, tuple, dict)) and not value):
            raise ValueError(f"{name}: not supported. {instead}.")
    tol = given.pop("tol", None)
    if tol is not None and given.get("gtol") is None:
        given["gtol"] = _TOL.check(tol)
    return given


def _refuse_foreign(given: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Refuse what is no argument of a minimisation, where its name says what was meant."""
    of_ranks = _OF_RANKS["callback" not in names]
    for name, instead in (_REFUSED | {"comm": of_ranks}).items():
        if name in given and name not in names:
            raise ValueError(f"{name}: not for a minimisation: {instead}.")
    for name in given:
        if name in names or name in DEFAULTS:
            continue
        hint = run_hint(name, names)
        # an option of the rule may have such a name
        if hint and name not in inspect.signature(rule_class(given.get("rule", "adam"))).parameters:
            raise TypeError(f"{name}: there is no such argument. {hint}")
