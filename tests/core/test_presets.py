"""like=...: the defaults and the arithmetic of other libraries."""

from __future__ import annotations

import inspect
import math
import re
from pathlib import Path

import numpy as np
import pytest

import numadam as na
from numadam import rules
from numadam._core import options as op
from numadam._core.synonyms import LIKE
from numadam._optimizer.base import OptimizerBase
from numadam._optimizer.functional import UpdateFunction
from numadam._optimizer.optimizer import Optimizer

RULES = rules.classes()
FUNCTIONS = rules.functions()

# --- defaults ------------------------------------------------------------------------------------

#: from the documentation of the libraries (optax has no default of lr): what a class starts with
DOCUMENTED = {
    "torch": {
        "Adam": {"lr": 1e-3, "eps": 1e-8, "weight_decay": 0, "decoupled": False},
        "AdamW": {"lr": 1e-3, "eps": 1e-8, "weight_decay": 0.01, "decoupled": True},
        "NAdam": {"lr": 2e-3, "eps": 1e-8, "momentum_decay": 4e-3, "decoupled": False},
        "RAdam": {"lr": 1e-3, "eps": 1e-8, "weight_decay": 0, "decoupled": False},
        "AdaMax": {"lr": 2e-3, "eps": 1e-8, "eps_form": "norm", "decoupled": False},
        "RMSprop": {"lr": 1e-2, "beta2": 0.99, "eps": 1e-8, "momentum": 0, "centered": False},
        "SGD": {"lr": 1e-3, "momentum": 0, "dampening": 0, "nesterov": False},
        "Adagrad": {"lr": 1e-2, "eps": 1e-10, "eps_root": 0, "decoupled": False},
    },
    "keras": {
        "Adam": {"lr": 1e-3, "eps": 1e-7, "decoupled": True, "eps_form": "hat"},
        "AdamW": {"lr": 1e-3, "eps": 1e-7, "weight_decay": 0.004},
        "NAdam": {"lr": 1e-3, "eps": 1e-7, "decoupled": True, "momentum_decay": 1},
        "AdaMax": {"lr": 1e-3, "eps": 1e-7, "eps_form": "denominator", "decoupled": True},
        "Lion": {"lr": 1e-3, "beta1": 0.9, "beta2": 0.99},
        "RMSprop": {"lr": 1e-3, "beta2": 0.9, "eps": 0, "eps_root": 1e-7, "decoupled": True},
        "SGD": {"lr": 1e-2, "momentum": 0, "nesterov": False, "decoupled": True},
        "Adagrad": {"lr": 1e-3, "eps": 0, "eps_root": 1e-7, "decoupled": True},
    },
    "tf1": {"Adam": {"lr": 1e-3, "eps": 1e-8, "eps_form": "hat"}},
    "qiskit": {"Adam": {"lr": 1e-3, "beta2": 0.99, "eps": 1e-8, "eps_form": "hat"}},
    "quimb": {"Adam": {"lr": 1e-3, "eps": 1e-8, "eps_form": "paper"}},
    "optax": {
        "Adam": {"eps": 1e-8, "eps_root": 0},
        "AdamW": {"eps": 1e-8, "weight_decay": 1e-4, "decoupled": True},
        "NAdam": {"eps": 1e-8, "momentum_decay": math.inf},
        "RAdam": {"eps": 1e-8, "eps_form": "paper"},
        "AdaMax": {"eps": 1e-8, "eps_form": "norm"},
        "AdaBelief": {"eps": 1e-16, "eps_root": 1e-16},
        "Lion": {"beta1": 0.9, "beta2": 0.99, "weight_decay": 1e-3},
        "RMSprop": {"beta2": 0.9, "eps": 0, "eps_root": 1e-8, "momentum": 0},
        "SGD": {"momentum": 0, "nesterov": False},
        "Adagrad": {"eps": 0, "eps_root": 1e-7},
    },
    "sklearn": {"Adam": {"lr": 1e-3, "eps": 1e-8, "eps_form": "hat"}},
    "numpy": {"Adam": {"lr": 1e-3, "eps": 1e-8, "eps_form": "paper"}},
}
DOCUMENTED["keras-jax"] = DOCUMENTED["keras"]


