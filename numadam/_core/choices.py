"""Options that take one of a few texts: each choice is written here once.

Signatures name these types; checks read the same values from them.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

Nonfinite = Literal["propagate", "raise", "skip"]
Sparse = Literal["lazy", "dense"]
StateDtype = Literal["bfloat16"]
ComplexForm = Literal["parts", "modulus"]
#: Libraries whose defaults and arithmetic are repeated; `numadam._core.presets` has what each does.
Like = Literal["torch", "keras", "keras-jax", "tf1", "optax", "sklearn", "qiskit", "numpy", "quimb"]

EpsForm = Literal["paper", "hat"]
EpsFormOfMax = Literal["norm", "denominator"]
AMSGrad = Literal["v", "vhat", "paper"]

#: Finite differences in place of a gradient.
Differences = Literal["2-point", "3-point", "cs"]
#: A learning rate that is searched for.
RateSearch = Literal["auto"]
#: Whether an objective on several ranks returns all of f, or this rank's share.
PartOfF = Literal["global", "local"]

Reduce = Literal["sum", "mean"]
Transport = Literal["auto", "mpi", "host"]

#: Outcome of `check_grad`.
GradientStatus = Literal["right", "wrong", "unclear"]

PlateauMode = Literal["min", "max"]
ThresholdMode = Literal["rel", "abs"]


def listed(values: tuple[Any, ...]) -> str:
    """Values as a text: ``'a', 'b' or 'c'``."""
    *most, last = map(repr, values)
    return f"{', '.join(most)} or {last}" if most else last


def mismatch(name: str, value: object, choices: Any, also: tuple[Any, ...] = ()) -> str:
    """Error text, or "", for a value that has to be in a Literal or one of the objects `also`."""
    values = (*also, *get_args(choices))
    if any(value is one for one in also) or (isinstance(value, str) and value in values):
        return ""
    return f"{name}: expected {listed(values)}, got {value!r:.80}."


def check(name: str, value: object, choices: Any, also: tuple[Any, ...] = ()) -> None:
    """Raise ValueError for an option that is none of its choices."""
    problem = mismatch(name, value, choices, also)
    if problem:
        raise ValueError(problem)
