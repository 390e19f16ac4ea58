"""Optimisers and update functions made from a declared rule, with their docstrings."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Container, Sequence
from typing import Any, TypeVar

from numadam._arrays.formatting import fill, first_sentence, parameters, section
from numadam._core import options as op
from numadam._core.hyper import NUMBER
from numadam._core.options import OF_UPDATES
from numadam._core.plan import STATE_SLOTS
from numadam._core.rule import RuleSpec
from numadam._core.synonyms import preset
from numadam._optimizer.base import OptimizerBase, with_options
from numadam._optimizer.functional import USUAL_LR, UpdateFunction
from numadam._optimizer.optimizer import Optimizer

# --- texts that the docstrings of optimiser classes and update functions share -------------------

_INDENT = "    "
_SHARED = "Options of every rule. `numadam.Optimizer` says more about each:"
_MEMBERS = "Methods and attributes of every rule, which ``help(numadam.Optimizer)`` describes:"

#: Shared options by purpose, in the order of the docstring of `Optimizer`.
PURPOSES = {
    "Stability": ("clip_norm", "clip_value", "nonfinite"),
    "Decay and bounds": ("weight_decay", "decoupled", "bounds"),
    "Averages": ("ema",),
    "Some of the arrays, or of their rows": ("groups", "sparse"),
    "Sign, and numbers of other libraries": ("maximize", "like"),
    "Rare": (
        *("clip_array_norm", "max_skips", "decay_times_lr", "ema_warmup", "ema_debias"),
        *("count", "complex_form", "comm"),
    ),
}

#: By placeholder, for classes.
OF_CLASSES = {
    "params": """\
params : array or nesting of lists, tuples and dicts of arrays
    Real or complex arrays of any shape, NumPy or CuPy, all of one dtype; modified in place by
    `step`.""",
    "lr": """\
lr : float >= 0, callable, array, or nesting of these, default {default}
    Learning rate, in units of the parameters. A callable gets the number of steps already
    taken, 0 at the first. An array sets it by element, a nesting as that of `params` by array.""",
    "beta1": """\
beta1 : float in [0, 1) or callable, default {default}
    Decay of the first moment `m`, the running mean of the gradient.""",
    "beta2": """\
beta2 : float in [0, 1) or callable, default {default}
    Decay of the second moment `v`.""",
    "eps": """\
eps : float >= 0 or callable, default {default}
    Added to the root, in units of the gradient. If the sum is 0, the element does not move.""",
    "eps_root": """\
