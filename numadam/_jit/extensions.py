"""Functions whose compiled form comes from elsewhere than Numba: `numba.extending.overload`.

Another package, or the user's own, may say how Numba compiles ``numpy.trace`` or an addition. Code
with such a function in it depends on source that nobody names.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba.core.typing.templates import builtin_registry

#: Stands for every function: where operators have been extended, or where it cannot be told.
_ALL = "*"
_NAMED = ("builtins", "cmath", "math", "numpy")


def extended_names() -> frozenset[str] | None:
    """Names of functions, methods and attributes that others have extended; None: any."""
    known = builtin_registry
    names = _names(len(known.functions), len(known.attributes), len(known.globals))
    return None if _ALL in names else names


@functools.lru_cache(1)  # registries only grow
def _names(*_: int) -> frozenset[str]:
    known = builtin_registry
    templates = [*known.functions, *known.attributes]
    for _, kind in known.globals:
        templates += getattr(kind, "templates", ())
    return frozenset(filter(None, map(_name, templates)))


def _root(x: Any) -> str:
    return str(getattr(x, "__module__", None) or "").partition(".")[0]


def _name(template: Any) -> str | None:
    """The name that a template extends; None: Numba's own, or one of nobody else's function."""
    implementation = getattr(template, "_overload_func", None)
    makers = [implementation] if implementation is not None else template.__mro__
    # Numba's factories leave `abc` or nothing as the module
    if all(_root(one) in ("numba", "abc", "builtins", "") for one in makers):
        return None
    key = template.key
    if isinstance(key, np.ufunc) or _root(key) in _NAMED:
        return str(key.__name__)
    if not isinstance(key, str) and _root(key) not in ("_operator", "operator", "numba", ""):
        return None  # a function or type of their own
    attribute = getattr(template, "_attr", None)
    return _ALL if attribute is None else str(attribute)
