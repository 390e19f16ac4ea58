"""Presets: the defaults and the arithmetic of other libraries, asked for by ``like="torch"``.

A preset is a set of keywords that stand in for the defaults; an explicit keyword overrides it.
Each rule holds its own (`RuleSpec.presets`). What a library does alike in all rules is in `LIKE`;
what changes the formula of one, the rule reads from the option `like` itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Library(NamedTuple):
    """What a library does in every rule."""

    title: str
    #: Adam is repeated bit for bit, so denormal moments are not flushed
    bit_exact: bool = False
    #: `weight_decay` is held in float32, also for float64 parameters
    decay_in_float32: bool = False
    #: the average begins as the parameters after the first step
    late_average: bool = False
    #: added to a norm before it divides
    margin: float = 0.0
    #: the preset that does the same for float32 parameters
    in_float32: str = ""


#: The presets; everything that lists them reads it here. optax has no default of lr.
LIKE = {
    "torch": Library("PyTorch", margin=1e-6),
    "keras": Library(
        "Keras on TensorFlow", bit_exact=True, decay_in_float32=True, late_average=True
    ),
    "keras-jax": Library("Keras on JAX", bit_exact=True, late_average=True, in_float32="keras"),
    "tf1": Library("AdamOptimizer of TensorFlow 1", bit_exact=True),
    "optax": Library("optax"),
    "sklearn": Library("scikit-learn", bit_exact=True),
    "qiskit": Library("qiskit-algorithms", bit_exact=True),
    "numpy": Library("the textbook's lines in NumPy", bit_exact=True),
    "quimb": Library("quimb", bit_exact=True),
}
_OWN = Library("numadam")


def library(like: str | None) -> Library:
    """What the library of a preset does in every rule; numadam's own way without a preset."""
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
    if like not in presets:
        there = [name for name in LIKE if name in presets]
        raise ValueError(
            f"like: {like!r} has no {title}; "
            + (f"use one of {', '.join(map(repr, there))}." if there else "leave it out.")
        )
    return presets[like]
