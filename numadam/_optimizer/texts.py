"""Texts that the docstrings of optimiser classes and update functions share."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Container, Mapping, Sequence

from numadam._core.docstrings import derived, first_sentence, parameters
from numadam._core.keywords import FunctionalButDecay, FunctionalOptions
from numadam._core.options import DEFAULTS
from numadam._optimizer.base import OptimizerBase

_INDENT = "    "
_SHARED = "Options of every rule. `numadam.Optimizer` says more about each:"

#: By placeholder, for classes.
OF_CLASSES = {
    "params": """\
params : array or nesting of lists, tuples and dicts of arrays
    Real or complex arrays of any shape, NumPy or CuPy, all of one dtype; modified in place by
    `step`.""",
    "lr": """\
lr : float >= 0, callable, array, or nesting of these, default {default}
    Learning rate, in units of the parameters. A callable gets the steps already taken, 0 at
    the first. An array, or a nesting as that of `params`, sets it by element or array.""",
    "beta1": """\
beta1 : float in [0, 1) or callable, default {default}
    Decay of the first moment `m`, the running mean of the gradient.""",
    "beta2": """\
beta2 : float in [0, 1) or callable, default {default}
    Decay of the second moment `v`.""",
    "eps": """\
eps : float >= 0 or callable, default {default}
    Added to the root, in units of the gradient. Where the sum is 0, nothing moves.""",
    "eps_root": """\
eps_root : float >= 0 or callable, default {default}
    Added under the root, in units of the gradient squared.""",
}


def shared(doc: str | None, declared: Container[str]) -> str:
    """A line for each option of a docstring, that of `Optimizer`, which a rule has not `declared`.

    It is the first sentence on the option.
    """
    lines = (
        f"    - `{name}`: {first_sentence(text)}"
        for name, (_, text) in parameters(doc).items()
        if name not in declared
    )
    return "\n".join(["**shared", f"{_INDENT}{_SHARED}", "", *lines])


#: Entries of the parameters of update functions, by name.
OF_UPDATES = {
    "p": """\
p : array or None
    Parameters, real or complex, NumPy or CuPy, any shape; modified in place. With `out` it may be
    None: the direction depends on them only by `weight_decay` and `bounds`.""",
    "g": """\
g : array
    Gradient, of the shape and dtype of `p`; not modified.""",
    "t": """\
t : int
    Number of this step: 1 at the first.""",
    "out": """\
out : array, optional
    Gets the direction instead: `p` would become ``p + out``, and stays as it is.""",
}
_ERRORS = """\
TypeError, ValueError
    Before anything is written: the message names the argument and says what to do."""
#: The text on state arrays.
ZEROS = "State, zeros before the first step; modified in place."
#: Entries of state arrays that may be left out.
OPTIONAL_STATE = {
    "vmax": """\
vmax : array, optional
    Largest second moment so far, zeros before the first step: AMSGrad, "v" unless said otherwise;
    modified in place.""",
    "mean": """\
mean : array, optional
    Mean of the gradient, zeros before the first step: RMSprop is centered; modified in place.""",
    "m": """\
m : array, optional
    Momentum buffer, zeros before the first step; modified in place. It is there exactly where
    `momentum` is not 0.""",
}


def example(imported: str, function: str, state: Sequence[str], needs_t: bool) -> str:
    """An example: one step against a gradient of 1 and -1."""
    begin = ", ".join(["np.ones(2)", *["np.zeros(2)"] * len(state)])
    given = ", ".join(["p", "np.array([1.0, -1.0])", *state, *["1"] * needs_t, "lr=0.1"])
    return f"""\
>>> import numpy as np
>>> {imported}
>>> {", ".join(["p", *state])} = {begin}
>>> {function}({given})
>>> bool(p[0] < 1.0 < p[1])
True"""


def _shared_options(kind: type) -> str:
    names = [f"`{name}`" for name in DEFAULTS if name in kind.__annotations__]
    text = f"{', '.join(names[:-1])} and {names[-1]}: see `numadam.Optimizer`."
    return f"**shared\n{textwrap.fill(text, 90, initial_indent=_INDENT, subsequent_indent=_INDENT)}"


def of_update(
    kind: type[OptimizerBase], title: str, signature: inspect.Signature, texts: Mapping[str, str]
) -> str | None:
    """The docstring of an update function; `texts` are entries that only this one has."""
    given, state, name_of_class = signature.parameters, kind.rule.state, kind.__name__
    absent = {name for name, one in given.items() if one.default is None}
    shared_ones = FunctionalButDecay if "weight_decay" in given else FunctionalOptions
    entries = {name: text for name, text in OPTIONAL_STATE.items() if name in absent}
    entries |= {**OF_UPDATES, "shared": _shared_options(shared_ones), **texts}
    groups: dict[str, list[str]] = {}
    for name in given:
        group = name if name in entries else "state" if name in state else "options"
        groups.setdefault(group, []).append(name)
    entries |= {
        "state": f"{', '.join(groups.get('state', ()))} : array\n{_INDENT}{ZEROS}",
        "options": f"{', '.join(groups['options'])}\n{_INDENT}As in `{name_of_class}`, but no "
        "callables.",
    }
    needed = [name for name in state if name in given and name not in absent]
    return derived(
        kind.__doc__,
        f"One step of {name_of_class} on arrays that the caller owns; formula as in "
        f"`{name_of_class}`.",
        {"Parameters": "\n".join(entries[group] for group in groups), "Raises": _ERRORS},
        example("import numadam as na", f"na.{title}", needed, "t" in given and "t" not in absent),
    )
