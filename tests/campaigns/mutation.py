"""Mutation score: how many small mistakes, put into a file one at a time, its tests notice.

python tests/campaigns/mutation.py FILES --tests PATHS: comparisons, numbers, texts, `and`, `or`,
`not`, conditions, signs and exceptions are changed, statements deleted, and the tests run for each.
`--sample N --seed S` takes N of the mistakes. FILE::NAME means one class or function. Prints those
that no test noticed, and the score. Needs coverage, which says which tests run a line and so are
run for it; with `--all-tests` all are, for lines that run in processes which a test starts.

All runs are in copies of the tree, with a cache of compiled loops that no mistake can change; a
loop that has its entry there is not compiled again, so mistakes in compiled functions are not seen.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import functools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import coverage

from numadam._jit import cache

ROOT = Path(__file__).parents[2]
_NOT_COPIED = shutil.ignore_patterns("__pycache__", ".*", "_build", "auto_gallery", "*.loop")
_SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.And: ast.Or, ast.Or: ast.And, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div,
    ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip
_ERRORS = {"TypeError": "ValueError"}  # any other becomes a TypeError
_DELETED = (ast.Expr, ast.Assign, ast.AugAssign, ast.Raise, ast.Delete, ast.Continue, ast.Break)
#: of a run: so many times the time of the tests without a mistake, and seconds besides
_SLOWER, _GRACE = 5, 30


class Mutant(NamedTuple):
    """One mistake: the new source of a file, and the lines of the old that it is in."""

    path: Path
    line: int
    end: int
    source: str


def changes(node: ast.AST) -> Iterator[str]:
    """Sources of what may stand in the place of a node."""

    def with_fields(**fields: object) -> str:
        return ast.unparse(type(node)(**{**dict(ast.iter_fields(node)), **fields}))

    def swapped(op: ast.AST) -> ast.AST:
        return _SWAPS[type(op)]()

    if isinstance(node, ast.Compare):
        for k, op in enumerate(node.ops):
            yield f"({with_fields(ops=[*node.ops[:k], swapped(op), *node.ops[k + 1 :]])})"
    elif isinstance(node, (ast.BoolOp, ast.BinOp)) and type(node.op) in _SWAPS:
        yield f"({with_fields(op=swapped(node.op))})"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield repr(not node.value)
        elif isinstance(node.value, (int, float)):
            yield repr(node.value + 1)
        elif isinstance(node.value, str):
            yield '""' if node.value else '"mutant"'
    elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        kind = ast.unparse(node.exc.func)
        other = ast.Call(ast.Name(_ERRORS.get(kind, "TypeError")), node.exc.args, [])
        yield with_fields(exc=other)
    elif isinstance(node, ast.Return) and node.value is not None:
        yield "return None"
    if isinstance(node, _DELETED):
        yield "pass"


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes that may be changed: no docstring, no annotation, no part of an f-string."""
    if isinstance(tree, ast.JoinedStr):  # before Python 3.12 its parts have no places
        return
    yield tree
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue
            if isinstance(child, ast.AST):
                yield from nodes(child)


