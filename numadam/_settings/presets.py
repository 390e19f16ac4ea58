"""Presets: the defaults and the arithmetic of other libraries, asked for by ``like="torch"``.

A preset is a set of keywords that stand in for the defaults; an explicit keyword overrides it.
Each rule holds its own (`RuleSpec.presets`). What a preset changes in the arithmetic, the rules
read from the option `like` itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: The libraries. optax has no default of lr.
LIKE = ("torch", "keras", "tf1", "optax", "sklearn", "numpy")


def preset(presets: Mapping[str, Mapping[str, Any]], title: str, like: Any) -> Mapping[str, Any]:
    """The keywords of one class in one library, from those of the class in all of them.

    Raises
    ------
    ValueError
        For a library that is not known, and for a class that it does not have.
    """
    if like not in LIKE:
        raise ValueError(f"like: expected one of {', '.join(map(repr, LIKE))}, got {like!r}.")
    if like not in presets:
        there = [name for name in LIKE if name in presets]
        raise ValueError(
            f"like: {like!r} has no {title}; "
            + (f"use one of {', '.join(map(repr, there))}." if there else "leave it out.")
        )
    return presets[like]
