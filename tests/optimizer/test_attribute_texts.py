"""Texts of options: one in the docstring of a class, read from there for help."""

from __future__ import annotations

import pydoc

import pytest

import numadam as na
from numadam import rules
from numadam._core.docstrings import first_sentence, parameters
from numadam._core.options import DEFAULTS
from numadam._optimizer.attributes import fixed, hyper

CLASSES = rules.classes()


@pytest.mark.parametrize("name", ["Adam", "Optimizer", "SGD"])
def test_every_option_has_its_text_as_an_attribute(name):
    kind = getattr(na, name)
    options = {n: one for n, one in vars(kind).items() if isinstance(one, (hyper, fixed))}
    texts = parameters(kind.__doc__)
    assert options
    for option, one in options.items():
        assert one.__doc__ == "\n".join(texts[option]), option


@pytest.mark.parametrize("name", CLASSES)
def test_help_has_a_line_for_each_option_of_every_rule(name):
    text = pydoc.render_doc(CLASSES[name], renderer=pydoc.plaintext)
    own = parameters(CLASSES[name].__doc__)
    for option in DEFAULTS.keys() - own.keys():
        assert f"- `{option}`: " in text, option
    assert not [option for option in own if f"- `{option}`: " in text]


@pytest.mark.parametrize("option", DEFAULTS)
def test_the_first_sentence_on_an_option_is_a_line(option):
    line = first_sentence(parameters(na.Optimizer.__doc__)[option][1])
    assert line.endswith(".")
    assert 15 < len(line) <= 88


def test_parameters_of_a_docstring_are_read():
    doc = """Line.

    Parameters
    ----------
    a : int
        One.

        More of it.
    b, c
        Two.
    d : {"x", "y"}, default "x"
        Three.

    Notes
    -----
    e : no parameter
    """
    found = {"a": ("int", "One.\n\nMore of it."), "d": ('{"x", "y"}, default "x"', "Three.")}
    assert parameters(doc) == found
    assert parameters("Line.") == parameters(None) == {}