eps_root : float >= 0 or callable, default {default}
    Added under the root, in units of the gradient squared.""",
}


def members() -> dict[str, Any]:
    """Methods and properties that all optimisers have; lr and params are parameters, too."""
    return {
        name: member
        for name, member in inspect.getmembers(Optimizer)
        if isinstance(member, property) or inspect.isfunction(member)
        if not name.startswith("_") and name not in ("lr", "params")
    }


def shared(doc: str | None, declared: Container[str]) -> str:
    """Lines on the options of a docstring, that of `Optimizer`, which a rule has not `declared`.

    Each is the first sentence on the option. Methods and attributes follow, in a section of notes.
    """
    texts = parameters(doc)
    lines = [f"{_INDENT}{_SHARED}", ""]
    for purpose, names in PURPOSES.items():
        lines.append(f"{_INDENT}{purpose}")
        lines += [
            f"{_INDENT}    - `{name}`: {first_sentence(texts[name][1])}"
            for name in names
            if name in texts and name not in declared
        ]
    lines_on_members = [
        f"- `{name}`: {first_sentence(inspect.getdoc(member) or '')}"
        for name, member in members().items()
    ]
    return "\n".join(["**shared", *lines, "", "Notes", "-----", _MEMBERS, "", *lines_on_members])


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
    Largest second moment so far, zeros before the first step: selects AMSGrad, by default
    form "v"; modified in place.
""",
    "mean": """\
mean : array, optional
    Mean of the gradient, zeros before the first step: selects centered RMSprop; modified in place.
""",
    "m": """\
m : array, optional
    Momentum buffer, zeros before the first step; modified in place. Pass it exactly
    if `momentum` is not 0.
""",
}
_UPDATE = """\
One step of {title} on arrays that the caller owns; formula as in `{title}`.

Parameters
----------
p : array or None
    Parameters, real or complex, NumPy or CuPy, any shape; modified in place. With `out` it may be
    None: the update needs them only for `weight_decay` and `bounds`.
g : array
    Gradient, of the shape and dtype of `p`; not modified.
{arrays}{t}{options}
    As in `{title}`, but no callables.
{optional}out : array, optional
    Receives the update: `p` would become ``p + out``, but is not changed.
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
    options = [name for name, p in given.items() if p.kind is p.KEYWORD_ONLY]
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


# --- optimiser classes and update functions from the tables of their rules -----------------------
# A rule has the defaults and types of its options (`RuleSpec`), and a class its docstring. The rest
# is the same for all rules and is here: signatures, presets, which option goes where, and the
# function beside the class.

AnOptimizer = TypeVar("AnOptimizer", bound=OptimizerBase)
#: Options by name as a caller gives them: lr, those of the rule, those that all rules share.
Sorted = tuple[Any, dict[str, Any], dict[str, Any]]
_PLACE, _BY_NAME = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY


def _sorter(
    kind: type[OptimizerBase], omit: tuple[str, ...] = ()
) -> Callable[[dict[str, Any]], Sorted]:
    """The function that sorts given options, all but those in `omit`, which no preset sets then.

    What is not given is as the preset has it, else as the default.
    """
    rule, title = kind.rule, kind.__name__
    usual_shared, usual = op.parted({"lr": rule.lr, **rule.defaults})

    def sort(given: dict[str, Any]) -> Sorted:
        values, shared = usual.copy(), usual_shared.copy()
        like = given.get("like")
        if like is not None:
            of_library = preset(rule.presets, title, like)
            known = {*op.DEFAULTS, *usual}.difference(omit)
            given = {**{name: of_library[name] for name in of_library.keys() & known}, **given}
        for name, value in given.items():
            place = values if name in usual and name not in omit else shared
            place[name] = value
        return values.pop("lr"), values, shared

    return sort


def _compiled(source: str, title: str, names: dict[str, Any]) -> Callable[..., Any]:
    """The function of this source, as `dataclasses` writes its own: Python binds its arguments.

    It says what is wrong with them, in 0.1 us instead of 3.
    """
    exec(compile(source, f"<{title}>", "exec"), names)
    made: Callable[..., Any] = names[title]
    return made


def _signature_of_class(rule: RuleSpec) -> inspect.Signature:
    shared = "SharedButDecay" if "weight_decay" in rule.defaults else "Shared"
    options = [
        inspect.Parameter(name, _BY_NAME, default=rule.defaults[name], annotation=annotation)
        for name, annotation in rule.all_kinds.items()
    ]
    return inspect.Signature(
        [
            inspect.Parameter("self", _PLACE),
            inspect.Parameter("params", _PLACE, annotation="Any"),
            inspect.Parameter("lr", _PLACE, default=rule.lr, annotation="Rate"),
            *options,
            inspect.Parameter(
                "shared", inspect.Parameter.VAR_KEYWORD, annotation=f"Unpack[{shared}]"
            ),
        ],
        return_annotation="None",
    )


def optimizer_class(kind: type[AnOptimizer]) -> type[AnOptimizer]:
    """Write ``__init__`` and the shared texts of the docstring of a rule's class."""
    rule, title = kind.rule, kind.__name__
    by_name = ["*", *(f"{name}=None" for name in rule.defaults)] if rule.defaults else []
    given_by = ", ".join(["self", "params", "lr=None", *by_name, "**shared"])
    source = f"def __init__({given_by}):\n    return params"
    function, sort = _compiled(source, "__init__", {}), _sorter(kind)
    function.__module__, function.__qualname__ = kind.__module__, f"{title}.__init__"
    function.__signature__ = _signature_of_class(rule)  # type: ignore[attr-defined]  # functions may have one

    @functools.wraps(function)
    def init(self: AnOptimizer, *args: Any, **given: Any) -> None:
        if len(args) > 2:
            raise TypeError(
                f"{title}: params and lr go by position, all else by name, as in "
                f"{title}(params, lr, {(*rule.defaults, 'weight_decay')[0]}=...)."
            )
        params = function(self, *args, **given)  # Python refuses what does not fit
        given.pop("params", None)
        if len(args) == 2:
            given["lr"] = args[1]
        lr, values, shared = sort(given)
        self._setup(params, lr, shared, values)

    kind.__init__ = init  # type: ignore[method-assign, assignment]  # of its signature
    texts = {**OF_CLASSES, "shared": shared(Optimizer.__doc__, rule.defaults)}
    kind.__doc__ = fill(kind.__doc__, texts, {"lr": rule.lr, **rule.defaults})
    changeable = [name for name, annotation in rule.all_kinds.items() if annotation == NUMBER]
    return with_options(kind, rule.defaults, changeable)


