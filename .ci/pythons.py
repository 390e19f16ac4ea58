"""The tests on other Pythons and other versions of the dependencies: bash .ci/run pythons.

On the oldest Python that pyproject.toml lists with the oldest versions that it names; on every
newer one with the newest versions, there also some tests in eight threads each; on the oldest and
the newest also without the packages for CUDA, which allow fewer versions of NumPy. A Python that is
not on this machine is named in a line.

    python .ci/pythons.py SCRATCH [TESTS...]
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Tests that pytest-run-parallel runs in so many threads at once; none shares arrays with itself.
THREADS, CONCURRENT = (
    8,
    [
        "tests/faults/test_concurrent.py",
        "tests/minimize/test_minimize.py",
        "tests/optimizer/test_functional.py",
        "tests/optimizer/test_state.py",
        "tests/optimizer/test_step_arguments.py",
    ],
)


def listed() -> list[str]:
    """The versions of Python that pyproject.toml lists, oldest first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = re.findall(r"Python :: 3\.(\d+)", "\n".join(project["classifiers"]))
    return [f"3.{minor}" for minor in sorted(map(int, found))]


def interpreter(version: str) -> str | None:
    """A Python of this version: on the path, or of pyenv."""
    of_pyenv = (Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin")
    for folder in [None, *map(str, of_pyenv)]:
        path = shutil.which(f"python{version}", path=folder)
        # pyenv's stand-in for a version that is not chosen ends with an error
        if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return path
    return None


def tests_pass(python: str, folder: Path, resolution: str, extra: str, tests: list[str]) -> bool:
    """Install with an extra into a new environment, and run the tests there."""
    inside = str(folder / "bin" / "python")
    install = ["uv", "pip", "install", "-q", "--python", inside, "--resolution", resolution]
    commands = [
        [python, "-m", "venv", str(folder)],
        [*install, "-e", f".[{extra},threads]"],
        [inside, "-m", "pytest", *tests],
    ]
    if not tests and resolution == "highest":
        commands.append(
            [inside, "-m", "pytest", "-n0", f"--parallel-threads={THREADS}", *CONCURRENT]
        )
    # the cache has none of the loops of other versions, and gets none
    env = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "loops")}
    return all(subprocess.run(words, cwd=ROOT, env=env).returncode == 0 for words in commands)


def main() -> int:
    """Run all that are listed; 1 where one of them fails."""
    scratch, tests = Path(sys.argv[1]), sys.argv[2:]
    floor, *newer = listed()
    found = [version for version in newer if interpreter(version)]
    runs = [(floor, "lowest-direct", extra) for extra in ("test", "test-cuda")]
    runs += [(one, "highest", "test-cuda") for one in newer]
    runs += [(one, "highest", "test") for one in found[-1:]]
    failed = False
    for version, resolution, extra in runs:
        python = interpreter(version)
        verdict = "NOT RUN: no such Python here"
        if python is not None:
            folder = scratch / f"python{version}-{extra}"
            passed = tests_pass(python, folder, resolution, extra, tests)
            verdict, failed = "passed" if passed else "FAILED", failed or not passed
        print(f"=== Python {version}, {resolution} versions, {extra}: {verdict}", flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
