"""Options as keys: what follows from them is computed once for all optimisers."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from numadam._core.options import check
from numadam._core.rule import RuleSpec

#: Types of options that are compared by their value.
_PLAIN = frozenset((bool, int, float, np.float64, str, type(None)))


def freeze(options: Mapping[str, Any]) -> Hashable | None:
    """Options as a key: equal where names, types and values are; None where one is no plain value.

    Plain are numbers, texts, None and tuples of them. Arrays and functions may change behind
    their identity, and -0.0 is another number than 0.0 but equal to it.
    """
    values = tuple(options.values())
    kinds = _kinds(values)
    return None if kinds is None else (tuple(options), kinds, values)


def _kinds(values: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The types of plain values: 1, 1.0 and True are equal."""
    kinds: list[Any] = []
    for value in values:
        kind: Any = type(value)
        if kind is tuple:
            kind = _kinds(value)
            if kind is None:
                return None
        elif kind not in _PLAIN or (value == 0.0 and str(value) == "-0.0"):
            return None
        kinds.append(kind)
    return tuple(kinds)


def own_copy(option: Any) -> Any:
    """The same containers and numbers with copies of the arrays."""
    if isinstance(option, dict):
        clone = copy.copy(option)  # of its class
        clone.update({key: own_copy(value) for key, value in option.items()})
        return clone
    if type(option) in (list, tuple):
        return type(option)(map(own_copy, option))
    if hasattr(option, "__next__"):
        return list(option)
    if hasattr(option, "lb"):  # scipy.optimize.Bounds
        return copy.deepcopy(option)
    return option.copy() if isinstance(getattr(option, "size", None), int) else option


def read(
    rule: RuleSpec, title: str, shared: Mapping[str, Any], own: Mapping[str, Any]
) -> tuple[dict[str, Any], Any]:
    """As `check`, and the options as a key for `check_frozen`, None where they are none.

    Arrays among them are copied, since the caller may change them later.
    """
    frozen = freeze(shared), freeze(own)
    if None in frozen:
        return check(rule, title, own_copy(dict(shared)), own_copy(dict(own))), None
    return check_frozen(rule, title, *frozen), frozen


@lru_cache(maxsize=256)
def check_frozen(rule: RuleSpec, title: str, *frozen: Any) -> dict[str, Any]:
    """As `check`, for options that `freeze` has made a key of; not to be modified."""
    shared, own = (dict(zip(names, values, strict=True)) for names, _, values in frozen)
    return check(rule, title, shared, own)
