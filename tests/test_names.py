"""Constants of the package: each name means one thing."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numadam

PACKAGE = Path(numadam.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
#: Their constants are names of files and functions of a rule, or of demonstrations.
APART = ("nopython", "demos")


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
