"""Mutation score: how many small mistakes, put into functions one at a time, the tests notice.

python tests/campaigns/mutation.py FILES --tests PATHS: comparisons, numbers, texts, `and`, `or`,
`not`, conditions, signs and exceptions are changed, statements deleted, and the tests run for each.
`--sample N --seed S` takes N of the mistakes of each file. FILE::NAME means one class or function.
Prints those that no test noticed, and the score.

All is imported and collected once; a mistake then costs a fork of the process, in which the code of
a function is exchanged, and the tests that run its lines. So it is not tried where it is outside of
functions, or in a process that a test starts. The cache of compiled loops is a copy; a loop that
has its entry there is not compiled again, so mistakes in compiled functions are not seen.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import inspect
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import numba
import pytest

from numadam._jit import cache

ROOT = Path(__file__).parents[2]
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
#: Exit status of a fork in which a mistake was not tried.
_NOT_TRIED = 2


# --- mistakes -----------------------------------------------------------------------------------


class Mutant(NamedTuple):
    """One mistake: the new source of a file, and the lines of the old that it is in."""

    line: int
    end: int
    source: str


def _is_none(value: ast.AST | None) -> bool:
    return value is None or (isinstance(value, ast.Constant) and value.value is None)


def _is_for_types(node: ast.AST) -> bool:
    """Whether only a type checker reads it: an alias such as `Pair = ...`, or an import for it."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    names = [name.id for name in getattr(node, "targets", ()) if isinstance(name, ast.Name)]
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


def mutants(path: Path, part: str) -> list[Mutant]:
    """All mistakes of a file, or of one class or function of it."""
    source = path.read_bytes()
    tree: ast.AST = ast.parse(source)
    if part:
        (tree,) = (node for node in tree.body if getattr(node, "name", "") == part)
    found = []
    for node in nodes(tree):
        conditions = [node.test] if isinstance(node, (ast.If, ast.IfExp, ast.While)) else []
        texts = [(test, f"(not ({ast.unparse(test)}))") for test in conditions]
        texts += [(node, text) for text in changes(node)]
        for changed, text in texts:
            begin, end = place(source, changed)
            whole = (source[:begin] + text.encode() + source[end:]).decode()
            found.append(Mutant(changed.lineno, changed.end_lineno, whole))
    return [mutant for mutant in found if is_python(mutant.source)]


def is_python(source: str) -> bool:
    """Whether a source compiles, as one without `pass` in a lambda may not."""
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


# --- exchange of code ---------------------------------------------------------------------------


def _codes(code: CodeType) -> dict[str, CodeType]:
    """Code of functions that are not inside another, by qualified name; "" has the rest of it."""
    found, rest = {}, [code.co_code.hex()]
    for const in code.co_consts:
        if not isinstance(const, CodeType):
            rest.append(repr(const))
        elif const.co_flags & inspect.CO_NEWLOCALS and const.co_flags & inspect.CO_OPTIMIZED:
            found[const.co_qualname] = const
        else:  # the body of a class
            below = _codes(const)
            rest.append(below.pop(""))
            found |= below
    rest += code.co_names
    return {**found, "": "\n".join(rest)}


def _function(module: ModuleType, name: str) -> FunctionType | None:
    """A function or method by its qualified name, below its decorators."""
    found: Any = module
    for part in name.split("."):
        found = vars(found).get(part)
    for below in ("fget", "func", "__func__", "py_func"):
        found = getattr(found, below, found)
    found = inspect.unwrap(found) if callable(found) else None
    return found if isinstance(found, FunctionType) else None


def exchange(module: ModuleType, old: str, new: str) -> bool:
    """Put the functions of another source into a module; whether that is all that differs."""
    before, after = (_codes(compile(text, module.__file__, "exec")) for text in (old, new))
    if before.keys() != after.keys() or before[""] != after[""]:
        return False
    changed = [name for name in after if name and before[name] != after[name]]
    functions = [_function(module, name) for name in changed]
    if not changed or None in functions:
        return False
    for function, name in zip(functions, changed, strict=True):
        if function.__code__.co_freevars != after[name].co_freevars:
            return False
        function.__code__ = after[name]
    return True


# --- trials -------------------------------------------------------------------------------------


