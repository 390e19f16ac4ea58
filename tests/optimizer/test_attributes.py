"""Attributes of an optimiser: set between steps, fixed, shown; what optimisers share."""

from __future__ import annotations

import ast
import copy
import gc
import inspect
import pydoc
import weakref
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

import numadam as na
from numadam import rules
from numadam._arrays.formatting import parameters
from numadam._core.options import DEFAULTS, SETTABLE
from numadam._optimizer.base import default_options, fixed, hyper, setting
from numadam._optimizer.declared import PURPOSES
from tests.runs import compiled_step


def test_momentum_changes_but_not_from_or_to_zero():
    """Zero has no buffer: that is another optimiser."""
    p = np.zeros(2)
    opt = na.SGD(p, lr=1.0, momentum=0.5)
    opt.step(np.ones(2))
    opt.momentum = 0.25
    opt.step(np.ones(2))
    assert p.tolist() == [-2.25, -2.25]
    with pytest.raises(ValueError, match="new optimiser"):
        opt.momentum = 0.0
    with pytest.raises(ValueError, match="new optimiser"):
        na.SGD(np.ones(3)).momentum = 0.9
    nesterov = na.SGD(p, momentum=0.5, nesterov=True)
    with pytest.raises(ValueError, match=r"^nesterov: "):
        nesterov.momentum = 0.0
    assert nesterov.momentum == 0.5


# --- what optimisers of the same options share ----------------------------------------------------


def test_what_two_optimisers_share_is_never_written():
    """A second optimiser of the same options copies what the first has computed."""
    x, y = np.zeros(5), np.zeros(5)
    options = {"clip_norm": 1.0}
    one, two = na.Adam(x, **options), na.Adam(y, **options)
    one.clip_norm, one.beta1, one.lr = 2.0, 0.5, 0.25
    assert (two.clip_norm, two.beta1, two.lr) == (1.0, 0.9, 0.001)
    three = na.Adam(np.zeros(5), **options)
    assert (three.clip_norm, three.beta1) == (1.0, 0.9)
    one.step(np.ones(5))
    assert (two.t, two.skipped, three.t) == (0, 0, 0)
    assert not two.state["m"].any()
    np.testing.assert_array_equal(y, 0.0)


def test_options_that_are_equal_but_not_the_same():
    """1, 1.0 and True are equal, and 0.0 and -0.0: they are options of their own."""
    x = np.zeros(5)
    assert type(na.Adam(x, clip_norm=1).clip_norm) is float
    with pytest.raises(TypeError, match="clip_norm: expected a number, got bool"):
        na.Adam(x, clip_norm=True)
    with pytest.raises(TypeError, match="maximize: expected True or False, got 1"):
        na.Adam(x, maximize=1)
    for low in (0.0, -0.0, 0.0):
        start = np.full(5, -1.0)
        na.Adam(start, bounds=(low, 1.0))
        np.testing.assert_array_equal(np.signbit(start), np.signbit(low))


def test_an_optimiser_that_is_dropped_frees_its_memory_at_once():
    gc.disable()
    try:
        opt = na.Adam(np.zeros(5))
        opt.step(np.ones(5))
        left = weakref.ref(opt._backend), weakref.ref(compiled_step(opt))
        del opt
        assert [one() for one in left] == [None, None]
    finally:
        gc.enable()


def test_mappings_of_options_are_copied():
    """Also those that are no plain dicts."""
    groups = OrderedDict(a=OrderedDict(lr=0.1))
    opt = na.Adam({"a": np.zeros(3)}, groups=groups)
    groups["a"]["lr"] = 5.0
    assert opt.groups == {"a": {"lr": 0.1}}
    assert type(copy.deepcopy(opt).groups.copy()) is OrderedDict


NESTED = {
    "lr": {"a": 0.1, "b": 0.2},
    "groups": {"a": {"beta1": 0.5}},
    "bounds": {"a": (0, 1), "b": None},
}


@pytest.mark.parametrize("name", NESTED)
def test_what_is_fixed_is_not_written_into(name):
    """Else the attribute would be new, and steps old."""
    params = {"a": np.zeros(3), "b": np.zeros(3)}
    opt = na.Adam(params, **NESTED)
    with pytest.raises(TypeError, match="does not support item assignment"):
        getattr(opt, name)["a"] = 5.0
    again = na.Adam(params, **{option: getattr(opt, option) for option in NESTED})
    assert {option: getattr(again, option) for option in NESTED} == NESTED


