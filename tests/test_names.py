"""Names and sentences that a reader meets in the package: each name means one thing."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import numadam

PACKAGE = Path(numadam.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
#: Their constants are names of files and functions of a rule, of cases, or of demonstrations.
APART = ("nopython", "bench", "demos")


def constants(path: Path) -> Iterator[str]:
    """Names in capitals that a module assigns."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        for one in (name for target in targets for name in ast.walk(target)):
            if isinstance(one, ast.Name) and one.id.isupper():
                yield one.id


def test_no_constant_has_two_homes():
    homes = defaultdict(set)
    for path in FILES:
        inside = path.relative_to(PACKAGE)
        if inside.parts[0] not in APART:
            for name in constants(path):
                homes[name].add(inside.as_posix())
    twice = {name: sorted(found) for name, found in homes.items() if len(found) > 1}
    assert not twice, "assigned in several files: " + "; ".join(
        f"{name} in {', '.join(found)}" for name, found in sorted(twice.items())
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_docstring_begins_with_a_noun_or_a_verb(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            first = (ast.get_docstring(node) or "").split("\n")[0]
            name = getattr(node, "name", "the module")
            assert not re.match(r"(What|Who|Whoever|Those|Where|Whose|How)\b", first), (
                f"{name}: {first}"
            )
