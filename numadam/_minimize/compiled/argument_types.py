"""Numba's types of the arguments of an objective."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import typeof

_types: dict[Any, Any] = {}
_KINDS = 256


def type_of_args(args: tuple[Any, ...]) -> Any:
    """Numba's type of the arguments: remembered, for asking takes 15 us and more."""
    try:
        key = _key_of(args)
    except TypeError:
        return _asked_type(args)
    if key not in _types:
        if len(_types) >= _KINDS:
            _types.clear()
        _types[key] = _asked_type(args)
    return _types[key]


def _key_of(arg: Any) -> Any:
    """All that Numba's type of a number, an array of numbers, or a tuple of them depends on."""
    kind = type(arg)
    if kind is tuple:
        return tuple(map(_key_of, arg))
    if kind is np.ndarray and arg.dtype.kind in "biufc":
        flags = arg.flags
        laid = flags.c_contiguous, flags.f_contiguous, flags.writeable, flags.aligned
        return arg.dtype, arg.ndim, *laid
    if (kind is int and -(2**63) <= arg < 2**63) or kind in (float, bool, np.float64, np.int64):
        return kind
    raise TypeError(f"{kind}: Numba has to be asked.")


def _asked_type(args: tuple[Any, ...]) -> Any:
    for k, arg in enumerate(args):
        try:
            typeof(arg)
        except ValueError as error:
            raise TypeError(
                f"args[{k}]: Numba has no type for {type(arg).__name__}, so a compiled fun cannot "
                "take it. Pass numbers, arrays or tuples of them."
            ) from error
    return typeof(args)
