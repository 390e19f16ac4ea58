"""Docstrings are whole, and pages of good form.

Every public name has a docstring with its parameters and an example; code fits its column.
"""

import doctest
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

from numadam._core import options
from numadam._optimizer.optimizer import Optimizer

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
sys.path.append(str(DOCS / "_ext"))
from form import wide_lines  # noqa: E402  (in _ext)
from public_names import (  # noqa: E402
    is_made_by_users,
    is_of_ranks,
    lacks_example,
    missing_parameters,
    public_names,
)

NAMES = public_names()


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


def test_every_shared_option_is_documented():
    text = inspect.cleandoc(Optimizer.__doc__)  # Python 3.13 does so itself
    section = text.partition("Parameters\n")[2].partition("Notes\n")[0]
    for name in options.DEFAULTS:
        assert f"\n{name} : " in section, name


# --- form of the pages ---------------------------------------------------------------------------

PAGES = [page for page in DOCS.rglob("*.md") if "_build" not in page.parts]
PAGES += [ROOT / name for name in ("CHANGELOG.md", ".github/CONTRIBUTING.md")]
#: fence, language or {directive}, content
FENCED = re.compile(r"^(`{3,}|:{3,})([^\n]*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", sorted(PAGES), ids=lambda page: str(page.relative_to(ROOT)))
def test_code_fits_the_page(page):
    blocks = FENCED.findall(page.read_text(encoding="utf-8"))
    code = [content for _, language, content in blocks if not language.startswith("{")]
    assert [line for content in code for line in wide_lines(content)] == []


#: Pages by hand: words of a page that a program writes are not counted.
WRITTEN = [page for page in PAGES if page.is_relative_to(DOCS) and page.stem != "all-options"]


@pytest.mark.parametrize(("development", "most"), [(False, 24_000), (True, 9_000)])
def test_pages_are_short(development, most):
    pages = [page for page in WRITTEN if ("development" in page.parts) is development]
    assert sum(len(page.read_text(encoding="utf-8").split()) for page in pages) <= most
