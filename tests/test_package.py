"""Shipped files: built distributions, their metadata, and the files that name the version.

`.ci/run` builds them and says where in NUMADAM_DIST; elsewhere these tests skip.
"""

from __future__ import annotations

import calendar
import hashlib
import os
import re
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

import numadam

ROOT = Path(numadam.__file__).parents[1]
NAME = f"numadam-{numadam.__version__}"
#: In a distribution's metadata these labels mean something to package indexes.
LABELS = {"Homepage", "Source", "Documentation", "Changelog", "Issues", "Funding"}


@pytest.fixture(scope="module")
def built() -> Path:
    """The folder with sdist and the wheel made of it; in `direct` the wheel made of the tree."""
    if "NUMADAM_DIST" not in os.environ:
        pytest.skip("NUMADAM_DIST names no folder with built distributions: see .ci/run")
    return Path(os.environ["NUMADAM_DIST"])


def wheel_files(folder: Path) -> dict[str, bytes]:
    """The files of the only wheel in a folder."""
    (path,) = folder.glob("*.whl")
    assert path.name == f"{NAME}-py3-none-any.whl"
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist()}


def sdist_files(folder: Path) -> set[str]:
    """Names of the files in the sdist, from its own folder on."""
    with tarfile.open(folder / f"{NAME}.tar.gz") as sdist:
        return {m.name.removeprefix(f"{NAME}/") for m in sdist.getmembers() if m.isfile()}


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the distributions in a folder."""
    files = (*folder.glob("*.tar.gz"), *folder.glob("*.whl"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def sources(*suffixes: str) -> set[str]:
    """Files of the package in this checkout, from the checkout on."""
    found = (ROOT / "numadam").rglob("*")
    return {path.relative_to(ROOT).as_posix() for path in found if path.suffix in suffixes}


SHIPPED = sources(".py", ".typed", ".npz", ".txt")
STUBS = sources(".pyi")
OF_DIGITS = "licenses/numadam/demos/digits-LICENSE.txt"


def metadata(files: dict[str, bytes]) -> Message:
    return message_from_bytes(files[f"{NAME}.dist-info/METADATA"])


def test_the_wheel_is_the_package_and_nothing_else(built: Path) -> None:
    files = set(wheel_files(built))
    notes = {name for name in files if name.startswith(f"{NAME}.dist-info/")}
    assert files - notes == SHIPPED | STUBS
    expected = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE", OF_DIGITS)
    assert notes == {f"{NAME}.dist-info/{name}" for name in expected}
    assert {"numadam/py.typed", "numadam/__init__.pyi", "numadam/demos/mlp.py"} <= files


def test_stubs_of_a_build_are_those_of_this_checkout(built: Path) -> None:
    """The build has stand-ins for numba and the others; tests/rules hold these to the rules."""
    files = wheel_files(built)
    for name in STUBS:
        assert files[name] == (ROOT / name).read_bytes(), name


def test_the_wheel_of_the_sdist_is_that_of_the_tree(built: Path) -> None:
    assert wheel_files(built) == wheel_files(built / "direct")


def test_a_second_build_gives_the_same_bytes(built: Path) -> None:
    """`again` was built of the unpacked sdist: another folder, other dates and other rights."""
    first = digests(built)
    assert set(first) == {f"{NAME}.tar.gz", f"{NAME}-py3-none-any.whl"}
    assert digests(built / "again") == first


def test_files_are_dated_by_the_commit(built: Path) -> None:
    """SOURCE_DATE_EPOCH reaches both; a ZIP counts in steps of two seconds."""
    then = int(os.environ["SOURCE_DATE_EPOCH"])
    with tarfile.open(built / f"{NAME}.tar.gz") as sdist:
        assert {member.mtime for member in sdist.getmembers()} == {then}
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        (date,) = {info.date_time for info in wheel.infolist()}
    assert 0 <= then - calendar.timegm(date) < 2


def test_the_sdist_can_be_tested_and_holds_no_stray_file(built: Path) -> None:
    files = sdist_files(built)
    papers = {path.name for path in (*ROOT.glob("*.md"), ROOT / "CITATION.cff", ROOT / "LICENSE")}
    assert papers | SHIPPED <= files
    assert {
        ".ci/run",
        ".github/SECURITY.md",
        "tests/test_package.py",
        "tests/data/torch.json",
        "docs/README.md",
    } <= files
    tops = {name.split("/")[0] for name in files}
    folders = {"numadam", "tests", "docs", "asv_benchmarks", ".ci", ".github"}
    assert tops == papers | folders | {"pyproject.toml", "PKG-INFO", ".gitignore"}
    kinds = {Path(name).suffix for name in files if "/" in name}
    assert not kinds & {".pyi", ".loop", ".pyc", ".nbi", ".nbc", ".so", ".log"}


def test_metadata(built: Path) -> None:
    files = wheel_files(built)
    about = metadata(files)
    assert about["Metadata-Version"] == "2.4"  # not what the newest hatchling writes
    assert (about["Name"], about["Version"]) == ("numadam", numadam.__version__)
    assert about["License-Expression"] == "BSD-3-Clause AND CC-BY-4.0"
    assert files[f"{NAME}.dist-info/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert b"CC BY 4.0" in files[f"{NAME}.dist-info/{OF_DIGITS}"]
    assert about["Description-Content-Type"] == "text/markdown"
    classifiers = about.get_all("Classifier", [])
    assert "Typing :: Typed" in classifiers
    assert not [text for text in classifiers if text.startswith("License ::")]  # the expression is
    minor = int(re.search(r">=3\.(\d+)", about["Requires-Python"]).group(1))
    assert f"Programming Language :: Python :: 3.{minor}" in classifiers
    assert f"Programming Language :: Python :: 3.{minor - 1}" not in classifiers
    assert b"numadam = numadam.cli:main" in files[f"{NAME}.dist-info/entry_points.txt"]


def test_links_are_complete_and_known_to_package_indexes(built: Path) -> None:
    """The project has no public address yet; those that it gets have to be whole."""
    about = metadata(wheel_files(built))
    entries = about.get_all("Project-URL", [])
    if entries:  # an index shows README.md without the files beside it
        readme = about.get_payload()
        assert re.findall(r"\]\((?!https://)([^)]+)\)", readme) == []
    for entry in entries:
        label, url = entry.split(", ", 1)
        assert label in LABELS
        assert re.fullmatch(r"https://[\w.-]+\.\w+(/\S*)?", url), entry


def test_one_version_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE).group(1) == numadam.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## \[(.+?)\](.*)$", changes, re.MULTILINE)
    assert heads[0] == ("Unreleased", "")
    for version, date in heads[1:]:
        assert re.fullmatch(r"\d+\.\d+\.\d+(rc\d+)?", version)
        assert re.fullmatch(r" - \d{4}-\d\d-\d\d", date)
    kinds = set(re.findall(r"^### (.+)$", changes, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
