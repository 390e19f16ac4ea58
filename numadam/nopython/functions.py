"""Functions of `nopython`, made from the rules; NAdam's by hand."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import numpy as np

from numadam._jit.functions import jit_once
from numadam.nopython.core import Array, compiled, kit
from numadam.nopython.texts import documents
from numadam.nopython.typed import doubles, present
from numadam.rules import CLASSES, classes, function_name
from numadam.rules.nadam import NAdam, Products, advance

# --- NAdam's product of momenta ------------------------------------------------------------------
# `numadam.nopython.functions` makes the other functions, and the docstrings.

_Hypers, _, _, _walk, _scalars = kit(NAdam)
_advance = jit_once(advance)


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
    own = _Hypers(beta1=beta1, beta2=0.0, eps=0.0, momentum_decay=momentum_decay)
    before = Products(mu_product=np.float64(mu_product))
    return _advance(doubles(own), before, np.float64(t), False).mu_product


@compiled
def _product_before(t: int, beta1: float, momentum_decay: float) -> float:
    product = 1.0
    for step in range(1, t):
        product = nadam_product(step, product, beta1, momentum_decay)
    return product


@compiled
def nadam_scalars(
    t: int,
    lr: float = 2e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    momentum_decay: float = 4e-3,
    weight_decay: float = 0.0,
    mu_product: float | None = None,
) -> tuple[float, ...]:
    """Scalars of one step."""
    own = _Hypers(beta1=beta1, beta2=beta2, eps=eps, momentum_decay=momentum_decay)
    if mu_product is None:
        before = _product_before(t, beta1, momentum_decay)
        product = nadam_product(t, before, beta1, momentum_decay)
    else:
        product = nadam_product(t, mu_product, beta1, momentum_decay)
    return _scalars(own, (product,), t, lr, weight_decay)


@compiled
def nadam_update(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    t: int,
    lr: float = 2e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    momentum_decay: float = 4e-3,
    weight_decay: float = 0.0,
    mu_product: Array | None = None,
) -> None:
    """One step in place."""
    own = (lr, beta1, beta2, eps, momentum_decay, weight_decay)
    if mu_product is None:
        _walk(p, g, (m, v), nadam_scalars(t, *own))
    else:
        if mu_product.size != 1 or mu_product.itemsize != 8:
            raise ValueError("mu_product: expected an array of one float64, np.ones(1).")
        _walk(p, g, (m, v), nadam_scalars(t, *own, mu_product[0]))
        mu_product[0] = nadam_product(t, mu_product[0], beta1, momentum_decay)


# --- three functions for each rule ---------------------------------------------------------------

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
    functions = {name: one for name, one in globals().items() if name.startswith(f"{file}_")}
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
