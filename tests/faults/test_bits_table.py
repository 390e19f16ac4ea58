"""Each line of the table of what is bit-identical has a test, and the test exists."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "explanation" / "bits.md").read_text(encoding="utf-8")
NAMED = r"`([\w/]+\.py)(?:`: `|::)(\w+)`"
SECTION = PAGE.split("\n## ")[1]
#: lines of its table: what changes, tests
ROWS = [line.strip("|").split("|") for line in re.findall(r"^\|.*", SECTION, re.MULTILINE)]


def functions(path: Path) -> set[str]:
    """Names of the tests of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return {name for name in found if name.startswith("test_")}


def test_each_line_names_tests_that_exist() -> None:
    head, _, *lines = ROWS
    assert head[-1].strip() == "tested by"
    assert len(lines) > 20
    for line in lines:
        assert len(line) == 2, line
        named = re.findall(NAMED, line[-1])
        assert named, line
        assert "`" not in re.sub(NAMED, "", line[-1]), line
    for path, name in re.findall(NAMED, PAGE):
        assert name in functions(TESTS / path), f"{path}::{name}"


def test_links_inside_of_the_page_have_a_heading() -> None:
    headings = {
        re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= headings
