"""The table of faults names tests that exist."""

import ast
import re
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
TABLE = (FOLDER / "README.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TABLE)


def functions(path: Path) -> set[str]:
    """Names of the functions of a file."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def test_every_named_test_exists():
    assert len(NAMED) > 40
    missing = [f"{path}::{name}" for path, name in NAMED if name not in functions(ROOT / path)]
    assert not missing


def test_every_row_is_held_or_says_why_not():
    rows = [line for line in TABLE.splitlines() if line.startswith("| ")][1:]
    for row in rows:
        assert "::test_" in row or "| not held: " in row, row


def test_every_test_of_this_folder_is_in_a_row():
    here = {path.relative_to(ROOT).as_posix() for path in FOLDER.glob("test_*.py")}
    assert here - {path for path, _ in NAMED} == {"tests/faults/test_table.py"}
