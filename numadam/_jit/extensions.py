"""Functions whose compiled form comes from elsewhere than Numba: `numba.extending`.

Another package, or the user's own, may say how Numba types or compiles ``numpy.trace`` or an
addition. Code with such a function in it depends on source that nobody names.

Numba's own functions are told by the module that they live in. The name of their module may be
anything: a copied one, or none in code that `exec` has run.
"""

from __future__ import annotations

import functools
import sys
from types import FunctionType
from typing import Any

import numpy as np
from numba.core import imputils
from numba.core.registry import cpu_target
from numba.core.typing import templates

#: Stands for every function: where operators have been extended, or where it cannot be told.
_ALL = "*"
_NAMED = ("builtins", "cmath", "math", "numpy")


def extended_names() -> frozenset[str] | None:
    """Names of functions, methods and attributes that others have extended; None: any."""
    typed, lowered = [
        {default, *context._registries}  # noqa: SLF001  # installed ones; Numba has no other
        for default, context in (
            (templates.builtin_registry, cpu_target.typing_context),
            (imputils.builtin_registry, cpu_target.target_context),
        )
    ]
    sizes = [len(x) for one in typed | lowered for x in vars(one).values() if type(x) is list]
    names = _names(frozenset(typed), frozenset(lowered), sum(sizes))
    return None if _ALL in names else names


@functools.lru_cache(1)  # registries only grow
def _names(typed: frozenset[Any], lowered: frozenset[Any], _: int) -> frozenset[str]:
    known, implemented = [], []
    for one in typed:
        known += [*one.functions, *one.attributes]
        for _, kind in one.globals:
            known += getattr(kind, "templates", ())
    for one in lowered:
        implemented += [(impl, key, None, kinds) for impl, key, kinds in one.functions]
        implemented += [(impl, "", key, kinds) for impl, key, kinds in one.getattrs + one.setattrs]
        implemented += [(impl, "", None, kinds) for impl, kinds in one.casts + one.constants]
    names = [*map(_of_template, known), *(_of_implementation(*one) for one in implemented)]
    return frozenset(filter(None, names))


def _root(x: Any) -> str:
    return str(getattr(x, "__module__", None) or "").partition(".")[0]


def home_of(function: FunctionType) -> str:
    """The module whose names a function in Python reads; "": none that is imported."""
    home = function.__globals__.get("__name__")
    module = sys.modules.get(home) if isinstance(home, str) else None
    return str(home) if getattr(module, "__dict__", None) is function.__globals__ else ""


def _is_own(function: Any) -> bool:
    """Whether a function is Numba's, and those that it has been made around."""
    if type(function) is not FunctionType:
        return False
    inner = [cell.cell_contents for cell in function.__closure__ or ()]
    around = [one for one in inner if type(one) is FunctionType]
    return all(home_of(one).partition(".")[0] == "numba" for one in (function, *around))


@functools.cache  # a registry keeps each of them
def _is_own_class(one: type) -> bool:
    """Whether a class is Numba's, and its functions; Python calls those that `type` made "abc"."""
    if one is object:
        return True
    if one.__module__ == "abc":
        known = "cases" not in vars(one)  # with them, there need be no function to tell
    else:
        known = _root(one) == "numba" and one.__module__ in sys.modules
    inside = [getattr(one, name) for name in vars(one) if name != "key"]
    return known and all(_is_own(x) for x in inside if type(x) is FunctionType)


def _of_template(template: Any) -> str | None:
    """The name that a template extends; None: Numba's own, or one of nobody else's function."""
    if all(map(_is_own_class, template.__mro__)):
        return None
    return _extended(template.key, getattr(template, "_attr", None))


def _of_implementation(function: Any, key: Any, attribute: str | None, kinds: Any) -> str | None:
    """The name whose implementation a function is; None as above, and for types of their own."""
    classes = [one if isinstance(one, type) else type(one) for one in kinds]
    if _is_own(function) or any(_root(one) != "numba" for one in classes):
        return None
    return _extended(key, attribute)


def _extended(key: Any, attribute: str | None) -> str | None:
    if isinstance(key, np.ufunc) or _root(key) in _NAMED:
        return str(key.__name__)
    if not isinstance(key, str) and _root(key) not in ("_operator", "operator", "numba", ""):
        return None  # a function or type of their own
    return _ALL if attribute is None else str(attribute)