def _signature_of_update(
    kind: type[OptimizerBase], omit: tuple[str, ...], optional: tuple[str, ...]
) -> inspect.Signature:
    """The signature of a rule's step on given arrays, as it follows from that of the class."""
    rule = kind.rule
    _, _, *options, shared = _signature_of_class(rule).parameters.values()  # self and params first
    present = rule.present({**op.DEFAULTS, **rule.defaults})
    needed = [name for name in rule.state if name in present] + ["t"] * rule.needs_t
    absent = [name for name in rule.state if name not in (*needed, *optional)]
    kinds = {"t": "int | None" if "t" in optional else "int"}
    others = "FunctionalButDecay" if "weight_decay" in rule.defaults else "FunctionalOptions"

    def option(p: inspect.Parameter) -> inspect.Parameter:
        number = p.name == "lr" or p.annotation == NUMBER
        return p.replace(kind=_BY_NAME, annotation="float" if number else p.annotation)

    def array(name: str, kind: Any, default: Any = None) -> inspect.Parameter:
        return inspect.Parameter(name, kind, default=default, annotation=kinds.get(name, "Any"))

    return inspect.Signature(
        [
            *(array(name, _PLACE, inspect.Parameter.empty) for name in ("p", "g", *needed)),
            *(array(name, _PLACE) for name in optional),
            *(option(p) for p in options if p.name not in omit),
            *(array(name, _BY_NAME) for name in (*absent, "out")),
            shared.replace(annotation=f"Unpack[{others}]"),
        ],
        return_annotation="None",
    )


def update_function(
    kind: type[OptimizerBase],
    by_arrays: Callable[[dict[str, Any], dict[str, Any]], None] | None = None,
    *,
    omit: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
    t: str = "",
) -> Callable[..., None]:
    """The rule's step on given arrays: signature, body and docstring follow from the class.

    Parameters
    ----------
    kind : type
        The rule's class.
    by_arrays : callable, optional
        ``by_arrays(arguments, options)`` changes options of the rule that follow from which arrays
        are given, and refuses some.
    omit : tuple of str
        Options that the function does not take: they are as in the class.
    optional : tuple of str
        State arrays, and t, that may be given by place, or not at all.
    t : str
        Entry of that argument in the docstring, where it is not that of other rules.
    """
    signature, title = _signature_of_update(kind, omit, optional), f"{kind.__name__.lower()}_update"
    counts = kind.rule.needs_t and "t" not in optional
    step = UpdateFunction(kind.rule, title, _sorter(kind, omit), by_arrays, counts).step
    made = _by_slot(signature, title, kind.rule.state, step)
    made.__module__, made.__doc__ = kind.__module__, of_update(kind, title, signature, t)
    made.__signature__ = signature  # type: ignore[attr-defined]  # functions may have one
    return made


def _by_slot(
    signature: inspect.Signature, title: str, state: tuple[str, ...], step: Callable[..., None]
) -> Callable[..., None]:
    """The function of this signature: it sorts its arrays by slot, and hands on the rest.

    That of Adam is::

        def adam_update(p, g, m, v, t, *, lr=lr, vmax=None, out=None, **given):
            step((g if p is None else p, g, m, v, vmax, out),
                 (p is None, vmax is None, out is None), t, lr, given)
    """
    given = signature.parameters
    places = [name for name, p in given.items() if p.kind is _PLACE]
    optional = [name for name, p in given.items() if p.default is not p.empty]
    by_place = [f"{name}=None" if name in optional else name for name in places]
    by_name = [f"{name}=None" for name in state if name in optional and name not in places]
    slots = [name if name in places or name in optional else "None" for name in state]
    slots += ["None"] * (STATE_SLOTS - len(state))
    absent = [f"{name} is None" for name in ("p", *state, "t", "out") if name in ("p", *optional)]
    source = (
        f"def {title}({', '.join([*by_place, '*', 'lr=lr', *by_name, 'out=None'])}, **given):\n"
        f"    step((g if p is None else p, g, {', '.join(slots)}, out), ({', '.join(absent)}), "
        f"{'t' if 't' in places else '1'}, lr, given)\n"
    )
    return _compiled(source, title, {"step": step, "lr": USUAL_LR})
