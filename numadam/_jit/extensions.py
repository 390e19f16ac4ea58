"""Functions whose compiled form comes from elsewhere than Numba: `numba.extending`.

Another package, or the user's own, may say how Numba types or compiles ``numpy.trace`` or an
addition. Code with such a function in it depends on source that nobody names, and any function may
have it in it: those of Numba call each other.

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
from numba.core.rewrites import rewrite_registry
from numba.core.typing import templates

#: Packages whose functions and types Numba's own functions may use; "": of an operator, say.
_USED = ("builtins", "cmath", "math", "numpy", "_operator", "operator", "numba", "")


def is_extended() -> bool:
    """Whether others have extended what any function may use, directly or inside Numba's own."""
    typed, lowered = [
        {default, *context._registries}  # noqa: SLF001  # installed ones; Numba has no other
        for default, context in (
            (templates.builtin_registry, cpu_target.typing_context),
            (imputils.builtin_registry, cpu_target.target_context),
        )
    ]
    rewrites = [one for kind in rewrite_registry.rewrites.values() for one in kind]
    sizes = [len(x) for one in typed | lowered for x in vars(one).values() if type(x) is list]
    found = _are_extended(frozenset(typed), frozenset(lowered), sum(sizes))
    return found or not all(map(_is_own_class, rewrites))


@functools.lru_cache(1)  # registries only grow
def _are_extended(typed: frozenset[Any], lowered: frozenset[Any], _: int) -> bool:
    known, implemented = [], []
    for one in typed:
        known += [*one.functions, *one.attributes]
        for _, kind in one.globals:
            known += getattr(kind, "templates", ())
    for one in lowered:
        implemented += [(impl, (key, *kinds)) for impl, key, kinds in one.functions]
        implemented += [(impl, kinds) for impl, _, kinds in one.getattrs + one.setattrs]
        implemented += one.casts + one.constants
    return any(
        not all(map(_is_own_class, one.__mro__)) and _is_used(one.key) for one in known
    ) or any(not _is_own(one) and all(map(_is_used, of)) for one, of in implemented)


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


def _is_used(key: Any) -> bool:
    """Whether code may use a function or type that it does not name."""
    if isinstance(key, np.ufunc):  # SciPy's has no module, either
        return vars(np).get(key.__name__) is key
    return isinstance(key, str) or _root(key) in _USED
