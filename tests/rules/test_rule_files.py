"""A rule is three files; all else follows from them, and these tests say what is missing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import numadam
from numadam import rules
from numadam._core.element import make_element
from numadam._core.hyper import Hyper
from numadam._core.rule import RuleSpec
from tests import generate, references, stubs
from tests.rules import formula_checks
from tests.variants import CASES, plan_of

PACKAGE = Path(numadam.__file__).parent
FILES = sorted(path.stem for path in (PACKAGE / "rules").glob("[!_]*.py"))
#: the other files of a rule
OTHERS = (
    PACKAGE.parent / "docs" / "reference" / "rules" / "{}.md",
    Path(references.__file__).parent / "{}.py",
)


@pytest.mark.rule
@pytest.mark.parametrize("file", FILES)
def test_a_rule_has_three_files(file):
    for other in OTHERS:
        path = Path(str(other).format(file))
        assert path.exists(), f"The rule {file} has no {path}: see docs/contributing/rule.md."


@pytest.mark.rule
@pytest.mark.parametrize("other", OTHERS, ids=lambda path: path.parent.name)
def test_there_is_no_file_without_a_rule(other):
    found = {path.stem for path in other.parent.glob(other.name.format("[!_]*"))}
    assert found - {*FILES} <= {"index"}


@pytest.mark.rule
@pytest.mark.option
def test_there_is_no_stub_without_a_rule():
    assert {*PACKAGE.rglob("*.pyi")} <= generate.written().keys()


@pytest.mark.rule
@pytest.mark.option
@pytest.mark.parametrize("path", generate.written(), ids=lambda path: path.name)
def test_what_follows_from_the_rules_is_up_to_date(path):
    assert path.read_text(encoding="utf-8") == generate.written()[path], (
        f"{path} is out of date: run `python -m tests.generate`."
    )


def test_only_files_of_its_own_checkout_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(stubs, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="numadam is imported from another checkout, "):
        stubs.write({tmp_path / "stub.pyi": ""})
    assert not [*tmp_path.iterdir()]


@pytest.mark.rule
@pytest.mark.parametrize("name", rules.CLASSES.values())
def test_formulas_can_be_compiled_for_any_dtype(name):
    for of, options in CASES.values():
        if of == name:
            plan = plan_of(of, options, "float64")
            assert not list(formula_checks.problems(plan.rule, plan.element()))


# --- the checks see what is wrong ---------------------------------------------------------------


class Scalars(NamedTuple):
    decay: float
    rate: float


def scalars(c: Any, q: Any, lr: float, t: float, is_float32: bool) -> Scalars:
    return Scalars(decay=c.decay, rate=lr)


def formula():
    def element(p, g, m, h):
        m = h.decay * m + g
        return h.rate * m, m

    return element


RULE = RuleSpec("slow", ("m",), (Hyper("decay", 0.0, 1.0),), formula, scalars)


def told(element=None, **changes):
    rule = replace(RULE, **changes)
    return list(formula_checks.problems(rule, element or rule.formula()))


def test_a_right_rule_is_told_nothing():
    assert told() == []


def test_a_literal_beside_a_float():
    def element(p, g, m, h):
        m = 2 * m + g
        return h.rate * m, m

    (problem,) = told(element)
    assert problem.startswith("slow: the literal 2 makes float32 arithmetic float64;")


def test_a_state_that_is_not_returned():
    def element(p, g, m, h):
        m = h.decay * m + g
        return h.rate * m

    (problem,) = told(element)
    assert problem.startswith("slow: expected `return step, m`")
    assert problem.endswith("got `return h.rate * m`.")


def test_a_wrong_parameter():
    def element(p, g, v, h):
        return h.rate * v, v

    first, _ = told(element)
    assert first == (
        "slow: expected element(p, g, m, h), or with gg, the square of g, after g; got "
        "element(p, g, v, h)."
    )
    with pytest.raises(TypeError, match=r"^slow: expected element\(p, g, m, h\), or"):
        make_element(RULE, element, lambda function: function)


def test_a_scalar_that_there_is_not():
    def element(p, g, m, h):
        m = h.decay * m + g
        return h.rat * m, m

    assert told(element) == ["slow: h.rat is none of its scalars: decay, rate, tiny, zero."]


def test_another_number_of_scalars():
    def fewer(c: Any, q: Any, lr: float, t: float, is_float32: bool) -> Scalars:
        return (c.decay,)

    (problem,) = told(scalars_like={"torch": fewer})
    assert problem == "slow: torch: expected the 2 numbers of Scalars(decay, rate), got (0.5,)."


def test_a_product_that_there_is_not():
    def of_power(c: Any, q: Any, lr: float, t: float, is_float32: bool) -> Scalars:
        return Scalars(decay=c.decay, rate=lr / q.decay)

    (problem,) = told(scalars=of_power, powers=("decay",))
    assert problem.startswith("slow: scalars: ")
    assert problem.endswith("; its products `q`: decay_product.")


def test_a_scalar_that_is_no_float():
    def whole(c: Any, q: Any, lr: float, t: float, is_float32: bool) -> Scalars:
        return Scalars(decay=c.decay, rate=1)

    (problem,) = told(scalars_like={"torch": whole})
    assert problem.startswith("slow: torch: rate is 1; write a float")


def test_a_rule_without_state_or_with_the_square_fits_the_loops():
    def stateless(p, g, h):
        return h.rate * g

    def with_square(p, g, gg, m, h):
        return math.sqrt(gg), m

    def plain(function):
        return function

    h = RULE.scalar_type(0.5, 2.0, 0.0, 0.0)
    without = make_element(replace(RULE, state=(), present=()), stateless, plain)
    assert without(1.0, 3.0, 9.0, None, None, None, h) == (6.0, None, None, None)
    assert make_element(RULE, with_square, plain)(1.0, 3.0, 9.0, 5.0, None, None, h) == (
        3.0,
        5.0,
        None,
        None,
    )
