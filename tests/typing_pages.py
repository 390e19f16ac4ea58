"""Programs of README, pages and docstrings, checked for types as a user's editor does.

``python -m tests.typing_pages mypy basedpyright`` writes one program for each page, one for the
examples of each public docstring, and one that calls every rule, and runs these checkers on them.
What a checker reports, it names by page.
"""

from __future__ import annotations

import doctest
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numadam
from numadam import rules
from tests.pages import BLOCK, DROP_INS

ROOT = Path(numadam.__file__).parents[1]
sys.path.append(str(ROOT / "docs" / "_ext"))
public_names = import_module("public_names").public_names

#: Of the checkers, as of a user who has set nothing but that functions without types are read.
#: What other packages say about themselves is not looked for: they need not be there.
MYPY = """
[mypy]
check_untyped_defs = True
allow_redefinition = True
ignore_missing_imports = True
disable_error_code = no-redef
[mypy-numadam.*]
ignore_errors = True
[mypy-torch.*,jax.*,matplotlib.*,sklearn.*,cupy.*,mpi4py.*]
follow_imports = skip
"""
PYRIGHT = {
    "typeCheckingMode": "standard",
    "extraPaths": [str(ROOT)],
    "reportMissingImports": "none",
    "reportMissingModuleSource": "none",
    "reportRedeclaration": "none",  # a page defines one name in several examples
    "reportPossiblyUnboundVariable": "none",  # loops of examples have at least one turn
}
#: By page, parts of reports that are not about numadam's types: they are about types that a checker
#: infers from the source of other packages, or about the attribute that a run adds to the user's
#: exceptions, which no type can have.
OTHERS = {
    "docs_how_to_checkpoint": ("numadam_result",),
    "docs_how_to_minimize": ("numadam_result",),
    "docs_how_to_own_solver": ("ndim", 'annotation for "i"', "(targets: Unknown"),  # Numba
    "docs_how_to_drop_ins_basinhopping": ('named "seed"',),
    "docs_how_to_drop_ins_pacmap": ('attribute "data"',),  # scikit-learn
    "docs_how_to_drop_ins_pennylane": ('"accumulation"', "likely involving Union", "object | Any"),
    "docs_tutorials_five_minutes": ("LinearOperator",),  # SciPy
}


def of_pages() -> Iterator[tuple[str, str]]:
    """The programs of README and pages: name, and the blocks of one in their order.

    A block that imports numadam begins another program: readers copy it without those before.
    """
    pages = [page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts]
    for page in [ROOT / "README.md", *sorted(pages)]:
        programs: list[str] = []
        for _, code in BLOCK.findall(page.read_text(encoding="utf-8")):
            if "import numadam" in code or not programs:
                programs.append("")
            programs[-1] += f"{code}\n"
        name = page.relative_to(ROOT).with_suffix("").as_posix()
        yield from ((f"{name}-{k}", code) for k, code in enumerate(programs, 1))
    for file in sorted(DROP_INS.glob("*.py")):
        name = file.relative_to(ROOT).with_suffix("").as_posix()
        yield f"{name}-1", file.read_text(encoding="utf-8")


def of_docstrings() -> Iterator[tuple[str, str]]:
    """The examples of each public name and of its methods: name, and program."""
    for thing in public_names().values():
        for test in doctest.DocTestFinder().find(thing):
            if test.examples:
                home = thing.__module__
                imported = f"from {home} import {thing.__name__}  # as in its module\n"
                name = f"{home}.{test.name}"
                yield name, imported + "".join(one.source for one in test.examples)


def _calls() -> Iterator[tuple[str, str]]:
    """Of each class and function of a rule a call, and the keywords in it that have a value."""
    empty, by_name = inspect.Parameter.empty, inspect.Parameter.KEYWORD_ONLY
    functions = [getattr(numadam, rules.function_name(file)) for file in rules.CLASSES]
    for function in [*rules.classes().values(), *functions]:
        given = inspect.signature(function).parameters.values()
        needed = [one.name for one in given if one.default is empty and one.name != "shared"]
        values = {"params": "x", "p": "x", "g": "g", "t": "1"}
        arrays = ", ".join(values.get(name, "np.zeros(3)") for name in needed)
        options = [one for one in given if one.kind is by_name and one.default is not None]
        keywords = "".join(f", {one.name}={one.default!r}" for one in options)
        yield f"na.{function.__name__}({arrays}", keywords


def of_rules() -> str:
    """A program with every option that a rule declares, and with one that no rule has.

    Checkers see that one, or an ignore is one too many, which they report.
    """
    calls = [*_calls()]
    good = "".join(f"    {begin}{keywords})\n" for begin, keywords in calls)
    bad = "".join(f"    {begin}, unknown=1)  # type: ignore[call-arg]\n" for begin, _ in calls)
    return f"""\
# mypy: warn-unused-ignores
# pyright: reportUnnecessaryTypeIgnoreComment=error
import numpy as np
import numadam as na

x, g = np.ones(3), np.full(3, 0.5)

def every_rule() -> None:
{good}
def refused() -> None:
{bad}"""


def write(folder: Path) -> int:
    """Write all programs into a folder; returns how many there are."""
    found = dict([*of_pages(), *of_docstrings(), ("rules", of_rules())])
    for name, code in found.items():
        path = folder / f"{name.replace('/', '_').replace('.', '_').replace('-', '_')}.py"
        path.write_text(code, encoding="utf-8")
    return len(found)


def mypy(folder: Path) -> list[str]:
    """Errors of mypy in a folder of programs."""
    (folder / "mypy.ini").write_text(MYPY, encoding="utf-8")
    files = sorted(path.name for path in folder.glob("*.py"))
    done = _run(folder, ["-m", "mypy", "--no-error-summary", *files])
    if done.returncode not in (0, 1):
        raise SystemExit(f"mypy: {done.stdout}{done.stderr}")
    return [line for line in done.stdout.splitlines() if ": error: " in line]


def basedpyright(folder: Path) -> list[str]:
    """Errors of basedpyright in a folder of programs."""
    (folder / "pyrightconfig.json").write_text(json.dumps(PYRIGHT), encoding="utf-8")
    options = ["--outputjson", "--level", "error", "--pythonpath", sys.executable]
    done = _run(folder, ["-m", "basedpyright", *options])
    report = json.loads(done.stdout)
    if report["summary"]["filesAnalyzed"] < len([*folder.glob("*.py")]):
        raise SystemExit(f"basedpyright left programs out: {report['summary']}")
    return [
        f"{Path(one['file']).name}:{one['range']['start']['line'] + 1}: {one['message']} "
        f"[{one.get('rule')}]"
        for one in report["generalDiagnostics"]
        if one["severity"] == "error"
    ]


def _run(folder: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    scope = {**os.environ, "MYPYPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=scope, capture_output=True, text=True, check=False
    )


def is_of_others(report: str) -> bool:
    """Whether a report is about the types of another package."""
    page = report.partition(".py:")[0].rpartition("_")[0]
    return any(part in report for part in OTHERS.get(page, ()))


CHECKERS = {"mypy": mypy, "basedpyright": basedpyright}


def main(names: list[str]) -> int:
    """Check all programs with each of the named checkers; returns how many errors there are."""
    errors = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        count = write(folder)
        for name in names:
            found = CHECKERS[name](folder)
            ours = [line for line in found if not is_of_others(line)]
            errors += len(ours)
            print("".join(f"{line}\n" for line in ours), end="")
            apart = f"{len(found) - len(ours)} left out, of other packages"
            print(f"{name}: {count} programs, {len(ours)} errors ({apart})")
    return errors


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [*CHECKERS]) > 0)