def forked(work: Callable[[], int], most: float = 3600.0) -> int:
    """Exit status of ``work()`` in a fork; 1 where it takes too long."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.setsid()
            status = work()
        finally:
            sys.stdout.flush()
            os._exit(status)
    end = time.monotonic() + most
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 1


def fails(items: list[pytest.Item]) -> bool:
    """Whether one of these tests fails; those after it do not run."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if item.session.testsfailed:
            return True
    return False


def trace(items: list[pytest.Item], paths: set[str], to: Path) -> int:
    """Run all tests, and write which of them run each line of some files; 1 where one fails."""
    lines: dict[str, set[int]] = defaultdict(set)
    now = 0

    def local(frame: Any, event: str, arg: Any) -> Any:
        lines[f"{frame.f_code.co_filename}:{frame.f_lineno}"].add(now)
        return local

    sys.settrace(lambda frame, event, arg: local if frame.f_code.co_filename in paths else None)
    for k, item in enumerate(items):
        now = k
        if fails([item]):
            return 1
    sys.settrace(None)
    modules = [name for name in sys.modules if name.startswith("numadam.")]
    to.write_text(json.dumps([{line: sorted(found) for line, found in lines.items()}, modules]))
    return 0


class Trials:
    """Pytest plugin that tries mistakes in place of running the tests."""

    def __init__(self, given: argparse.Namespace, scratch: Path) -> None:
        self._given, self._scratch = given, scratch

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Find the tests of each line, then try all mistakes and print the scores."""
        targets = [target.partition("::") for target in self._given.files]
        paths = {str(ROOT / name) for name, _, _ in targets}
        begin, known = time.monotonic(), self._scratch / "lines.json"
        if forked(lambda: trace(session.items, paths, known)):
            raise pytest.UsageError("The tests fail without a mistake.")
        session.config.pluginmanager.unregister(name="terminalreporter")
        most = _SLOWER * (time.monotonic() - begin) + _GRACE
        lines, modules = json.loads(known.read_text())
        for name in modules:  # once, and not in each fork
            importlib.import_module(name)
        noticed = tried = 0
        for name, _, part in targets:
            found = self._try_all(session.items, name, part, lines, most)
            print(f"{name}: {sum(found)} of {len(found)}", flush=True)
            noticed, tried = noticed + sum(found), tried + len(found)
        print(f"all: {noticed} of {tried}, {noticed / max(tried, 1):.1%}")
        return True

    def _try_all(
        self, items: list[pytest.Item], name: str, part: str, lines: Any, most: float
    ) -> list[bool]:
        """Whether the tests notice each mistake of a file that can be tried."""
        todo, sample = mutants(ROOT / name, part), self._given.sample
        if sample is not None and sample < len(todo):
            todo = random.Random(self._given.seed).sample(todo, sample)
        module = importlib.import_module(".".join(Path(name).with_suffix("").parts))
        old, found = (ROOT / name).read_text(), []
        for mutant in todo:
            places = (f"{ROOT / name}:{line}" for line in range(mutant.line, mutant.end + 1))
            chosen = sorted({k for place in places for k in lines.get(place, ())})

            def judge(mutant: Mutant = mutant, chosen: list[int] = chosen) -> int:
                if not exchange(module, old, mutant.source):
                    return _NOT_TRIED
                return int(fails([items[k] for k in chosen]))

            status = forked(judge, most)
            if status != _NOT_TRIED:
                found.append(status != 0)
            if status == 0:
                diff = difflib.unified_diff(
                    old.splitlines(), mutant.source.splitlines(), lineterm="", n=0
                )
                print(f"{name}:{mutant.line}", *list(diff)[3:], sep="\n", flush=True)
        return found


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--tests", nargs="+", required=True)
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copies = Path(folder) / "numadam"
        copies.mkdir()
        for entry in (path for place in cache.folders() for path in place.glob("*.loop")):
            shutil.copy2(entry, copies)
        os.environ["NUMBA_CACHE_DIR"] = numba.config.CACHE_DIR = folder
        cache.folders.cache_clear()
        words = ["-n0", "-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
        pytest.main([*words, *given.tests], plugins=[Trials(given, Path(folder))])


if __name__ == "__main__":
    main()
