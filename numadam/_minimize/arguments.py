"""Arguments of a minimisation: x0, bounds, options and the rule, read and checked."""

from __future__ import annotations

import functools
import numbers
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from numadam import rules
from numadam._arrays.checks import describe, is_masked
from numadam._arrays.interop import as_view, is_array, is_cupy, to_host, units_of
from numadam._core.hyper import count
from numadam._optimizer.optimizer import Optimizer
from numadam._settings.bounds import standard_bounds

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
    if is_masked(x) or units_of(x) is not None:
        raise TypeError(f"{name}: {describe(x)}")
    if not is_array(x) and not _is_number(x) and not isinstance(x, (list, tuple)):
        if not hasattr(type(x), "__array__"):
            raise TypeError(f"{name}: {describe(x)}")
        x = np.asarray(x)  # pandas, xarray, dask: x0 is copied anyway
    try:
        own = x.copy(order="C") if is_cupy(x) else np.array(x, order="C")
    except ValueError as error:  # lists of unlike lengths
        raise ValueError(f"{name}: {error}") from error
    if own.dtype.kind in "iu":
        own = own.astype(np.float64)
    if own.dtype.char not in _DTYPES or not own.dtype.isnative:
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
    if not isinstance(x0, (list, tuple, dict)) or not _holds_arrays(x0):
        if not is_array(x0) and not _is_number(x0) and not isinstance(x0, (list, tuple)):
            import optree

            if x0 is not None and not optree.tree_is_leaf(x0):
                return optree.tree_map(lambda leaf: _own_array(leaf, "x0"), x0)
        return _own_array(x0, "x0")
    import optree

    nested: Any = x0
    if not optree.tree_leaves(nested, none_is_leaf=True):
        raise ValueError("x0: holds no array, there is nothing to minimise.")
    return optree.tree_map_with_accessor(
        lambda accessor, leaf: _own_array(leaf, accessor.codify("x0")), nested, none_is_leaf=True
    )


def copy_tree(tree: Any) -> Any:
    """The same containers with a copy of each array."""
    if is_array(tree):
        return tree.copy()
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
