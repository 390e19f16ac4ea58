"""Size of the package, and the numbers that keep it small: `tests/budget.toml`.

    python -m tests.budget            what is measured beside its budget
    python -m tests.budget --write    take what is measured for the budget

A code line holds a token that is no comment and no docstring. A node is one of `ast.walk`,
docstrings left out: no style of formatting changes it.
"""

from __future__ import annotations

import argparse
import ast
import collections
import functools
import io
import itertools
import re
import tokenize
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "numadam"
BUDGET = Path(__file__).with_name("budget.toml")
#: Lines of a file that is neither a crumb nor two subjects.
SHORTEST, LONGEST = 150, 600
#: Different loops that a run of all tests but the sweeps may compile: half of its time goes there.
MOST_LOOPS = 165
#: Equal lines that make a pair of places; lines of a function that its caller could take in.
EQUAL, INLINE = 6, 6

_SKIP = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT),
    *(tokenize.DEDENT, tokenize.ENDMARKER),
}
_SCOPES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def files() -> list[Path]:
    """The Python files of the package, without those of compiled texts in its cache folder."""
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "__pycache__" not in path.parts]


@functools.cache
def sources() -> dict[Path, str]:
    """The text of each Python file of the package."""
    return {path: path.read_text(encoding="utf-8") for path in files()}


def _docstring_lines(tree: ast.Module) -> set[int]:
    """Numbers of the lines of docstrings; they leave the tree."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, _SCOPES) and ast.get_docstring(node, clean=False) is not None:
            first = node.body.pop(0)
            lines.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return lines


def measure(text: str) -> tuple[int, int, int]:
    """Code lines, docstring lines and nodes of a file."""
    tree = ast.parse(text)
    doc, code = _docstring_lines(tree), set[int]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _SKIP:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - doc), len(doc), sum(1 for _ in ast.walk(tree))


@functools.cache
def packages() -> dict[str, list[int]]:
    """Code lines, docstring lines and nodes by package, of all files below it."""
    found: dict[str, list[int]] = {}
    for path, text in sources().items():
        folders = path.relative_to(ROOT).parts[:-1]
        row = found.setdefault("/".join(folders[:2]), [0, 0, 0])
        for k, number in enumerate(measure(text)):
            row[k] += number
    return found


def _plain_lines(text: str) -> list[str]:
    """Lines without margins, comments and what only closes a bracket."""
    lines = (re.sub(r"\s*#.*", "", line).strip() for line in text.splitlines())
    return [line for line in lines if len(line) > 3]


def equal_pairs() -> int:
    """Pairs of places, outside of the rules, that share six lines."""
    places = collections.defaultdict(set)
    for path, text in sources().items():
        if path.parent.name == "rules":
            continue
        lines = _plain_lines(text)
        for k in range(len(lines) - EQUAL + 1):
            places[tuple(lines[k : k + EQUAL])].add((path, k))
    pairs = set()
    for found in places.values():
        for (one, i), (other, j) in itertools.combinations(sorted(found), 2):
            pairs.add((one, other, j - i))  # a longer run counts once
    return len(pairs)


def used_once() -> list[str]:
    """Private functions that are used once, and are no longer than their caller could take in."""
    uses: collections.Counter[str] = collections.Counter()
    functions: dict[str, int] = {}
    for text in sources().values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Name):
                uses[node.id] += 1
            elif isinstance(node, ast.Attribute):
                uses[node.attr] += 1
            elif isinstance(node, ast.FunctionDef) and re.match(r"_[^_]", node.name):
                lines = (node.end_lineno or 0) - node.lineno + 1
                functions[node.name] = max(lines, functions.get(node.name, 0))
    return sorted(name for name, lines in functions.items() if uses[name] == 1 and lines <= INLINE)


def odd_files() -> int:
    """Files that are shorter or longer than they should be."""
    lengths = (text.count("\n") for text in sources().values())
    return sum(not SHORTEST <= length <= LONGEST for length in lengths)


@functools.cache
def counts() -> dict[str, int]:
    """Numbers that may only fall."""
    from numadam._core.plan import Plan

    return {
        "files": len(sources()),
        "files outside of 150 to 600 lines": odd_files(),
        "pairs of six equal lines": equal_pairs(),
        "private functions used once": len(used_once()),
        "fields of Plan": len(Plan.__dataclass_fields__),
    }


def budget() -> dict[str, dict[str, object]]:
    """The content of `tests/budget.toml`."""
    return tomllib.loads(BUDGET.read_text(encoding="utf-8"))


def _written() -> str:
    rows = [f'"{name}" = {numbers}' for name, numbers in sorted(packages().items())]
    others = [f'"{name}" = {number}' for name, number in counts().items()]
    head = "# By `python -m tests.budget --write`. A commit that raises a number says what it buys."
    return "\n".join([
        head, "", "# code lines, docstring lines, syntax nodes", "[packages]", *rows, "",
        "# may only fall", "[counts]", *others, "",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="take what is measured")
    if parser.parse_args().write:
        BUDGET.write_text(_written(), encoding="utf-8")
    allowed = budget()
    for name, numbers in [*sorted(packages().items()), *counts().items()]:
        table = allowed["packages" if isinstance(numbers, list) else "counts"]
        print(f"{name:36} {numbers!s:24} {table.get(name)}")


if __name__ == "__main__":
    main()
