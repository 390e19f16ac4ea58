"""Presets: the defaults and the arithmetic of other libraries, asked for by ``like="torch"``.

A preset is a set of keywords that stand in for the defaults; an explicit keyword overrides it.
Each rule holds its own (`RuleSpec.presets`). What a library does alike in all rules is in `LIKE`;
what changes the formula of one, the rule reads from the option `like` itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Library(NamedTuple):
    """Habits of a library that are the same in all of its rules."""

    title: str
    #: Adam is repeated bit for bit, so denormal moments are not flushed
    bit_exact: bool = False
    #: `weight_decay` is held in float32, also for float64 parameters
    decay_in_float32: bool = False
    #: the average begins as the parameters after the first step
    late_average: bool = False
    #: added to a norm before it divides
    margin: float = 0.0
    #: the preset whose defaults it has, and that does the same for float32 parameters
    variant_of: str = ""


#: The presets; everything that lists them reads it here. optax has no default of lr.
LIKE = {
    "torch": Library("PyTorch", margin=1e-6),
    "keras": Library(
        "Keras on TensorFlow", bit_exact=True, decay_in_float32=True, late_average=True
    ),
    "keras-jax": Library("Keras on JAX", bit_exact=True, late_average=True, variant_of="keras"),
    "tf1": Library("AdamOptimizer of TensorFlow 1", bit_exact=True),
    "optax": Library("optax"),
    "sklearn": Library("scikit-learn", bit_exact=True),
    "qiskit": Library("qiskit-algorithms", bit_exact=True),
    "numpy": Library("the textbook's lines in NumPy", bit_exact=True),
    "quimb": Library("quimb", bit_exact=True),
}
_OWN = Library("numadam")


def library(like: str | None) -> Library:
    """Habits of the library that a preset repeats; without a preset, numadam's own."""
    return LIKE[like] if like else _OWN


def preset(presets: Mapping[str, Mapping[str, Any]], title: str, like: Any) -> Mapping[str, Any]:
    """The keywords of one class in one library, from those of the class in all of them.

    Raises
    ------
    ValueError
        For a library that is not known, and for a class that it does not have.
    """
    if not isinstance(like, str) or like not in LIKE:
        raise ValueError(f"like: expected one of {', '.join(map(repr, LIKE))}, got {like!r}.")
    found = presets.get(like) or presets.get(LIKE[like].variant_of)
    if found is None:
        there = [name for name, one in LIKE.items() if {name, one.variant_of} & {*presets}]
        raise ValueError(
            f"like: {like!r} has no {title}; "
            + (f"use one of {', '.join(map(repr, there))}." if there else "leave it out.")
        )
    return found
