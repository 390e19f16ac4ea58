"""Docstrings of the compiled functions, from that of the class."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from numadam._core.docstrings import first_sentence, formula, number, parameters, section
from numadam._optimizer.declared import OPTIONAL_STATE, STATE, T, example

_SCALARS = """\
Scalars that all elements share at one step: the argument `h` of `{rule}_element`.

Parameters
----------
{t}{numbers}{product}
Returns
-------
tuple of float64
    The same for all elements, which round them to their dtype.

References
----------
{references}

Examples
--------
>>> from numadam.nopython import {rule}_scalars
>>> h = {rule}_scalars({one}lr=0.1)
"""
_ELEMENT = """\
One step of one element; formula as in `{rule}_update`.

Parameters
----------
p, g : float32 or float64
    Parameter and gradient. The computation is in the type of `p`.
{state}h : tuple of float
    From `{rule}_scalars`.
{optional}
Returns
-------
float, or tuple of float
    The new p; with state, the new p and state.

References
----------
{references}

Examples
--------
>>> from numadam.nopython import {rule}_element, {rule}_scalars
>>> h = {rule}_scalars({one}lr=0.1)
>>> {results} = {rule}_element(1.0, 1.0, {zeros}h)
>>> p < 1.0
True
"""
_UPDATE = """\
One step in place, inside compiled code; the same numbers as `numadam.{title}`.

{formula}

Parameters
----------
p : array
    Parameters, float32 or float64, any shape and layout; modified in place.
g : array
    Gradient, of the shape and dtype of `p`; not modified.
{arrays}{t}{numbers}{optional_arrays}{product_array}
Raises
------
ValueError
    For arguments that do not fit each other, such as arrays of different shapes, and for t below
    1. Different dtypes are a compile error. A CUDA kernel shows no such error: its thread ends.

References
----------
{references}

Examples
--------
{example}
"""
_PRODUCT = """\
mu_product : {}, optional
    Product of the momenta before this step, {} at the first.
    It is no power, so it has to be carried from step to step. Without it each step forms all
    momenta again, t - 1 powers, about 15 ns each.
"""


def _numbers(cls: Any, given: Mapping[str, inspect.Parameter]) -> str:
    """Entries of the hyperparameters, without the schedules that only the class takes."""
    texts: dict[str, tuple[str, str]] = {}
    for base in reversed(cls.__mro__):
        texts |= parameters(base.__doc__)
    entries = ""
    for name, one in given.items():
        if isinstance(one.default, float):
            kind, text = texts[name]
            values = re.split(r" or callable|, callable|, default", kind)[0]
            default = number(one.default)
            entries += f"{name} : {values}, default {default}\n    {first_sentence(text)}\n"
    return entries


def documents(file: str, cls: Any, update: inspect.Signature) -> dict[str, str]:
    """The docstrings of a rule's functions by name; `update` is the signature of the last one."""
    given, state, doc = update.parameters, cls.rule.state, cls.__doc__
    if doc is None:  # python -OO
        return {}
    needed = [name for name in state if given[name].default is inspect.Parameter.empty]
    absent = [name for name in state if name not in needed]
    held, carried, needs_t = ", ".join(needed), "mu_product" in given, cls.rule.needs_t
    texts = {
        "rule": file,
        "title": cls.__name__,
        "formula": formula(doc),
        "references": section(doc, "References").strip(),
        "example": example("numadam.nopython", f"{file}_update", needed, needs_t),
        "t": T * needs_t,
        "one": "1, " * needs_t,
        "numbers": _numbers(cls, given),
        "state": f"{held} : float\n    State of the element.\n" * bool(needed),
        "arrays": STATE.format(held) * bool(needed),
        "optional": "".join(f"{name} : float, optional\n    State, too.\n" for name in absent),
        "optional_arrays": "".join(OPTIONAL_STATE.get(name, "") for name in absent),
        "product": _PRODUCT.format("float", "1.0") * carried,
        "product_array": _PRODUCT.format("array of one float64", "``np.ones(1)``") * carried,
        "results": ", ".join(["p", *needed]),
        "zeros": "0.0, " * len(needed),
    }
    kinds = {"scalars": _SCALARS, "element": _ELEMENT, "update": _UPDATE}
    return {f"{file}_{kind}": text.format(**texts) for kind, text in kinds.items()}
