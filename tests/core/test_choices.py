"""Options that take one of a few texts: one list for signatures and checks."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import pytest

import numadam
from numadam._core.hyper import AMSGrad, Like, Reduce, Sparse, check_choice, mismatch
from numadam._core.keywords import Shared
from numadam._core.options import DEFAULTS
from numadam._core.synonyms import LIKE
from numadam._optimizer.attributes import fixed, hyper

PACKAGE = Path(numadam.__file__).parent
#: The second has the names of the rules.
HOMES = {"_core/hyper.py", "_core/keywords.pyi"}


def test_every_library_has_its_habits_and_its_name():
    assert tuple(LIKE) == get_args(Like)


@pytest.mark.option
def test_every_option_has_a_type_and_is_an_attribute():
    assert Shared.__annotations__.keys() == DEFAULTS.keys()
    kinds = {name: type(vars(numadam.Optimizer).get(name)) for name in DEFAULTS}
    assert [name for name, kind in kinds.items() if kind not in (hyper, fixed)] == []


@pytest.mark.option
def test_choices_are_written_in_one_file():
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py*")
        if path.suffix in (".py", ".pyi")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("Literal")
    }
    assert found == HOMES


def test_the_text_names_the_option_its_choices_and_what_it_got():
    with pytest.raises(ValueError, match=r"^reduce: expected 'sum' or 'mean', got 'max'\.$"):
        check_choice("reduce", "max", Reduce)
    text = mismatch("amsgrad", 1, AMSGrad, (True, False))
    assert text == "amsgrad: expected True, False, 'v', 'vhat' or 'paper', got 1."


@pytest.mark.parametrize("value", [None, 1, ["sum"], b"sum", "SUM"])
def test_only_the_texts_are_taken(value):
    assert mismatch("reduce", value, Reduce)


def test_values_besides_texts_are_taken_by_identity():
    assert not mismatch("sparse", None, Sparse, (None,))
    assert not mismatch("sparse", "lazy", Sparse, (None,))
