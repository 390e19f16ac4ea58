"""Texts that the docstrings of optimiser classes and update functions share."""

from __future__ import annotations

import textwrap
from collections.abc import Container

from numadam._core.docstrings import first_sentence, parameters
from numadam._core.keywords import FunctionalButDecay, FunctionalOptions
from numadam._core.options import DEFAULTS

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


def _options(kind: type) -> str:
    names = [f"`{name}`" for name in DEFAULTS if name in kind.__annotations__]
    text = f"{', '.join(names[:-1])} and {names[-1]}: see `numadam.Optimizer`."
    return f"**shared\n{textwrap.fill(text, 90, initial_indent=_INDENT, subsequent_indent=_INDENT)}"


#: By placeholder, for update functions.
OF_FUNCTIONS = {
    "p": """\
p : array or None
    Parameters, real or complex, NumPy or CuPy, any shape; modified in place. With `out` it may be
    None: the direction depends on them only by `weight_decay` and `bounds`.""",
    "g": """\
g : array
    Gradient, of the shape and dtype of `p`; not modified.""",
    "moments": """\
m, v : array
    First and second moment, zeros before the first step; modified in place.""",
    "vmax": """\
vmax : array, optional
    Largest second moment so far, zeros before the first step: AMSGrad; modified in place.""",
    "t": """\
t : int
    Number of this step: 1 at the first.""",
    "out": """\
out : array, optional
    Gets the direction instead: `p` would become ``p + out``, and stays as it is.""",
    "shared": _options(FunctionalOptions),
    "shared_but_decay": _options(FunctionalButDecay),
    "errors": """\
TypeError, ValueError
    Before anything is written: the message names the argument and says what to do.""",
}
