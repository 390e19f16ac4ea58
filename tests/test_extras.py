"""Marks of tests that need an extra: they skip without it, and fail where CI has installed it."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import numadam
from numadam import _version
from tests import extras

ROOT = Path(numadam.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NEEDED = PROJECT["project"]["optional-dependencies"]


def test_without_its_package_a_test_skips_and_names_the_extra():
    with pytest.raises(pytest.skip.Exception, match=r"no_such is not installed: .*\[test-mpi\]"):
        extras.require("mpi", "no_such")
    extras.require("mpi", "numpy")


def test_where_the_extra_is_installed_it_fails(monkeypatch):
    monkeypatch.setattr(extras, "INSTALLED", {"peers"})
    with pytest.raises(pytest.fail.Exception, match=r"names peers: no_such is not installed"):
        extras.require("peers", "no_such")
    with pytest.raises(pytest.skip.Exception):
        extras.require("mpi", "no_such")


def test_a_wrong_name_in_the_variable_is_refused():
    done = subprocess.run(
        [sys.executable, "-c", "import tests.extras"],
        cwd=ROOT,
        env={**os.environ, "NUMADAM_EXTRAS": "peers,cude"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "NUMADAM_EXTRAS: expected some of cuda, mpi" in done.stderr
    assert "'cude'" in done.stderr


def test_marks_have_an_extra_and_a_stage_that_names_them():
    declared = [
        line.partition(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]
    ]
    stages = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    named = set(re.findall(r"NUMADAM_EXTRAS=([\w,]+)", stages))
    for mark, (extra, _) in extras.EXTRAS.items():
        assert {mark, f"{mark}(*packages)"} & set(declared)
        assert extra in NEEDED
        assert any(mark in names.split(",") for names in named)
        assert f"\n{mark} " in stages


def test_the_tests_alone_bring_no_cuda():
    """It was 0.8 GB of 1.5."""
    assert not [need for need in NEEDED["test"] if re.search("cuda|cupy|numadam", need)]


def test_no_index_is_advised_that_has_no_numadam():
    places = [*(ROOT / "numadam").rglob("*.py"), ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for path in places:
        if path == ROOT / "docs" / "releasing.md":  # of the time when an index has it
            continue
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"pip install [^\n`&]*\bnumadam\b", text), path


def test_the_command_installs_from_the_checkout():
    assert _version.install_command("demo") == f'pip install -e "{ROOT}[demo]"'


def test_elsewhere_the_command_names_the_packages(monkeypatch, tmp_path):
    """No package index has numadam."""
    monkeypatch.setattr(_version, "__file__", str(tmp_path / "numadam" / "_version.py"))
    lines = [
        "numpy>=2",
        'a[x]>=1; extra == "demo"',
        "b>2 ; sys_platform == 'k' and extra == 'demo'",
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    assert _version.install_command("demo") == 'pip install "a[x]>=1" "b>2"'
    assert _version.install_command("none") == "install the packages of its extra none"
