"""Layout and size: tests/ has the folders of numadam/, which is as small as budget.toml says."""

import ast
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests import budget

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "numadam"
#: test files that may lie beside the folders
MOST = 12


def folders(root: Path) -> set[str]:
    """Names of the packages in a folder; an underscore in front does not count."""
    return {found.parent.name.removeprefix("_") for found in root.glob("*/__init__.py")}


def test_every_package_has_a_folder_of_tests() -> None:
    assert folders(PACKAGE) <= folders(TESTS)
    for name in folders(PACKAGE):
        assert list((TESTS / name).glob("test_*.py")), name


def test_few_files_lie_beside_the_folders() -> None:
    assert len(list(TESTS.glob("test_*.py"))) <= MOST


def test_every_folder_is_a_package() -> None:
    """Files of one name in two folders need it."""
    for found in TESTS.rglob("test_*.py"):
        assert (found.parent / "__init__.py").exists(), found


def test_no_test_file_imports_from_another() -> None:
    """Shared fixtures are in conftest.py, shared helpers in files of their own."""
    for found in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(found.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                last = node.module.split(".")[-1]
                assert not (node.module.startswith("tests") and last.startswith("test_")), found


def test_the_picture_of_the_floors_has_a_line_on_each_package() -> None:
    """Of `docs/_ext/house.py`, which draws the contract on imports."""
    config = tomllib.loads((TESTS.parent / "pyproject.toml").read_text(encoding="utf-8"))
    (floors,) = (
        one["layers"] for one in config["tool"]["importlinter"]["contracts"] if "layers" in one
    )
    house = (TESTS.parent / "docs" / "_ext" / "house.py").read_text(encoding="utf-8")
    (said,) = (
        ast.literal_eval(node.value)
        for node in ast.parse(house).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PACKAGES"
    )
    assert said.keys() == {name.strip() for floor in floors for name in floor.split("|")}


def tracked() -> list[Path]:
    """Files that git holds, where this is a checkout."""
    if not (TESTS.parent / ".git").exists():
        pytest.skip("no checkout: git does not say which files it holds")
    found = subprocess.run(
        ["git", "ls-files", "-z"], cwd=TESTS.parent, capture_output=True, text=True, check=True
    )
    return [TESTS.parent / name for name in found.stdout.split("\0") if name]


def test_git_holds_no_file_that_is_written() -> None:
    """A build writes them, or what follows from them would be edited by hand."""
    for path in tracked():
        if path.exists():
            assert b"Written by" not in path.read_bytes().split(b"\n", 1)[0], path


def test_git_holds_few_lines_of_stubs() -> None:
    stubs = [path for path in tracked() if path.suffix == ".pyi" and path.exists()]
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in stubs) <= 250


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
