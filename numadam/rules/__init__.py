"""The table of rules. A rule is one file here, one line below, and its names in `__init__.pyi`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

#: file: (class, function on the caller's own arrays)
TABLE = {
    "adam": ("Adam", "adam_update"),
    "adamw": ("AdamW", "adamw_update"),
    "nadam": ("NAdam", "nadam_update"),
    "radam": ("RAdam", "radam_update"),
    "adamax": ("AdaMax", "adamax_update"),
    "adabelief": ("AdaBelief", "adabelief_update"),
    "lion": ("Lion", "lion_update"),
    "rmsprop": ("RMSprop", "rmsprop_update"),
    "sgd": ("SGD", "sgd_update"),
    "adagrad": ("Adagrad", "adagrad_update"),
}


def classes() -> dict[str, Any]:
    """Every public optimiser class by its name."""
    return {
        name: getattr(import_module(f"{__name__}.{file}"), name)
        for file, (name, _) in TABLE.items()
    }
