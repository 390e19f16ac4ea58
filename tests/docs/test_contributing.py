"""The worked example of CONTRIBUTING.md: its three files make a rule without another edit."""

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
TEXT = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
#: path and content of each file
FILES = re.findall(
    r"^\*\*\d\. [^*]+\*\*, `([\w/.]+)`[^\n]*\n\n(`{3,})\w+\n(.*?)^\2$",
    TEXT,
    re.MULTILINE | re.DOTALL,
)
(COMMANDS,) = re.findall(
    r"^```bash\n(python -m tests.generate\n.*?)^```$", TEXT, re.MULTILINE | re.DOTALL
)


@pytest.mark.timeout(1200)
def test_three_files_make_a_rule(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__", "*.loop", "_build", "auto_gallery")
    for folder in ("numadam", "tests", "docs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    for path, _, content in FILES:
        (tmp_path / path).write_text(content, encoding="utf-8")
    scope = {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    for line in COMMANDS.replace("\\\n", "").splitlines():
        _, *words = shlex.split(line)
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env={**os.environ, **scope},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    # the last line of pytest: more than a few tests were picked, and the examples among them
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) > 15
    stub = (tmp_path / "numadam" / "__init__.pyi").read_text(encoding="utf-8")
    assert "from numadam.rules.signum import Signum as Signum" in stub


def test_there_are_three_files():
    rule, page, reference = (path for path, _, _ in FILES)
    assert rule == "numadam/rules/signum.py"
    assert page == "docs/reference/rules/signum.md"
    assert reference.endswith("references/signum.py")


def test_it_names_what_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("https://") or (ROOT / ".github" / target).exists(), target
    for path in re.findall(r"`((?:numadam|tests|docs)/[\w/]+\.py)`", TEXT):
        assert (ROOT / path).exists() or "signum" in path, path
