"""Three functions for each rule, made from its class: scalars of a step, an element, arrays."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from numadam.nopython import nadam
from numadam.nopython.core import compiled, kit
from numadam.nopython.texts import documents
from numadam.nopython.typed import present
from numadam.rules import CLASSES, classes, function_name

#: The source is written, since Numba needs a signature. Names that begin with ``_`` are of `Kit`.
_SOURCE = """
from __future__ import annotations

def {rule}_scalars({scalars}) -> tuple[float, ...]:
    return _scalars(_Hypers({hypers}), {t}, lr, {decay})

def {rule}_element({element}) -> {numbers}:
    return present(_element(p, g, ({state}), h), (p, {state}))

def {rule}_update({update}) -> None:
    {check}_walk(p, g, ({state}), {rule}_scalars({values}))
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
        name: one.default
        for name, one in given.items()
        if name in {"lr", "weight_decay", *hypers} - {_LEFT_OUT}
    }
    if rule.decoupled:
        usual.setdefault("weight_decay", 0.0)
    needed = [name for name in rule.state if given[name].default is inspect.Parameter.empty]
    absent = [name for name in rule.state if name not in needed]
    at_end = [name for name in absent if given[name].kind is inspect.Parameter.KEYWORD_ONLY]
    at_begin = [name for name in absent if name not in at_end]
    t = ["t"] * rule.needs_t

    def declared(names: list[str], kind: str) -> str:
        kinds = {"t": "int", "h": "tuple[float, ...]"}
        kinds |= {name: "float = " + repr(value) for name, value in usual.items()}
        kinds |= dict.fromkeys(absent, f"{kind} | None = None")
        return ", ".join(f"{name}: {kinds.get(name, kind)}" for name in names)

    return _SOURCE.format(
        rule=file,
        scalars=declared([*t, *usual], ""),
        hypers=", ".join(f"{name}={name if name in usual else 0.0}" for name in hypers),
        t="t" if t else "1",
        decay="weight_decay" if "weight_decay" in usual else "0.0",
        element=declared(["p", "g", *needed, "h", *absent], "Number"),
        numbers="tuple[Any, ...]" if needed else "Any",
        state="".join(f"{name}, " for name in rule.state),
        update=declared(["p", "g", *needed, *t, *at_begin, *usual, *at_end], "Array"),
        check=_CHECK if "m" in absent else "",
        values=", ".join([*t, *usual]),
    )


def of_rule(file: str, cls: Any) -> dict[str, Any]:
    """The compiled functions of a rule, by name."""
    parts = {f"_{name}": part for name, part in kit(cls)._asdict().items()}
    made = {"__name__": __package__, "present": present, **parts}
    exec(compile(_source(file, cls), f"<numadam.nopython of {file}>", "exec"), made)
    functions = {name: one for name, one in vars(nadam).items() if name.startswith(f"{file}_")}
    for name in [f"{file}_{kind}" for kind in ("scalars", "element", "update")]:
        made[name] = functions[name] = functions.get(name) or compiled(made[name])
    docs = documents(file, cls, inspect.signature(made[f"{file}_update"]))
    for name, doc in docs.items():
        made[name].__doc__ = getattr(made[name], "py_func", made[name]).__doc__ = doc
    return functions


FUNCTIONS = {
    name: function
    for file, cls in zip(CLASSES, classes().values(), strict=True)
    for name, function in of_rule(file, cls).items()
}
