"""Defaults of an optimiser's options, and the options that differ from them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from numadam._arrays import formatting
from numadam._core import options as op


@functools.cache
def default_options(kind: Any) -> dict[str, Any]:
    """The options of a class of optimisers where the user sets none."""
    found = {**op.DEFAULTS, "decoupled": kind.rule.decoupled}
    for base in reversed(kind.__mro__[:-1]):  # all but object
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()
            found |= {one.name: one.default for one in parameters if one.default is not one.empty}
    return found


def changed_options(kind: Any, options: Mapping[str, Any]) -> dict[str, str]:
    """The learning rate and the options that differ from their defaults, as short texts."""
    usual = default_options(kind)
    return {
        name: formatting.brief(value)
        for name, value in options.items()
        if name == "lr" or not _is(value, usual[name])
    }


def _is(value: Any, usual: Any) -> bool:
    # an option that holds arrays has no truth value of its own
    plain = isinstance(value, (float, int, str)) and isinstance(usual, (float, int, str))
    return value is usual or (plain and value == usual)
