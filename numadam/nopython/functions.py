"""Texts of the functions of `nopython`, and their docstrings, made from the rules; NAdam's by hand.

A text is in the rule's default form. What is compiled for the dtype and the arrays that the user
has is chosen by their types, in `numadam.nopython.core`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from numadam._arrays.formatting import default_text, first_sentence, formula, parameters, section
from numadam._core import options as op
from numadam._core.rule import named
from numadam._core.text import parameters_of
from numadam._optimizer.declared import OPTIONAL_STATE, STATE, T, example
from numadam.nopython import core
from numadam.nopython.core import compiled, own
from numadam.rules import CLASSES, classes, function_name
from numadam.rules.nadam import NAdam

# --- docstrings of the compiled functions --------------------------------------------------------

_DOC = """\
{summary}

Parameters
----------
{parameters}
{section}
References
----------
{references}

Examples
--------
{example}
"""
#: Summary, parameters, a further section and example of a rule's functions.
_OF_KINDS = {
    "scalars": (
        "Scalars that all elements share at one step: the argument `h` of `{rule}_element`.",
        "{t}{numbers}{product}",
        """\
Returns
-------
tuple of float64
    The same for all elements, which round them to their dtype.
""",
        """\
>>> from numadam.nopython import {rule}_scalars
>>> h = {rule}_scalars({one}lr=0.1)""",
    ),
    "element": (
        "One step of one element; formula as in `{rule}_update`.",
        """\
p, g : float32 or float64
    Parameter and gradient. The computation is in the type of `p`.
{state}h : tuple of float
    From `{rule}_scalars`.
{optional}""",
        """\
Returns
-------
float, or tuple of float
    The new p; with state, the new p and state.
""",
        """\
>>> from numadam.nopython import {rule}_element, {rule}_scalars
>>> h = {rule}_scalars({one}lr=0.1)
>>> {results} = {rule}_element(1.0, 1.0, {zeros}h)
>>> p < 1.0
True""",
    ),
    "update": (
        """\
One step in place, inside compiled code; the same numbers as `numadam.{title}`.

{formula}""",
        """\
p : array
    Parameters, float32 or float64, any shape and layout; modified in place.
g : array
    Gradient, of the shape and dtype of `p`; not modified.
{arrays}{t}{numbers}{optional_arrays}{product_array}""",
        """\
Raises
------
ValueError
    For arguments that do not fit each other, such as arrays of different shapes, and for t below
    1. Different dtypes are a compile error. A CUDA kernel shows no such error: its thread ends.
""",
        "{example}",
    ),
}
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
    for name, argument in given.items():
        if isinstance(argument.default, float):
            kind, text = texts[name]
            values = re.split(r" or callable|, callable|, default", kind)[0]
            default = default_text(argument.default)
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
    keys = "summary", "parameters", "section", "example"
    found = {}
    for kind, parts in _OF_KINDS.items():
        filled = (part.format(**texts) for part in parts)
        fields = dict(zip(keys, filled, strict=True))
        found[f"{file}_{kind}"] = _DOC.format(references=texts["references"], **fields)
    return found


# --- texts ----------------------------------------------------------------------------------------

#: The source of the parts of a rule. `{state}` are the names of all state arrays; those that the
#: user does not have are None.
_PARTS = """
@own
def scalars_at(t, lr, weight_decay, {hypers}):
    if t < 1:
        raise ValueError("t: expected the number of this step, 1 at the first.")
    rate, step = np.float64(lr), np.float64(t)
    c = Hypers({converted})
    h = scalars(c, {products}, rate, step)
    return ({numbers}, rate * np.float64(weight_decay))

@own
def scalars_as(h, p):
    rounded = Scalars({rounded}, tiny_as(p), number_as(0.0, p))
    return rounded, number_as(h[{lost}], p)

@own
def each(p, g, {state}, h, lost):
    step, {state} = element({given}){decay}
    return p - step, {state}

@own
def element_at(p, g, {state}, h):
    h, lost = scalars_as(h, p)
    new = each(p, number_as(g, p), {of_type} h, lost)
    return present(new, (p, {state}))

@own
def change(i, p, g, {state}, h, lost):
    p[i], {new} = each(p[i], g[i], {items} h, lost)
    {puts}

@inlined
def walk(p, g, {state}, h, lost):
    if p.ndim == 1:
        for i in range(p.size):
            change(i, p, g, {state}, h, lost)
    else:
        for i in np.ndindex(p.shape):
            change(i, p, g, {state}, h, lost)

@own
def update_at(p, g, {state}, h):
    views = flat((p, g, {state}))
    {checks}
    h, lost = scalars_as(h, p)
    walk({views}, h, lost)
