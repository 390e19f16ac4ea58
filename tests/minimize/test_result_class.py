"""The classes of results: SciPy's, with documented attributes."""

from __future__ import annotations

import copy
import inspect
import pickle
import pydoc
import re
from typing import get_args, get_overloads, get_type_hints

import numpy as np
import pytest
from scipy.optimize import OptimizeResult

import numadam as na
from numadam import rules
from numadam._core.hyper import GradientStatus
from numadam._minimize.arguments import rule_class
from numadam._minimize.result import entries, entry
from tests import stubs


def bowl(x):
    return float(x @ x), 2 * x


def bowls(x):
    return (x * x).sum(axis=1), 2 * x


def one(**options):
    return na.minimize(bowl, np.ones(2), jac=True, **{"maxiter": 3, **options})


def many(**options):
    return na.minimize_many(bowls, np.ones((4, 2)), jac=True, maxiter=3, **options)


def test_every_entry_is_declared_and_every_declared_one_is_there():
    found = one(ema=0.9, lr="auto", maxiter=20)
    assert found.keys() | {"index"} == entries(na.Result).keys()
    assert many().keys() | {"averaged"} == entries(na.ManyResult).keys()
    assert many().best().keys() <= entries(na.Result).keys()


@pytest.mark.parametrize("make", [one, many])
def test_an_entry_is_an_attribute_and_both_change_together(make):
    result = make()
    assert isinstance(result, OptimizeResult)
    for name in result:
        assert getattr(result, name) is result[name]
    result.message = "new"
    assert result["message"] == "new"
    result["nfev"] = 7
    assert result.nfev == 7
    del result.nfev
    assert "nfev" not in result


@pytest.mark.parametrize("make", [one, many])
def test_a_missing_entry_says_what_there_is(make):
    result = make()
    assert not hasattr(result, "averaged")
    with pytest.raises(AttributeError, match="averaged"):
        _ = result.averaged


@pytest.mark.parametrize(
    ("make", "name", "says"),
    [
        (one, "hess_inv", "second derivatives"),
        (one, "lr", 'lr="auto"'),
        (many, "state", "checkpoint=path"),
        (many, "averaged", "ema="),
    ],
)
def test_a_missing_entry_that_others_have_says_what_to_do(make, name, says):
    with pytest.raises(AttributeError, match=f"{name}: this result has none.*{says}"):
        getattr(make(), name)


def test_a_number_as_key_says_where_a_problem_is():
    with pytest.raises(KeyError, match=r"problem 3 is at res.x\[3\]"):
        many()[3]
    with pytest.raises(KeyError, match=r"^'f'$"):
        many()["f"]
    assert many().get("f") is None


def test_checkers_take_attributes_of_results_that_are_no_dict_to_them():
    # scipy-stubs declares OptimizeResult without dict
    owners = [get_type_hints(one)["result"] for one in get_overloads(entry.__get__)]
    assert owners == [type(None), object]


@pytest.mark.parametrize("make", [one, many])
def test_copies_and_pickles_are_of_the_class(make):
    result = make()
    for other in (copy.copy(result), copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert type(other) is type(result)
        assert repr(other) == repr(result)
        np.testing.assert_array_equal(other.x, result.x)
    assert type(copy.copy(result)) is {one: na.Result, many: na.ManyResult}[make]


def test_completion_shows_entries_and_no_methods_of_dict():
    assert dir(one()) == sorted(one())
    assert dir(many()) == sorted([*many(), "best"])


@pytest.mark.parametrize("kind", [na.Result, na.ManyResult, na.GradientCheck])
def test_every_entry_has_a_text_in_help_and_a_type(kind):
    text = pydoc.render_doc(kind, renderer=pydoc.plaintext)
    for name, declared in entries(kind).items():
        assert inspect.getdoc(declared) in text, name
        assert declared.type not in ("", "None"), name


@pytest.mark.rule
def test_names_of_rules_in_the_signature_are_taken():
    text = (stubs.PACKAGE / "_core" / "keywords.pyi").read_text(encoding="utf-8")
    (names,) = re.findall(r"^RuleName = Literal\[(.*)\]$", text, re.MULTILINE)
    kinds = [rule_class(name) for name in re.findall(r"\w+", names)]
    assert kinds == [*rules.classes().values()]


KEYWORDS = stubs.keywords(stubs.rule_classes())


@pytest.mark.option
@pytest.mark.parametrize(
    ("function", "kind"), [(na.minimize, "MinimizeOptions"), (na.minimize_many, "ManyOptions")]
)
def test_keywords_in_the_signature_are_no_arguments_besides(function, kind):
    arguments = inspect.signature(function).parameters
    named = {one.name for one in arguments.values() if one.kind is not one.VAR_KEYWORD}
    assert not named & KEYWORDS[kind].keys()


def test_many_problems_take_the_options_of_their_signature():
    of_one, of_many = KEYWORDS["MinimizeOptions"], KEYWORDS["ManyOptions"]
    assert of_one.keys() - of_many.keys() == {"ema_debias"}
    with pytest.raises(ValueError, match=r"^ema_debias: problems stop at different iterations"):
        many(ema=0.9, ema_debias=True)


@pytest.mark.parametrize("make", [one, many])
def test_a_changed_result_is_still_shown(make):
    result = make()
    result.x = 3
    assert "3" in repr(result)
    del result["x"]
    result.note = "by hand"
    for text in (repr(result), result._repr_html_()):
        assert "by hand" in text
    assert repr(type(result)()) == f"{type(result).__name__}()"
    assert "<table" in type(result)()._repr_html_()


@pytest.mark.parametrize("make", [one, many])
def test_a_wrong_name_says_what_there_is(make):
    result = make()
    for name in ("lr", "nitt"):
        with pytest.raises(AttributeError, match=f"^{name}: this result has none; it has") as error:
            getattr(result, name)
        assert (error.value.name, error.value.obj) == (name, result)
    assert getattr(result, "lr", 5) == 5
    assert not hasattr(result, "__array_interface__")


def test_the_check_of_a_gradient_is_such_a_result():
    check = na.check_grad(bowl, np.ones(2), jac=True)
    assert isinstance(check, na.GradientCheck)
    assert check.keys() == entries(na.GradientCheck).keys()
    assert dir(check) == sorted(check)
    assert check.status in get_args(GradientStatus)
    assert pickle.loads(pickle.dumps(check)) == check
    with pytest.raises(AttributeError, match="success: this result has none; it has ok"):
        _ = check.success


@pytest.mark.parametrize("kind", [na.Result, na.ManyResult, na.GradientCheck])
def test_completion_by_the_class_shows_no_methods_of_dict_either(kind):
    # plain Python and IPython without jedi ask it too
    public = {name for name in dir(kind) if not name.startswith("_")}
    assert public - {"best"} == entries(kind).keys()
