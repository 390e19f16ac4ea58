"""Mutation score of files: which small mistakes in them no test would notice.

    pip install -e ".[test,mutation]"
    python tests/campaigns/mutation.py numadam/_arrays/checks.py --tests tests/arrays -k refused

Cosmic Ray makes the mistakes (an operator, a number, a condition, a loop, a decorator) in a copy of
the checkout, one at a time, and the tests run on each. Printed: the share that a test noticed and
the others as diffs. Annotations are left out, and of the mistakes that one operator makes at one
place (`<` as `<=`, `==`, ...) one is drawn. It is for code that Python runs: a mistake in compiled
code is seen too, but compiles for seconds.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import apply_mutation
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[2]
Place = tuple[int, int]


def annotations(source: str) -> list[tuple[Place, Place]]:
    """Where the annotations and the imports of types are: nothing runs there."""
    found = []
    for node in ast.walk(ast.parse(source)):
        here: list[Any] = [getattr(node, name, None) for name in ("annotation", "returns")]
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            here.append(node)
        found += [
            ((one.lineno, one.col_offset), (one.end_lineno, one.end_col_offset))
            for one in here
            if one is not None
        ]
    return found


def mutants(path: Path, rng: random.Random) -> list[tuple[str, int]]:
    """Operator and occurrence of the mistakes in a file, one of each family at each place."""
    tree, apart = get_ast_from_path(path), annotations(path.read_text(encoding="utf-8"))
    families: dict[tuple[str, Place, Place], list[tuple[str, int]]] = {}
    for name in operator_names():
        kind = get_operator(name)
        if kind.arguments():  # those that rename variables want a list of names
            continue
        positions = (at for node in ast_nodes(tree) for at in kind().mutation_positions(node))
        for occurrence, (start, end) in enumerate(positions):
            if not any(first <= start and end <= last for first, last in apart):
                family = (name.split("_")[0], start, end)
                families.setdefault(family, []).append((name, occurrence))
    return [rng.choice(family) for family in families.values()]


class Copies:
    """Copies of the checkout, one for each process of tests."""

    def __init__(self, folder: Path, number: int) -> None:
        ignored = shutil.ignore_patterns("__pycache__", "*.loop", ".git", ".venv", "docs", "_build")
        self.free = [folder / str(k) for k in range(number)]
        for copy in self.free:
            shutil.copytree(ROOT, copy, ignore=ignored)

    def noticed(
        self, file: str, operator: str, occurrence: int, tests: list[str], limit: float
    ) -> Any:
        """True where the tests notice a mistake; otherwise the mistake as a diff."""
        copy = self.free.pop()
        path = copy / file
        before = path.read_text(encoding="utf-8")
        try:
            apply_mutation(path, get_operator(operator)(), occurrence)
            if not run(copy, tests, limit):
                return True
            told = subprocess.run(
                ["diff", "-U1", str(ROOT / file), str(path)], capture_output=True, text=True
            )
            return f"{file} {operator}\n" + "\n".join(told.stdout.splitlines()[2:])
        finally:
            path.write_text(before, encoding="utf-8")
            self.free.append(copy)


def run(copy: Path, tests: list[str], limit: float) -> bool:
    """Whether tests pass in a copy, in time."""
    command = [sys.executable, "-B", "-m", "pytest", "-n0", "-x", "-q", "-p", "no:cacheprovider"]
    process = subprocess.Popen(
        [*command, *tests],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(limit) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # its own group: tests start processes
        process.wait()
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="files to make mistakes in, from the checkout on")
    parser.add_argument("--tests", nargs="+", required=True, help="tests that have to notice")
    parser.add_argument("-k", default="", help="pytest's -k")
    parser.add_argument("--most", type=int, default=10**9, help="draw so many mistakes")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=float, default=0.85, help="score to reach")
    parser.add_argument("--list", action="store_true", help="count the mistakes, run nothing")
    chosen = parser.parse_args()
    rng = random.Random(chosen.seed)
    whole = [(file, *one) for file in chosen.files for one in mutants(ROOT / file, rng)]
    drawn = rng.sample(whole, min(chosen.most, len(whole)))
    print(f"{len(whole)} mistakes, {len(drawn)} drawn", flush=True)
    if chosen.list:
        print(*(f"{n:5} {name}" for name, n in Counter(one[1] for one in drawn).items()), sep="\n")
        return 0
    tests = [*chosen.tests, *shlex.split(f"-k {shlex.quote(chosen.k)}" if chosen.k else "")]
    with tempfile.TemporaryDirectory() as folder:
        copies = Copies(Path(folder), chosen.processes)
        start = time.monotonic()
        if not run(copies.free[0], tests, 3600):
            raise SystemExit("The tests fail without a mistake.")
        limit = 30 + 5 * (time.monotonic() - start)
        missed: Counter[str] = Counter()
        with ThreadPoolExecutor(chosen.processes) as pool:
            jobs = [(one, pool.submit(copies.noticed, *one, tests, limit)) for one in drawn]
            for (file, *_), job in jobs:
                if (found := job.result()) is not True:
                    missed[file] += 1
                    print(f"--- not noticed: {found}", flush=True)
    every = Counter(file for file, *_ in drawn)
    for file, number in sorted(every.items()):
        print(f"{1 - missed[file] / number:6.1%} of {number:4}  {file}")
    score = 1 - missed.total() / len(drawn)
    print(f"mutation score {score:.1%}: {len(drawn) - missed.total()} of {len(drawn)} noticed")
    return int(score < chosen.least)


if __name__ == "__main__":
    raise SystemExit(main())