"""
_DECAY = """
    if lost != h.zero:  # 0 times an infinite p is NaN
        step = step + lost * p"""
_CHECK_SHAPE = """if {0} is not None:
        if {0}.shape != p.shape:
            raise ValueError("{0}: expected the shape of p.")
    """


def _parts(cls: Any) -> dict[str, Any]:
    """The compiled parts of a rule in its default form."""
    rule = cls.rule
    options, states = {**op.DEFAULTS, **rule.defaults}, rule.state
    formula = rule.formula(**rule.variant(options))
    fields, kind = rule.scalar_type._fields[:-2], rule.product_type
    products, own_products = "None", rule.own_products(None)
    if kind is not None:
        powers = (f"c.{name.removesuffix('_product')} ** step" for name in kind._fields)
        items = (
            name if name in own_products else power
            for name, power in zip(kind._fields, powers, strict=True)
        )
        products = f"Products({', '.join(items)})"
    hypers = [hyper.name for hyper in rule.hypers]
    switches = [repr(float(entry(options))) for entry in rule.control.values()]
    numbers = ["p", "g", *states, "h"]
    source = _PARTS.format(
        hypers=", ".join([*hypers, *own_products]),
        converted=", ".join([*(f"np.float64({name})" for name in hypers), *switches]),
        products=products,
        numbers=", ".join(f"h.{name}" for name in fields),
        rounded=", ".join(f"number_as(h[{k}], p)" for k in range(len(fields))),
        lost=len(fields),
        state=", ".join(states),
        given=", ".join("g * g" if n == "gg" else n for n in parameters_of(rule, formula)),
        decay=_DECAY if rule.decoupled else "",
        of_type="".join(f"number_as({name}, p), " for name in states),
        new=", ".join(f"new_{name}" for name in states),
        items="".join(f"item({name}, i), " for name in states),
        puts="; ".join(f"put({name}, i, new_{name})" for name in states),
        checks="".join(_CHECK_SHAPE.format(name) for name in ("g", *states)).rstrip(),
        views=", ".join(f"views[{k}]" for k in range(len(numbers) - 1)),
    )
    rule_name = cls.__name__
    made: dict[str, Any] = {
        "__name__": __package__,
        "np": np,
        "own": lambda function: own(function, rule_name),
        "inlined": lambda function: own(function, rule_name, forceinline=True),
        "Hypers": rule.hyper_type,
        "Products": kind,
        "Scalars": rule.scalar_type,
        "scalars": own(rule.compiled_scalars("", False), rule_name),
        "element": own(formula, rule_name),
        "flat": core.make_views(("p", "g", *states)),
    }
    made |= {
        name: getattr(core, name) for name in ("item", "number_as", "present", "put", "tiny_as")
    }
    exec(compile(source, f"<parts of {rule_name}>", "exec"), made)
    return made


# --- NAdam's product of momenta ------------------------------------------------------------------
# `of_rule` makes the other functions, and the docstrings.

_NADAM = _parts(NAdam)
_Hypers = _NADAM["Hypers"]
_advance = own(NAdam.rule.compiled_advance(""), "NAdam")
_Products = named("Products", ("mu_product",))


@compiled
def nadam_product(
    t: int, mu_product: float, beta1: float = 0.9, momentum_decay: float = 4e-3
) -> float:
    """The product of the momenta up to step t, from that of the step before.

    ``mu_product * mu_t`` with ``mu_t = beta1 * (1 - 0.96**(t*momentum_decay) / 2)``

    Parameters
    ----------
    t : int
        Number of the step: 1 at the first.
    mu_product : float
        The product before it: 1.0 at the first.
    beta1, momentum_decay : float
        As in `nadam_update`.

    Returns
    -------
    float64
        The `mu_product` that `nadam_scalars` takes at the next step.

    References
    ----------
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> from numadam.nopython import nadam_product, nadam_scalars
    >>> round(nadam_product(1, 1.0, momentum_decay=0.0), 6)
    0.45
    >>> nadam_scalars(2, mu_product=nadam_product(1, 1.0)) == nadam_scalars(2)
    True
    """
    c = _Hypers(np.float64(beta1), 0.0, 0.0, np.float64(momentum_decay))
    return _advance(c, _Products(np.float64(mu_product)), np.float64(t)).mu_product


@compiled
def product_before(t: int, beta1: float, momentum_decay: float) -> float:
    """The product of the momenta of all steps before step t."""
    product = 1.0
    for step in range(1, t):
        product = nadam_product(step, product, beta1, momentum_decay)
    return product


_NADAM |= {"nadam_product": nadam_product, "product_before": product_before}


# --- three functions for each rule ---------------------------------------------------------------

#: The source is written, since Numba needs a signature.
_SOURCE = """
from __future__ import annotations

