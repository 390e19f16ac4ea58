"""Every public name has a docstring with its parameters and an example; every rule has a page."""

import ast
import doctest
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

from numadam import rules
from numadam._core import options
from numadam._optimizer.optimizer import Optimizer

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
sys.path.append(str(DOCS / "_ext"))
from public_names import (  # noqa: E402  (in _ext)
    is_made_by_users,
    is_of_ranks,
    lacks_example,
    missing_parameters,
    public_names,
)

NAMES = public_names()


def test_all_of_it_is_looked_at():
    assert {"numadam.Adam", "numadam.minimize", "numadam.Rows"} <= set(NAMES)
    assert {"numadam.schedules.Cosine", "numadam.nopython.nadam_product"} <= set(NAMES)
    assert len(NAMES) > 60


@pytest.mark.parametrize("name", NAMES)
def test_docstring_is_whole(name):
    assert not lacks_example(NAMES[name])
    assert not list(missing_parameters(NAMES[name]))


def test_defaults_can_be_read():
    """A default that is an object would show itself with an address or a path of the machine."""
    made = {name: thing for name, thing in NAMES.items() if is_made_by_users(thing)}
    assert {"numadam.Adam", "numadam.minimize"} <= made.keys()
    shown = {name: str(inspect.signature(thing)) for name, thing in made.items()}
    assert [name for name, text in shown.items() if " at 0x" in text or "<module" in text] == []


@pytest.mark.parametrize("name", [name for name in NAMES if not is_of_ranks(NAMES[name])])
def test_example_is_found_by_the_doctests(name):
    """`python -m pytest` runs what doctest's finder sees in the modules of numadam."""
    thing = NAMES[name]
    home = importlib.import_module(thing.__module__)
    found = {test.name for test in doctest.DocTestFinder().find(home) if test.examples}
    assert f"{thing.__module__}.{thing.__name__}" in found


def test_the_checks_see_what_is_missing():
    def bare(a, b):
        """Sum.

        Parameters
        ----------
        a : float
            One of them.

        Returns
        -------
        float
        """

    assert lacks_example(bare)
    assert list(missing_parameters(bare)) == ["b"]


def test_every_shared_option_is_documented():
    text = inspect.cleandoc(Optimizer.__doc__)  # Python 3.13 does so itself
    section = text.partition("Parameters\n")[2].partition("Notes\n")[0]
    for name in options.DEFAULTS:
        assert f"\n{name} : " in section, name


def test_chart_names_rules_that_exist_and_its_page_links_them():
    chart = (DOCS / "images" / "which-rule.svg").read_text(encoding="utf-8")
    page = (DOCS / "how-to" / "which-rule.md").read_text(encoding="utf-8")
    files = {name: file for file, name in rules.CLASSES.items()}
    answers = " ".join(re.findall(r'class="rule">([^<]+)<', chart))
    named = set(re.findall(r"\b[A-Z]\w*", answers)) - {"L", "BFGS"}
    assert len(named) >= 8
    assert named <= files.keys()
    for name in named:
        assert f"[{name}](../reference/rules/{files[name]}.md)" in page, name


# --- the first word: a noun or a verb, no question word -----------------------------------------

QUESTIONS = {"What", "Who", "Whoever", "Those", "Where", "Whose", "How"}


def docstrings(source):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", "the module"), text


def test_docstrings_of_all_kinds_are_read():
    source = '"""A."""\nclass B:\n    """How."""\n    async def c(self):\n        """D."""\n'
    assert dict(docstrings(source)) == {"the module": "A.", "B": "How.", "c": "D."}


def test_docstrings_begin_with_a_noun_or_a_verb():
    folders = ("numadam", "asv_benchmarks", "docs/_ext")
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files
        for name, text in docstrings(path.read_text(encoding="utf-8"))
        if text.split()[0].strip(",.:") in QUESTIONS
    ]
    assert found == []
