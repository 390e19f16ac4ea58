"""Write the files that follow from the rules: ``python tests/generate.py``, after adding one.

The table in ``numadam/rules/__init__.py``, the stubs of ``numadam``, of rules and of
``numadam.nopython``, types and texts of keywords and of the attributes that all rules share,
``tests/typing_rules.py``, a use of each rule for mypy, and the lists of rules in the docs. A test
says when one is out of date.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numadam
from numadam import rules
from numadam.nopython import functions
from tests import keywords
from tests.stubs import of_nopython, of_rule, shared_attributes

PACKAGE = Path(numadam.__file__).parent
TESTS = Path(__file__).parent
PAGES = TESTS.parent / "docs" / "reference"
NOTE = "# Written by `python tests/generate.py`: do not edit.\n"


def rule_files() -> dict[str, str]:
    """The class of each file in `numadam.rules`; new files come last."""
    found = {}
    files = {path.stem for path in (PACKAGE / "rules").glob("[!_]*.py")}
    known = [file for file in rules.CLASSES if file in files]
    for file in [*known, *sorted(files - {*known})]:
        text = (PACKAGE / "rules" / f"{file}.py").read_text(encoding="utf-8")
        names = re.findall(r"^@optimizer_class\nclass (\w+)\(", text, re.MULTILINE)
        if len(names) != 1:
            raise SystemExit(f"numadam/rules/{file}.py: expected one class with @optimizer_class.")
        found[file] = names[0]
    return found


def table(files: dict[str, str]) -> str:
    """``numadam/rules/__init__.py`` with its table."""
    text = (PACKAGE / "rules" / "__init__.py").read_text(encoding="utf-8")
    lines = "".join(f'    "{file}": "{name}",\n' for file, name in files.items())
    return re.sub(r"(?<=^CLASSES = \{\n).*?(?=^\})", lines, text, flags=re.MULTILINE | re.DOTALL)


def _imports(homes: dict[str, str]) -> str:
    order = sorted(homes.items(), key=lambda item: (item[1], item[0].islower(), item[0]))
    return "".join(f"from {home} import {name} as {name}\n" for name, home in order)


def package_stub(files: dict[str, str]) -> str:
    """``numadam/__init__.pyi``."""
    of_rules = {*rules.CLASSES.values(), *map(rules.function_name, rules.CLASSES)}
    things = {name: getattr(numadam, name) for name in {*numadam.__all__} - of_rules}
    homes = {
        name: "numadam" if inspect.ismodule(thing) else thing.__module__
        for name, thing in things.items()
        if name != "__version__"
    }
    for file, kind in files.items():
        homes |= dict.fromkeys([kind, rules.function_name(file)], f"numadam.rules.{file}")
    return f"{NOTE}{_imports(homes)}\n__version__: str\n__all__: list[str]\n"


def _options(function: Any) -> str:
    """The keywords of a signature, with their defaults."""
    named = inspect.signature(function).parameters.values()
    given = [one for one in named if one.kind is one.KEYWORD_ONLY and one.default is not None]
    return "".join(f", {one.name}={one.default!r}" for one in given).replace("'", '"')


def _uses(file: str, kind: str) -> Iterator[tuple[str, str]]:
    """A call of the class, and one of the function, with every keyword that has a value."""
    module = import_module(f"numadam.rules.{file}")
    function = getattr(module, rules.function_name(file))
    yield f"na.{kind}(x", f"{_options(getattr(module, kind))})"
    needed = [
        one.name
        for one in inspect.signature(function).parameters.values()
        if one.default is one.empty and one.kind is not one.VAR_KEYWORD
    ]
    arrays = "".join(", 1" if name == "t" else ", np.zeros(3)" for name in needed[2:])
    yield f"na.{function.__name__}(x, g{arrays}", f"{_options(function)})"


def uses(files: dict[str, str]) -> str:
    """``tests/typing_rules.py``."""
    calls = [call for file, kind in files.items() for call in _uses(file, kind)]
    good = "".join(f"    {begin}{options}\n" for begin, options in calls)
    ignored = "# type: ignore[call-arg]  # pyright: ignore[reportCallIssue]"
    bad = "".join(f"    {begin}, unknown=1)  {ignored}\n" for begin, _ in calls)
    return f'''{NOTE}# fmt: off
# ruff: noqa: E501
"""Every rule as mypy and pyright see it: tests/test_typing.py runs it."""

from __future__ import annotations

import numpy as np

import numadam as na

x, g = np.ones(3), np.full(3, 0.5)


def every_rule() -> None:
    """Every option that a rule declares."""
{good}

def refused() -> None:
    """An option that no rule has: they see it, or an ignore is one too many."""
{bad}'''


def _front(file: str, key: str) -> str:
    """A line of the front matter of a rule's page."""
    text = (PAGES / "rules" / f"{file}.md").read_text(encoding="utf-8")
    found = re.search(rf'^{key}: "(.*)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit(f'docs/reference/rules/{file}.md: its front matter has no {key}: "...".')
    return found.group(1)


def index_page(files: dict[str, str]) -> str:
    """``docs/reference/rules/index.md`` with its table and its table of contents."""
    text = (PAGES / "rules" / "index.md").read_text(encoding="utf-8")
    rows = "".join(
        f"| [{name}]({file}.md) | {_front(file, 'summary')} | {_front(file, 'state')} |\n"
        for file, name in files.items()
    )
    text = re.sub(r"(?<=^\|---\|---\|---\|\n)(\|.*\n)*", rows, text, flags=re.MULTILINE)
    contents = "".join(f"{file}\n" for file in files)
    return re.sub(r"(?<=^:hidden:\n\n)(\w+\n)*", contents, text, flags=re.MULTILINE)


def nopython_page(files: dict[str, str], compiled: dict[str, dict[str, Any]]) -> str:
    """``docs/reference/nopython.md`` with a section for each rule."""
    text = (PAGES / "nopython.md").read_text(encoding="utf-8")
    sections = []
    for file, name in files.items():
        kinds = [f"{file}_update", f"{file}_element", f"{file}_scalars"]
        kinds += [one for one in compiled[file] if one not in kinds]
        lines = "".join(f".. autofunction:: {one}\n" for one in kinds)
        module = ".. currentmodule:: numadam.nopython\n"
        sections.append(f"## {name}\n\n```{{eval-rst}}\n{module}\n{lines}```\n")
    return text.partition("## ")[0] + "\n".join(sections)


def written() -> dict[Path, str]:
    """Every file that is written, and what it has to hold."""
    files = rule_files()
    kinds = {
        kind: getattr(import_module(f"numadam.rules.{file}"), kind) for file, kind in files.items()
    }
    compiled = {file: functions.of_rule(file, kinds[name]) for file, name in files.items()}
    stubs = {
        PACKAGE / "rules" / f"{file}.pyi": NOTE + of_rule(file, kinds[name])
        for file, name in files.items()
    }
    return {
        PAGES / "rules" / "index.md": index_page(files),
        PAGES / "nopython.md": nopython_page(files, compiled),
        PACKAGE / "rules" / "__init__.py": table(files),
        PACKAGE / "__init__.pyi": package_stub(files),
        PACKAGE / "nopython" / "__init__.pyi": NOTE + of_nopython(compiled.values()),
        **stubs,
        PACKAGE / "_optimizer" / "shared.py": NOTE + shared_attributes(),
        PACKAGE / "_core" / "keywords.py": NOTE + keywords.of_rules(),
        PACKAGE / "_minimize" / "keywords.py": NOTE + keywords.of_runs(kinds),
        PACKAGE / "mpi" / "keywords.py": NOTE + keywords.of_sharded(kinds),
        TESTS / "typing_rules.py": uses(files),
    }


if __name__ == "__main__":
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")