def {rule}_scalars({scalars}) -> tuple[float, ...]:
    {product}return scalars_at({t}, lr, {decay}, {hypers})

def {rule}_element({element}) -> {numbers}:
    return element_at(p, g, {state}, h)

def {rule}_update({update}) -> None:
    {check}update_at(p, g, {state}, {rule}_scalars({values}))
"""
#: Of NAdam, whose product of momenta the caller may carry.
_PRODUCT_OF_SCALARS = """if mu_product is None:
        before = product_before(t, beta1, momentum_decay)
        mu = nadam_product(t, before, beta1, momentum_decay)
    else:
        mu = nadam_product(t, mu_product, beta1, momentum_decay)
    """
_PRODUCT_OF_UPDATE = """if mu_product is not None:
        if mu_product.size != 1 or mu_product.itemsize != 8:
            raise ValueError("mu_product: expected an array of one float64, np.ones(1).")
        update_at(p, g, {state}, nadam_scalars({values}, mu_product[0]))
        mu_product[0] = nadam_product(t, mu_product[0], beta1, momentum_decay)
        return
    """
_CHECK = """if m is None and momentum != 0.0:
        raise ValueError("m: momentum needs a buffer, zeros of the shape of p.")
    if m is not None and momentum == 0.0:
        raise ValueError("momentum: with a buffer m it needs a value above 0, e.g. 0.9.")
    """
#: The hyperparameter that needs the number of the step in a rule that has none here.
_LEFT_OUT = "dampening"


def _source(file: str, cls: Any) -> str:
    """The source of a rule's functions: arguments and defaults are those of ``NAME_update``."""
    in_python = getattr(import_module(cls.__module__), function_name(file))
    rule, given = cls.rule, inspect.signature(in_python).parameters
    hypers = [hyper.name for hyper in rule.hypers]
    usual = {
        name: argument.default
        for name, argument in given.items()
        if name in {"lr", "weight_decay", *hypers} - {_LEFT_OUT}
    }
    if rule.decoupled:
        usual.setdefault("weight_decay", 0.0)
    needed = [name for name in rule.state if given[name].default is inspect.Parameter.empty]
    absent = [name for name in rule.state if name not in needed]
    at_end = [name for name in absent if given[name].kind is inspect.Parameter.KEYWORD_ONLY]
    at_begin = [name for name in absent if name not in at_end]
    t, carried = ["t"] * rule.needs_t, rule.own_products(None)
    given_hypers = [name if name in usual else "0.0" for name in hypers]
    state, values = ", ".join(rule.state), ", ".join([*t, *usual])
    check = _CHECK if "m" in absent else ""
    if carried:
        check = _PRODUCT_OF_UPDATE.format(state=state, values=values)

    def declared(names: list[str], kind: str) -> str:
        kinds = {"t": "int", "h": "tuple[float, ...]"}
        kinds |= {name: "float = " + repr(value) for name, value in usual.items()}
        kinds |= dict.fromkeys((*absent, *carried), f"{kind} | None = None")
        return ", ".join(f"{name}: {kinds.get(name, kind)}" for name in names)

    return _SOURCE.format(
        rule=file,
        scalars=declared([*t, *usual, *carried], "float"),
        product=_PRODUCT_OF_SCALARS if carried else "",
        hypers=", ".join(given_hypers + ["mu"] * len(carried)),
        t="t" if t else "1",
        decay="weight_decay" if "weight_decay" in usual else "0.0",
        element=declared(["p", "g", *needed, "h", *absent], "Number"),
        numbers="tuple[Any, ...]" if needed else "Any",
        state=state,
        update=declared(["p", "g", *needed, *t, *at_begin, *usual, *at_end, *carried], "Array"),
        check=check,
        values=values,
    )


def of_rule(file: str, cls: Any) -> dict[str, Any]:
    """The compiled functions of a rule, by name."""
    made = _NADAM if cls is NAdam else _parts(cls)
    exec(compile(_source(file, cls), f"<numadam.nopython of {file}>", "exec"), made)
    functions = {name: made[name] for name in made if name.endswith("_product")}
    for name in [f"{file}_{kind}" for kind in ("scalars", "element", "update")]:
        made[name] = functions[name] = compiled(made[name])
    docs = documents(file, cls, inspect.signature(made[f"{file}_update"]))
    for name, doc in docs.items():
        made[name].__doc__ = getattr(made[name], "py_func", made[name]).__doc__ = doc
    return functions


FUNCTIONS = {
    name: function
    for file, cls in zip(CLASSES, classes().values(), strict=True)
    for name, function in of_rule(file, cls).items()
}
