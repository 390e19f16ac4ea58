"""A rule is three files; all else follows from them, and these tests say what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

import numadam
from numadam import rules
from numadam.rules._define import problems
from tests import generate, references, stubs
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
        assert path.exists(), f"The rule {file} has no {path}: see docs/development/rule.md."


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


def test_the_page_of_all_options_is_short():
    text = generate.written()[generate.PAGES / "all-options.md"]
    assert len(text.splitlines()) <= 300


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
            assert not list(problems(plan.rule, plan.element()))