@pytest.mark.parametrize("name", ["lr", "bounds"])
def test_arrays_that_are_fixed_are_not_written_into(name):
    rates, low, high = np.full(3, 0.1), np.zeros(3), np.ones(3)
    opt = na.Adam(np.zeros(3), lr=rates, bounds=(low, high))
    array = opt.lr if name == "lr" else opt.bounds[0]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 5.0
    na.Adam(np.zeros(3), lr=opt.lr, bounds=opt.bounds).step(np.ones(3))
    for given in (rates, low, high):
        given[0] = 0.5  # the caller's own stay as they are


# --- texts: one in the docstring of a class, read from there for help -----------------------------


PACKAGE = Path(na.__file__).parent
CLASSES = rules.classes()


@pytest.mark.rule
@pytest.mark.option
@pytest.mark.parametrize("name", CLASSES)
def test_help_has_a_line_for_each_option_of_every_rule(name):
    text = pydoc.render_doc(CLASSES[name], renderer=pydoc.plaintext)
    own = parameters(CLASSES[name].__doc__)
    for option in DEFAULTS.keys() - own.keys():
        assert f"- `{option}`: " in text, option
    assert not [option for option in own if f"- `{option}`: " in text]
    assert "- `step`: " in text
    assert len(text.splitlines()) <= 150


# --- texts that editors show: they read files, and run nothing -----------------------------------


@pytest.mark.option
def test_every_option_of_every_rule_has_one_purpose():
    """In the order of the docstring, which the reference shows."""
    names = [name for some in PURPOSES.values() for name in some]
    assert names == list(parameters(na.Optimizer.__doc__))
    assert set(names) == DEFAULTS.keys()


def declared(path, name):
    """Names of a class that a file declares, with the text below each."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    (kind,) = (one for one in body if isinstance(one, ast.ClassDef) and one.name == name)
    pairs = zip(kind.body, kind.body[1:], strict=False)
    return {
        ast.unparse(one.target): ast.literal_eval(text.value)
        for one, text in pairs
        if isinstance(one, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


SHARED = declared(PACKAGE / "_core" / "keywords.pyi", "SharedAttributes")


@pytest.mark.rule
@pytest.mark.option
@pytest.mark.parametrize("name", CLASSES)
def test_editors_show_a_line_for_each_option(name):
    texts = SHARED
    for base in reversed(CLASSES[name].__mro__):
        if base in CLASSES.values():
            file = Path(inspect.getfile(base)).with_suffix(".pyi")
            texts = texts | declared(file, base.__name__)
    for option, default in default_options(CLASSES[name]).items():
        if option != "lr":  # a property
            text = texts[option].replace("\n", " ")
            assert ". Type: " in text, option
            assert text.endswith("."), option
            assert len(text) <= 140, text
            assert default is None or "default " in text or option == "decoupled", option


@pytest.mark.rule
@pytest.mark.parametrize("name", CLASSES)
def test_an_option_may_be_changed_where_it_may_be_a_schedule(name):
    for key, one in inspect.signature(CLASSES[name].__init__).parameters.items():
        if one.kind is one.KEYWORD_ONLY:
            expected = hyper if "Schedule" in one.annotation else fixed
            if key in SETTABLE:
                expected = setting
            assert type(vars(CLASSES[name])[key]) is expected, key


@pytest.mark.parametrize("name", CLASSES)
def test_the_signature_names_every_option_for_completion(name):
    """IPython completes them; an ``__init__`` of a user's own class is shown as it is."""
    named = inspect.signature(CLASSES[name]).parameters
    shown = {option: one.default for option, one in named.items() if one.default is not one.empty}
    assert shown == default_options(CLASSES[name])

    class Clipped(CLASSES[name]):
        def __init__(self, x):
            super().__init__(x, clip_norm=1.0)

    class Own(CLASSES[name]):
        __signature__ = inspect.Signature()

        def __init__(self):
            super().__init__(np.zeros(3))

    assert str(inspect.signature(Clipped)) == "(x)"
    assert str(inspect.signature(Own)) == "()"
