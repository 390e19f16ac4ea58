"""Presets: the defaults and the arithmetic of other libraries, asked for by ``like="torch"``.

A preset is a set of keywords that stand in for the defaults; an explicit keyword goes before it.
What it changes in the arithmetic, the rules read from the option `like` itself.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, ParamSpec

from numadam._core import options as op

P = ParamSpec("P")

LIKE = ("torch", "keras", "tf1", "optax", "sklearn", "numpy")

#: library: {class: keywords}. A class that is not listed does not exist there.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "torch": {
        "Adam": {"lr": 1e-3, "eps": 1e-8},
        "AdamW": {"lr": 1e-3, "eps": 1e-8, "weight_decay": 1e-2},
        "NAdam": {"lr": 2e-3, "eps": 1e-8, "momentum_decay": 4e-3, "decoupled": False},
        "RAdam": {"lr": 1e-3, "eps": 1e-8, "eps_form": "hat", "decoupled": False},
        "AdaMax": {"lr": 2e-3, "eps": 1e-8, "eps_form": "norm", "decoupled": False},
        "RMSprop": {"lr": 1e-2, "beta2": 0.99, "eps": 1e-8},
        "SGD": {"lr": 1e-3},
        "Adagrad": {"lr": 1e-2, "eps": 1e-10},
    },
    "keras": {
        "Adam": {"lr": 1e-3, "eps": 1e-7, "eps_form": "hat", "decoupled": True},
        "AdamW": {"lr": 1e-3, "eps": 1e-7, "eps_form": "hat", "weight_decay": 4e-3},
        "NAdam": {"lr": 1e-3, "eps": 1e-7, "momentum_decay": 1.0},
        "AdaMax": {"lr": 1e-3, "eps": 1e-7, "eps_form": "denominator"},
        "Lion": {"lr": 1e-3, "beta2": 0.99},
        "RMSprop": {"lr": 1e-3, "beta2": 0.9, "eps": 0.0, "eps_root": 1e-7, "decoupled": True},
        "SGD": {"lr": 1e-2, "decoupled": True},
        "Adagrad": {
            "lr": 1e-3,
            "eps": 0.0,
            "eps_root": 1e-7,
            "initial_accumulator": 0.10000000149011612,  # it holds 0.1 in float32
            "decoupled": True,
        },
    },
    "tf1": {"Adam": {"lr": 1e-3, "eps": 1e-8, "eps_form": "hat"}},
    # it has no default of lr; its nadam has no schedule of the momentum
    "optax": {
        "Adam": {"lr": 1e-3, "eps": 1e-8, "complex_form": "modulus"},
        "AdamW": {"lr": 1e-3, "eps": 1e-8, "weight_decay": 1e-4, "complex_form": "modulus"},
        "NAdam": {"eps": 1e-8, "momentum_decay": math.inf, "complex_form": "modulus"},
        "RAdam": {"eps": 1e-8, "eps_form": "paper", "complex_form": "modulus"},
        "AdaMax": {"eps": 1e-8, "eps_form": "norm", "complex_form": "modulus"},
        "AdaBelief": {"eps": 1e-16, "eps_root": 1e-16, "complex_form": "modulus"},
        "Lion": {"beta2": 0.99, "weight_decay": 1e-3, "complex_form": "modulus"},
        "RMSprop": {"beta2": 0.9, "eps": 0.0, "eps_root": 1e-8, "complex_form": "modulus"},
        "SGD": {"complex_form": "modulus"},
        "Adagrad": {
            "eps": 0.0,
            "eps_root": 1e-7,
            "initial_accumulator": 0.1,
            "complex_form": "modulus",
        },
    },
    "sklearn": {"Adam": {"lr": 1e-3, "eps": 1e-8, "eps_form": "hat"}},
    "numpy": {"Adam": {"lr": 1e-3, "eps": 1e-8}},
}


def preset(title: str, like: Any) -> dict[str, Any]:
    """The keywords of one class in one library.

    Raises
    ------
    ValueError
        For a library that is not known, and for a class that it does not have.
    """
    if like not in PRESETS:
        raise ValueError(f"like: expected one of {', '.join(map(repr, LIKE))}, got {like!r}.")
    known = PRESETS[like]
    if title not in known:
        there = [name for name in LIKE if title in PRESETS[name]]
        raise ValueError(
            f"like: {like!r} has no {title}; "
            + (f"use one of {', '.join(map(repr, there))}." if there else "leave it out.")
        )
    return known[title]


def with_presets(title: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Let ``like="..."`` give the keywords of a constructor or step that its caller does not.

    `title` is the class whose presets these are.
    """

    def wrap(function: Callable[P, None]) -> Callable[P, None]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> None:
            like = kwargs.get("like")
            if like is not None:
                given = {**signature.bind_partial(*args, **kwargs).arguments, **kwargs}
                takes = {*signature.parameters, *op.Shared.__annotations__}
                for name, value in preset(title, like).items():
                    if name not in given and name in takes:
                        kwargs[name] = value
            function(*args, **kwargs)

        return call

    return wrap
