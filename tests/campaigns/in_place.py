"""Pytest plugin that tries mistakes in functions: the code is exchanged in a fork of the process.

All is imported and collected once; a mistake then costs a fork and the tests that run its lines.
`mutants.json` has the name of the module, and lines and source of each mistake; what the tests
noticed of each is written into it: true, false, or null for one that is not in a function.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

#: of a run: so many times the time of the tests without a mistake, and seconds besides
_SLOWER, _GRACE = 5, 30


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
    before, after = (_codes(compile(one, module.__file__, "exec")) for one in (old, new))
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


def _run(items: list[pytest.Item]) -> bool:
    """Whether a test fails."""
    for k, item in enumerate(items):
        following = items[k + 1] if k + 1 < len(items) else None
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if item.session.testsfailed:
            return True
    return False


def _forked(work: Any, most: float | None = None) -> int:
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
    end = time.monotonic() + (most or 3600.0)
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 1


def _trace(items: list[pytest.Item], path: str, to: Path) -> int:
    """Run all tests, and write which of them run each line of a file; 1 where one fails."""
    lines: dict[int, set[int]] = {}
    now = 0

    def local(frame: Any, event: str, arg: Any) -> Any:
        lines.setdefault(frame.f_lineno, set()).add(now)
        return local

    def trace(frame: Any, event: str, arg: Any) -> Any:
        return local if frame.f_code.co_filename == path else None

    sys.settrace(trace)
    for k, item in enumerate(items):
        now = k
        if _run([item]):
            return 1
    sys.settrace(None)
    modules = [name for name in sys.modules if name.startswith("numadam.")]
    kept = {line: sorted(found) for line, found in lines.items()}
    to.write_text(json.dumps({"lines": kept, "modules": modules}))
    return 0


def pytest_runtestloop(session: pytest.Session) -> bool:
    """Try all mistakes, in place of running the tests."""
    work = Path("mutants.json").resolve()
    todo = json.loads(work.read_text())
    module = importlib.import_module(todo["module"])
    traced, old = work.with_suffix(".lines"), Path(module.__file__).read_text()
    begin = time.monotonic()
    if _forked(lambda: _trace(session.items, module.__file__, traced)):
        raise pytest.UsageError("The tests fail without a mistake.")
    most = _SLOWER * (time.monotonic() - begin) + _GRACE
    known = json.loads(traced.read_text())
    for name in known["modules"]:  # once, and not in each fork
        importlib.import_module(name)
    lines = {int(line): found for line, found in known["lines"].items()}
    noticed: list[bool | None] = []
    for line, end, source in todo["mutants"]:
        chosen = sorted({k for at in range(line, end + 1) for k in lines.get(at, ())})
        items = [session.items[k] for k in chosen]

        def judge(source: str = source, items: list[pytest.Item] = items) -> int:
            return 2 if not exchange(module, old, source) else int(_run(items))

        status = _forked(judge, most)
        noticed.append(None if status == 2 else status != 0)
    work.write_text(json.dumps(noticed))
    return True
