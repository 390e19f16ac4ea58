"""Layout and size: tests/ has the folders of numadam/, which is as small as budget.toml says."""

import ast
import re
from pathlib import Path

import pytest

from tests import budget

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "numadam"
#: test files that may lie beside the folders
MOST = 12


def test_every_package_has_a_folder_of_tests() -> None:
    """An underscore in front does not count."""
    for found in PACKAGE.glob("*/__init__.py"):
        name = found.parent.name.removeprefix("_")
        assert list((TESTS / name).glob("test_*.py")), name


def test_few_files_lie_beside_the_folders() -> None:
    assert len(list(TESTS.glob("test_*.py"))) <= MOST


def test_no_test_file_imports_from_another() -> None:
    """Shared fixtures are in conftest.py, shared helpers in files of their own."""
    for found in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(found.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                last = node.module.split(".")[-1]
                assert not (node.module.startswith("tests") and last.startswith("test_")), found


# --- the tables of faults, and of what is bit-identical: each line names tests that exist ---------

FOLDER = TESTS / "faults"
ROOT = TESTS.parent
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


# --- size: CONTRIBUTING says how the package may grow --------------------------------------------

BUDGET = budget.budget()
#: A number may be so much larger than its budget, so that a line more is no matter.
SLACK = 1.02
KINDS = ("code lines", "docstring lines", "syntax nodes")


def test_every_package_has_a_budget() -> None:
    assert budget.packages().keys() == BUDGET["packages"].keys()


@pytest.mark.parametrize("name", BUDGET["packages"])
def test_packages_keep_to_their_budgets(name: str) -> None:
    for kind, number, allowed in zip(
        KINDS, budget.packages()[name], BUDGET["packages"][name], strict=True
    ):
        assert number <= SLACK * allowed, f"{name}: {number} {kind}, of {allowed}"


@pytest.mark.parametrize("name", BUDGET["counts"])
def test_counts_only_fall(name: str) -> None:
    assert budget.counts()[name] <= BUDGET["counts"][name], budget.used_once()
