"""Texts that the docstrings of optimiser classes and update functions share."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Container, Sequence

from numadam._core.docstrings import first_sentence, parameters, section
from numadam._core.options import OF_UPDATES
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


#: Entries of parameters of functions on arrays.
T = """\
t : int
    Number of this step: 1 at the first.
"""
STATE = """\
{} : array
    State, zeros before the first step; modified in place.
"""
#: State arrays that may be left out.
OPTIONAL_STATE = {
    "vmax": """\
vmax : array, optional
    Largest second moment so far, zeros before the first step: AMSGrad, "v" unless said otherwise;
    modified in place.
""",
    "mean": """\
mean : array, optional
    Mean of the gradient, zeros before the first step: RMSprop is centered; modified in place.
""",
    "m": """\
m : array, optional
    Momentum buffer, zeros before the first step; modified in place. It is there exactly where
    `momentum` is not 0.
""",
}
_UPDATE = """\
One step of {title} on arrays that the caller owns; formula as in `{title}`.

Parameters
----------
p : array or None
    Parameters, real or complex, NumPy or CuPy, any shape; modified in place. With `out` it may be
    None: the direction depends on them only by `weight_decay` and `bounds`.
g : array
    Gradient, of the shape and dtype of `p`; not modified.
{arrays}{t}{options}
    As in `{title}`, but no callables.
{optional}out : array, optional
    Gets the direction instead: `p` would become ``p + out``, and stays as it is.
**shared
{shared}

Raises
------
TypeError, ValueError
    Before anything is written: the message names the argument and says what to do.

References
----------
{references}

Examples
--------
{example}
"""


def example(module: str, function: str, state: Sequence[str], needs_t: bool) -> str:
    """An example: one step against a gradient of 1 and -1."""
    begin = ", ".join(["np.ones(2)", *["np.zeros(2)"] * len(state)])
    given = ", ".join(["p", "np.array([1.0, -1.0])", *state, *["1"] * needs_t, "lr=0.1"])
    return f"""\
>>> import numpy as np
>>> from {module} import {function}
>>> {", ".join(["p", *state])} = {begin}
>>> {function}({given})
>>> bool(p[0] < 1.0 < p[1])
True"""


def of_update(
    kind: type[OptimizerBase], title: str, signature: inspect.Signature, t: str
) -> str | None:
    """The docstring of an update function; `t` is the entry of that argument."""
    if kind.__doc__ is None:  # python -OO
        return None
    given, state = signature.parameters, kind.rule.state
    needed = [name for name in state if name in given and given[name].default is not None]
    absent = [name for name in state if name in given and name not in needed]
    options = [name for name, one in given.items() if one.kind is one.KEYWORD_ONLY]
    names = [f"`{name}`" for name in OF_UPDATES if name not in given]
    shared_names = f"{', '.join(names[:-1])} and {names[-1]}: see `numadam.Optimizer`."
    return _UPDATE.format(
        title=kind.__name__,
        arrays=STATE.format(", ".join(needed)) * bool(needed),
        t=t or T * kind.rule.needs_t,
        options=", ".join(name for name in options if name not in (*state, "out")),
        optional="".join(OPTIONAL_STATE.get(name, "") for name in absent),
        shared=textwrap.fill(shared_names, 90, initial_indent=_INDENT, subsequent_indent=_INDENT),
        references=section(kind.__doc__, "References").strip(),
        example=example("numadam", title, needed, kind.rule.needs_t),
    )
