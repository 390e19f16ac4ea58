"""The table of faults, and that of what is bit-identical: each line names tests that exist."""

import ast
import re
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
FAULTS = (FOLDER / "README.md").read_text(encoding="utf-8")
FAULTS_NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", FAULTS)
BITS = (FOLDER / "bits.md").read_text(encoding="utf-8")
BITS_NAMED = r"`([\w/]+\.py)(?:`: `|::)(\w+)`"


def functions(path: Path) -> set[str]:
    """Names of the functions of a file."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def test_every_named_test_exists() -> None:
    assert len(FAULTS_NAMED) > 40
    named = FAULTS_NAMED + [(f"tests/{path}", name) for path, name in re.findall(BITS_NAMED, BITS)]
    missing = [f"{path}::{name}" for path, name in named if name not in functions(ROOT / path)]
    assert not missing


def test_every_fault_is_held_or_says_why_not() -> None:
    rows = [line for line in FAULTS.splitlines() if line.startswith("| ")][1:]
    for row in rows:
        assert "::test_" in row or "| not held: " in row, row


def test_every_test_of_this_folder_is_in_a_row() -> None:
    here = {path.relative_to(ROOT).as_posix() for path in FOLDER.glob("test_*.py")}
    assert here == {path for path, _ in FAULTS_NAMED if path.startswith("tests/faults/")}


def test_each_line_of_what_is_bit_identical_names_tests() -> None:
    section = BITS.split("\n## ")[1]
    head, _, *lines = (
        line.strip("|").split("|") for line in re.findall(r"^\|.*", section, re.MULTILINE)
    )
    assert head[-1].strip() == "tested by"
    assert len(lines) > 20
    for line in lines:
        assert len(line) == 2, line
        assert re.findall(BITS_NAMED, line[-1]), line
        assert "`" not in re.sub(BITS_NAMED, "", line[-1]), line
