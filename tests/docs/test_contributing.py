"""The worked examples of the contributor's pages: a rule and an option, made in a copy."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import numadam

ROOT = Path(numadam.__file__).parents[1]
PAGES = ROOT / "docs" / "development"
RULE = (PAGES / "rule.md").read_text(encoding="utf-8")
OPTION = (PAGES / "option.md").read_text(encoding="utf-8")
TEXT = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
#: path and content of each file of the rule
FILES = re.findall(
    r"^\*\*\d\. [^*]+\*\*, `([\w/.]+)`[^\n]*\n\n(`{3,})\w+\n(.*?)^\2$",
    RULE,
    re.MULTILINE | re.DOTALL,
)
#: path of each file that the option changes, and the page's part on it
PARTS = re.findall(
    r"^\*\*\d\. [^*]+\*\*, `([\w/.]+)`(.*?)(?=^\*\*\d|\Z)", OPTION, re.MULTILINE | re.DOTALL
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what an example changes or runs."""
    ignored = shutil.ignore_patterns("__pycache__", "*.loop", "_build", "auto_gallery")
    for folder in ("numadam", "tests", "docs", ".github"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run_commands(page: str, checkout: Path) -> int:
    """Run the commands of a page; returns how many tests passed."""
    (commands,) = re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    scope = {"PYTHONPATH": str(checkout), "NUMBA_CACHE_DIR": str(checkout / "cache")}
    for line in commands.replace("\\\n", "").splitlines():
        _, *words = shlex.split(line)
        done = subprocess.run(
            [sys.executable, *words],
            cwd=checkout,
            env={**os.environ, **scope},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    return int(passed)


def test_three_files_make_a_rule(checkout: Path) -> None:
    assert len(FILES) == 3
    for path, _, content in FILES:
        (checkout / path).write_text(content, encoding="utf-8")
    assert run_commands(RULE, checkout) > 30
    stub = (checkout / "numadam" / "__init__.pyi").read_text(encoding="utf-8")
    assert "from numadam.rules.signum import Signum as Signum" in stub


def test_five_files_make_an_option(checkout: Path) -> None:
    assert len(PARTS) == 5
    for path, part in PARTS:
        text = (checkout / path).read_text(encoding="utf-8")
        for change in re.findall(r"^```diff\n(.*?)^```$", part, re.MULTILINE | re.DOTALL):
            lines = change.splitlines(keepends=True)
            before = "".join(line[1:] for line in lines if not line.startswith("+"))
            after = "".join(line[1:] for line in lines if not line.startswith("-"))
            assert text.count(before) == 1, f"{path} has changed: {before}"
            text = text.replace(before, after)
        (checkout / path).write_text(text, encoding="utf-8")
    assert run_commands(OPTION, checkout) > 60
    stub = (checkout / "numadam" / "_core" / "keywords.pyi").read_text(encoding="utf-8")
    assert stub.count("    warmup: int | None\n") == 4  # optimisers, minimize


def test_it_names_what_is_there() -> None:
    """Its links: tests/docs/test_pages.py."""
    for path in re.findall(r"`((?:numadam|tests|docs)/[\w/]+\.py)`", TEXT + RULE + OPTION):
        assert (ROOT / path).exists() or "signum" in path or "NAME" in path, path
    (table,) = re.findall(r"^## Where a change goes\n\n(.*?)\n\n", TEXT, re.M | re.S)
    for path in re.findall(r"`((?:_|rules/_)?[\w/]+\.py)`", table):
        assert (ROOT / "numadam" / path).exists() or (ROOT / path).exists() or "NAME" in path, path