def place(source: bytes, node: ast.AST) -> tuple[int, int]:
    """The bytes of a node in its source."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    begin = starts[node.lineno - 1] + node.col_offset
    return begin, starts[node.end_lineno - 1] + node.end_col_offset


def mutants(target: str) -> list[Mutant]:
    """All mistakes of a file, or of one class or function of it."""
    name, _, part = target.partition("::")
    source = (ROOT / name).read_bytes()
    tree: ast.AST = ast.parse(source)
    if part:
        (tree,) = (one for one in tree.body if getattr(one, "name", "") == part)
    found = []
    for node in nodes(tree):
        conditions = [node.test] if isinstance(node, (ast.If, ast.IfExp, ast.While)) else []
        new = [(one, f"(not ({ast.unparse(one)}))") for one in conditions]
        new += [(node, text) for text in changes(node)]
        for one, text in new:
            begin, end = place(source, one)
            whole = (source[:begin] + text.encode() + source[end:]).decode()
            found.append(Mutant(Path(name), one.lineno, one.end_lineno, whole))
    return [one for one in found if is_python(one.source)]


def is_python(source: str) -> bool:
    """Whether a source compiles, as one without `pass` in a lambda may not."""
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def run(tree: Path, *command: str, most: float | None = None) -> tuple[int, str]:
    """Exit status and output of tests in a copy of the tree; 124: it took too long."""
    env = {**os.environ, "PYTHONPATH": str(tree), "NUMBA_CACHE_DIR": str(tree / "cache")}
    try:
        done = subprocess.run(
            [sys.executable, *command], cwd=tree, env=env, timeout=most, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 124, ""
    return done.returncode, done.stdout


PYTEST = ("-m", "pytest", "-n0", "-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0")


def _link(of: str | Path, to: str | Path) -> None:
    """The same file under another name, or a copy of it on another disk."""
    try:
        os.link(of, to)
    except OSError:
        shutil.copy2(of, to)


def prepare(tree: Path, tests: list[str]) -> tuple[coverage.CoverageData, float]:
    """Copy the checkout and fill its cache; which tests run each line, and their seconds."""
    for folder in ("numadam", "tests", "docs"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=_NOT_COPIED)
    for path in (*ROOT.glob("*.md"), ROOT / "pyproject.toml"):
        shutil.copy2(path, tree)
    # a mistake in a file that loops depend on would have all of them compiled again
    path = tree / "numadam" / "_jit" / "cache.py"
    stamps = {name: cache.source_stamp(name) for name in cache._COMPILED_INTO}
    path.write_text(f"{path.read_text()}\n\nsource_stamp = {stamps!r}.__getitem__\n")
    (tree / "cache" / "numadam").mkdir(parents=True)
    for folder in cache.folders():
        for entry in folder.glob("*.loop"):
            _link(entry, tree / "cache" / "numadam" / entry.name)
    (tree / ".coveragerc").write_text("[run]\ndynamic_context = test_function\nsource = numadam\n")
    for command in (PYTEST, ("-m", "coverage", "run", *PYTEST)):
        begin = time.monotonic()
        status, said = run(tree, *command, *tests)
        if status:
            raise SystemExit(f"The tests fail without a mistake:\n{said}")
    data = coverage.CoverageData(str(tree / ".coverage"))
    data.read()
    return data, time.monotonic() - begin


def tests_of(mutant: Mutant, lines: dict[int, list[str]], tests: list[str]) -> list[str]:
    """The tests that run the lines of a mistake; all where a line runs at import, or in none."""
    names = {name for k in range(mutant.line, mutant.end + 1) for name in lines.get(k, ())}
    chosen = set()
    for name in names:
        module, _, function = name.rpartition(".")
        path = module.replace(".", "/") + ".py"
        if not is_test(path, function):
            return tests
        chosen.add(f"{path}::{function}")
    return sorted(chosen) or tests


@functools.cache
def is_test(path: str, function: str) -> bool:
    """Whether pytest finds a test of this name: coverage takes any function that is called so."""
    file = ROOT / path
    return file.name.startswith("test_") and f"\ndef {function}(" in file.read_text()


def is_noticed(mutant: Mutant, pristine: Path, tests: list[str], most: float) -> bool:
    """Whether a test fails, or runs too long, in a copy of the tree with the mistake."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(pristine, tree, copy_function=_link)
        (tree / mutant.path).unlink()
        (tree / mutant.path).write_text(mutant.source)
        return run(tree, *PYTEST, *tests, most=most)[0] != 0


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--tests", nargs="+", required=True)
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all-tests", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    todo = [one for target in given.files for one in mutants(target)]
    if given.sample is not None and given.sample < len(todo):
        todo = random.Random(given.seed).sample(todo, given.sample)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        data, seconds = prepare(tree, given.tests)
        lines = {str(one.path): data.contexts_by_lineno(str(tree / one.path)) for one in todo}
        most = _SLOWER * seconds + _GRACE

        def judge(mutant: Mutant) -> bool:
            covers = {} if given.all_tests else lines[str(mutant.path)]
            chosen = tests_of(mutant, covers, given.tests)
            noticed = is_noticed(mutant, tree, chosen, most)
            if not noticed:
                old = (ROOT / mutant.path).read_text().splitlines()
                diff = difflib.unified_diff(old, mutant.source.splitlines(), lineterm="", n=0)
                print(f"{mutant.path}:{mutant.line}", *list(diff)[3:], sep="\n", flush=True)
            return noticed

        with ThreadPoolExecutor(given.jobs) as pool:
            noticed = list(pool.map(judge, todo))
    score = defaultdict(Counter)
    for mutant, known in zip(todo, noticed, strict=True):
        score[str(mutant.path)][known] += 1
        score["all"][known] += 1
    for name, counts in score.items():
        print(f"{name}: {counts[True]} of {counts.total()}, {counts[True] / counts.total():.1%}")


if __name__ == "__main__":
    main()
