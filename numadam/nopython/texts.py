"""Docstrings of the compiled functions, from that of the class."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from numadam._core.docstrings import derived, first_sentence, formula, number, parameters
from numadam._optimizer.texts import OF_UPDATES, OPTIONAL_STATE, ZEROS, example

_P = """\
p : array
    Parameters, float32 or float64, any shape and layout; modified in place."""
_P_AND_G = """\
p, g : float32 or float64
    Parameter and gradient. The computation is in the type of `p`."""
_PRODUCT = """\
mu_product : {}, optional
    Product of the momenta before this step, {} at the first.
    It is no power, so it has to be carried from step to step. Without it each step forms all
    momenta again, t - 1 powers, about 15 ns each."""
_SCALARS = """\
tuple of float64
    The same for all elements, which round them to their dtype."""
_ERRORS = """\
ValueError
    For arguments that do not fit each other, such as arrays of different shapes, and for t below
    1. Different dtypes are a compile error. A CUDA kernel shows no such error: its thread ends."""


def _numbers(cls: Any, given: Mapping[str, inspect.Parameter]) -> str:
    """Entries of the hyperparameters, without the schedules that only the class takes."""
    texts: dict[str, tuple[str, str]] = {}
    for base in reversed(cls.__mro__):
        texts |= parameters(base.__doc__)
    entries = []
    for name, one in given.items():
        if isinstance(one.default, float) and name in texts:
            kind, text = texts[name]
            values = re.split(r" or callable|, callable|, default", kind)[0]
            entries.append(
                f"{name} : {values}, default {number(one.default)}\n    {first_sentence(text)}"
            )
    return "\n".join(entries)


def documents(file: str, cls: Any, update: inspect.Signature) -> dict[str, str | None]:
    """The docstrings of a rule's functions by name; `update` is the signature of the last one."""
    given, state = update.parameters, cls.rule.state
    needed = [name for name in state if given[name].default is inspect.Parameter.empty]
    absent = [name for name in state if name not in needed]
    held, numbers, t = (
        ", ".join(needed),
        _numbers(cls, given),
        OF_UPDATES["t"] if cls.rule.needs_t else "",
    )
    product = _PRODUCT if "mu_product" in given else ""
    scalars, element, step = (f"{file}_{kind}" for kind in ("scalars", "element", "update"))
    of_scalars = [t, numbers, product.format("float", "1.0")]
    of_element = [
        _P_AND_G,
        f"{held} : float\n    State of the element." if needed else "",
        f"h : tuple of float\n    From `{scalars}`.",
        f"{', '.join(absent)} : float, optional\n    As in `{step}`." if absent else "",
    ]
    of_step = [
        _P,
        OF_UPDATES["g"],
        f"{held} : array\n    {ZEROS}" if needed else "",
        t,
        numbers,
        *(OPTIONAL_STATE[name] for name in absent if name in OPTIONAL_STATE),
        product.format("array of one float64", "``np.ones(1)``"),
    ]
    imported = f">>> from numadam.nopython import {element}, {scalars}"
    make_scalars = f">>> h = {scalars}({'1, ' if t else ''}lr=0.1)"
    results, start = ", ".join(["p", *needed]), "".join("0.0, " for _ in needed)
    return {
        scalars: derived(
            cls.__doc__,
            f"Scalars that all elements share at one step: the argument `h` of `{element}`.",
            {"Parameters": _lines(of_scalars), "Returns": _SCALARS},
            f">>> from numadam.nopython import {scalars}\n{make_scalars}",
        ),
        element: derived(
            cls.__doc__,
            f"One step of one element; formula as in `{step}`.",
            {
                "Parameters": _lines(of_element),
                "Returns": f"{'' if needed else 'float, or '}tuple of float\n"
                "    The new p, and the state that was given.",
            },
            f"{imported}\n{make_scalars}\n"
            f">>> {results} = {element}(1.0, 1.0, {start}h)\n>>> p < 1.0\nTrue",
        ),
        step: derived(
            cls.__doc__,
            "One step in place, inside compiled code; the same numbers as "
            f"`numadam.{cls.__name__}`.\n\n{formula(cls.__doc__)}",
            {"Parameters": _lines(of_step), "Raises": _ERRORS},
            example(f"from numadam.nopython import {step}", step, needed, bool(t)),
        ),
    }


def _lines(entries: list[str]) -> str:
    """Entries of parameters, without those that are empty."""
    return "\n".join(filter(None, entries))
