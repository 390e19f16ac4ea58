"""Mutation score: how many small mistakes, put into a file one at a time, its tests notice.

python tests/campaigns/mutation.py FILES --tests PATHS: comparisons, numbers, texts, `and`, `or`,
`not`, conditions, signs and exceptions are changed, statements deleted, and the tests run for each.
`--sample N --seed S` takes N of the mistakes of each file. FILE::NAME means one class or function.
Prints those that no test noticed, and the score.

A mistake in a function is tried in a fork of a process that has imported all (`in_place.py`), by
the tests that run its lines. Others, and with `--all-tests` all, for lines that run in processes
which a test starts, are tried by all tests, each in a copy of the tree. The cache of compiled loops
is a copy; a loop that has its entry there is not compiled again, so mistakes in compiled functions
are not seen.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

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
_ALIAS = re.compile("_?[A-Z][a-z]")
_DELETED = (ast.Expr, ast.Assign, ast.AugAssign, ast.Raise, ast.Delete, ast.Continue, ast.Break)
#: of a run: so many times the time of the tests without a mistake, and seconds besides
_SLOWER, _GRACE = 5, 30


class Mutant(NamedTuple):
    """One mistake: the new source of a file, and the lines of the old that it is in."""

    path: Path
    line: int
    end: int
    source: str


def _is_none(value: ast.AST | None) -> bool:
    return value is None or (isinstance(value, ast.Constant) and value.value is None)


def _is_for_types(node: ast.AST) -> bool:
    """Whether only a type checker reads it: an alias such as `Pair = ...`, or an import for it."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    names = [one.id for one in getattr(node, "targets", ()) if isinstance(one, ast.Name)]
    return any(_ALIAS.match(name) for name in names)


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
    elif isinstance(node, ast.Return) and not _is_none(node.value):
        yield "return None"
    if isinstance(node, _DELETED):
        yield "pass"


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes that may be changed: no docstring, no type, no part of an f-string."""
    # before Python 3.12 the parts of an f-string have no places
    if isinstance(tree, ast.JoinedStr) or _is_for_types(tree):
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


def prepare(tree: Path) -> None:
    """Copy the checkout and its cache."""
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


def is_noticed(mutant: Mutant, pristine: Path, tests: list[str], most: float) -> bool:
    """Whether a test fails, or runs too long, in a copy of the tree with the mistake."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(pristine, tree, copy_function=_link)
        (tree / mutant.path).unlink()
        (tree / mutant.path).write_text(mutant.source)
        return run(tree, *PYTEST, *tests, most=most)[0] != 0


def in_place(tree: Path, todo: list[Mutant], tests: list[str]) -> list[bool | None]:
    """What the tests notice of mistakes in one file; None for one that is not in a function."""
    work = tree / "mutants.json"
    module = ".".join(todo[0].path.with_suffix("").parts)
    asked = [(one.line, one.end, one.source) for one in todo]
    work.write_text(json.dumps({"module": module, "mutants": asked}))
    said = run(tree, *PYTEST, "-p", "tests.campaigns.in_place", *tests)[1]
    noticed: Any = json.loads(work.read_text())
    if not isinstance(noticed, list):
        raise SystemExit(f"The tests fail without a mistake:\n{said[-3000:]}")
    return noticed


def report(mutant: Mutant) -> None:
    """Print a mistake that no test noticed."""
    old = (ROOT / mutant.path).read_text().splitlines()
    diff = difflib.unified_diff(old, mutant.source.splitlines(), lineterm="", n=0)
    print(f"{mutant.path}:{mutant.line}", *list(diff)[3:], sep="\n", flush=True)


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
    known = tried = 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(given.jobs) as pool:
        tree = Path(folder) / "tree"
        prepare(tree)
        for target in given.files:
            todo = mutants(target)
            if given.sample is not None and given.sample < len(todo):
                todo = random.Random(given.seed).sample(todo, given.sample)
            begin = time.monotonic()
            found: list[bool | None] = [None] * len(todo)
            if not given.all_tests:
                found = in_place(tree, todo, given.tests)
            elif status := run(tree, *PYTEST, *given.tests)[0]:
                raise SystemExit(f"The tests fail without a mistake: {status}")
            most = _SLOWER * (time.monotonic() - begin) + _GRACE
            rest = [one for one, was in zip(todo, found, strict=True) if was is None]
            judged = pool.map(lambda one, most=most: is_noticed(one, tree, given.tests, most), rest)
            found = [next(judged) if was is None else was for was in found]
            for one, was in zip(todo, found, strict=True):
                if not was:
                    report(one)
            known, tried = known + sum(map(bool, found)), tried + len(found)
            print(f"{target}: {sum(map(bool, found))} of {len(found)}", flush=True)
    print(f"all: {known} of {tried}, {known / tried:.1%}")


if __name__ == "__main__":
    main()
