"""Branch coverage of the package: every folder of the tests in a process of its own, combined.

    pip install -e ".[test,coverage]"
    python tests/campaigns/branch_coverage.py

About two hours on two cores: the tracer makes compiling three times slower. The tests of a GPU run
on an emulated one. Compiled code of `numadam.nopython` runs where Python sees it, under
NUMBA_DISABLE_JIT, in processes that its tests start. What exists only compiled is left out;
`[tool.coverage.report]` in pyproject.toml says why.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def parts() -> list[list[str]]:
    """Arguments of pytest, for each process."""
    tests = ROOT / "tests"
    folders = sorted({path.parent for path in tests.glob("*/test_*.py")})
    files = sorted(tests.glob("test_*.py"))
    found = [[str(path.relative_to(ROOT))] for path in [*folders, *files]]
    found.append(["numadam"])  # examples of the docstrings
    found.append(["tests/cuda/gpu", "--emulate"])
    return found


def traced(tests: list[str]) -> bool:
    """Run tests under the tracer; whether all passed."""
    # a folder without tests (exit 5) is no failure
    command = [sys.executable, "-m", "coverage", "run", "-m", "pytest", "-n0", "-q", *tests]
    print(f"=== {' '.join(tests)}", flush=True)
    done = subprocess.run(command, cwd=ROOT)
    return done.returncode in (0, 5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="TEXT", help="parts with this text in their tests")
    parser.add_argument("--keep", action="store_true", help="add to the data of the last run")
    chosen = parser.parse_args()
    tool = [sys.executable, "-m", "coverage"]
    if not chosen.keep:
        subprocess.run([*tool, "erase"], cwd=ROOT, check=True)
    failed = [
        tests for tests in parts() if (chosen.only or "") in " ".join(tests) and not traced(tests)
    ]
    append = ["--append"] if chosen.keep else []
    subprocess.run([*tool, "combine", "-q", *append], cwd=ROOT, check=False)
    report = subprocess.run([*tool, "report"], cwd=ROOT)
    if failed:
        print("failed under the tracer:", *(name for tests in failed for name in tests))
    return int(bool(failed)) or report.returncode


if __name__ == "__main__":
    raise SystemExit(main())
