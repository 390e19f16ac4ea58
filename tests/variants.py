"""One set of options for each compiled formula of each rule: tests go through this table."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import numadam as na
from numadam import rules
from numadam._core import options as op
from numadam._optimizer import base
from numadam._settings.bounds import OPEN
from numadam._settings.settings import Settings
from tests import references

#: The function on the caller's own arrays of every rule, by the name of its class.
FUNCTIONS = {name: getattr(na, rules.function_name(file)) for file, name in rules.CLASSES.items()}
VARIANTS = {name: references.variants(file) for file, name in rules.CLASSES.items()}
CASES = {
    " ".join([name, *(f"{key}={value}" for key, value in options.items())]): (name, options)
    for name, rows in VARIANTS.items()
    for options in rows
}


def plan_of(name, options, dtype):
    """What a class would compile for these options, without compiling it."""
    cls = rules.classes()[name]
    parameters = inspect.signature(cls).parameters.values()
    defaults = {
        p.name: p.default for p in parameters if p.default is not p.empty and p.name != "lr"
    }
    given = {**defaults, **options}
    shared = {key: given.pop(key) for key in list(given) if key in op.DEFAULTS}
    checked = op.check(cls.rule, name, shared, given)
    return Settings(cls.rule, checked, [np.ones(2, dtype)], ["p"], [{}], [OPEN]).plan


class _NoEngine:
    """Takes the place of a back end where only the settings of an optimiser are asked for."""

    home = "NumPy"
    check_params = staticmethod(lambda params, names: None)

    def __init__(self, settings, params, names):
        self.state, self.params = {}, list(params)


def compile_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optimisers are made, with all checks of their options, and cannot step."""
    monkeypatch.setattr(base, "_backend", lambda library: _NoEngine)
