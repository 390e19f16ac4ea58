"""The rules, one file each; files whose name begins with ``_`` hold what several share."""

from __future__ import annotations

from importlib import import_module
from typing import Any

#: The class in each file. Written by ``python -m tests.generate``, so that importing numadam
#: imports no rule.
CLASSES = {
    "adam": "Adam",
    "adamw": "AdamW",
    "nadam": "NAdam",
    "radam": "RAdam",
    "adamax": "AdaMax",
    "adabelief": "AdaBelief",
    "lion": "Lion",
    "rmsprop": "RMSprop",
    "sgd": "SGD",
    "adagrad": "Adagrad",
}


def function_name(file: str) -> str:
    """The name of a rule's function on the caller's own arrays."""
    return f"{file}_update"


def classes() -> dict[str, Any]:
    """Every public optimiser class by its name."""
    return {
        name: getattr(import_module(f"{__name__}.{file}"), name) for file, name in CLASSES.items()
    }