def test_lists_of_presets_are_whole():
    """The docstring, and the first column of the table in the docs."""
    text = inspect.getdoc(Optimizer)
    (choices,) = re.findall(r"like : str, optional\n(.*?)All\s+but", text, re.DOTALL)
    assert tuple(re.findall(r'"([\w-]+)"', choices)) == tuple(LIKE)
    page = Path(__file__).parents[2] / "docs" / "explanation" / "other-libraries.md"
    rows = re.findall(r'^\| `"([\w-]+)"` \|.*\|$', page.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted([*LIKE, "vhat", "paper"])  # two are AMSGrad's


PAIRS = [(like, name) for like in LIKE for name in DOCUMENTED[like]]


class Found(Exception):
    """The options of a function, which ends there."""


@pytest.fixture(params=["class", "function"])
def options_of(request, monkeypatch):
    """``options_of(name, ...)``: the options that a class or a function comes to; none is made."""
    seen = []

    def settings_of(self, dtype, arrays, absent, t, given):
        seen.append(self._sort(given))
        raise Found

    # what it hands on ends with lr, shared, own
    monkeypatch.setattr(
        OptimizerBase, "_setup", lambda *args: seen.append((args[2], args[-1], args[-2]))
    )
    monkeypatch.setattr(UpdateFunction, "_settings_of", settings_of)

    def find(name, *lr, **options):
        rule = RULES[name]
        if request.param == "class":
            rule(np.ones(2), *lr, **options)
            rate, own, shared = seen.pop()
        else:
            function, one = FUNCTIONS[name], np.ones((1, 2, 1, 1))  # no other test has these
            parameters = inspect.signature(function).parameters
            needed = [p.name for p in parameters.values() if p.default is p.empty and p.kind < 2]
            if "centered" not in parameters:  # RMSprop: that is so where there is an array
                options.pop("centered", None)
            with pytest.raises(Found):
                function(*(1 if key == "t" else one for key in needed), **options)
            usual, own, shared = seen.pop()
            rate = options.get("lr", lr[0] if lr else usual)  # here it is by name only
        return op.check(rule.rule, name, shared, own) | {"lr": rate}

    return find


@pytest.mark.parametrize(("like", "name"), PAIRS)
def test_defaults_are_those_of_the_library(like, name, options_of):
    options = options_of(name, like=like)
    expected = {"beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0, **DOCUMENTED[like][name]}
    expected["complex_form"] = "modulus" if like == "optax" else "parts"
    for option in expected.keys() & options.keys():
        assert options[option] == expected[option], option
    assert expected.keys() - options.keys() <= {"beta1", "beta2"}
    assert options["like"] == like


@pytest.mark.parametrize(("like", "name"), PAIRS)
def test_keyword_goes_before_the_preset(like, name, options_of):
    given = {**DOCUMENTED[like][name], "lr": 0.123}
    given |= dict.fromkeys(given.keys() & {"eps", "weight_decay", "momentum_decay"}, 0.25)
    options = options_of(name, like=like, **given)
    assert {option: options[option] for option in given} == given
    usual = inspect.signature(RULES[name]).parameters["lr"].default
    assert options_of(name, like=like, lr=usual)["lr"] == usual
    assert options_of(name, usual, like=like)["lr"] == usual


@pytest.mark.rule
@pytest.mark.parametrize("name", RULES)
def test_what_no_library_has_is_refused(name):
    for like in LIKE:
        if name not in DOCUMENTED[like]:
            with pytest.raises(ValueError, match=f"^like: '{like}' has no {name}; "):
                RULES[name](np.ones(2), like=like)
    for like in ("jax", "Torch", "", 1):
        with pytest.raises(ValueError, match=r"^like: expected one of 'torch', 'keras', "):
            RULES[name](np.ones(2), like=like)


def test_the_same_rule_under_another_class_is_named():
    with pytest.raises(ValueError, match=r"has no AdamW; write na.Adam\(..., decoupled=True"):
        na.AdamW(np.ones(2), like="numpy")
    na.Adam(np.ones(2), like="numpy", decoupled=True, weight_decay=0.01)
