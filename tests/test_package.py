"""The package: its import, its extras, and the distributions that are built of it.

`.ci/run` builds them and says where in NUMADAM_DIST; elsewhere these tests skip.
"""

from __future__ import annotations

import ast
import calendar
import hashlib
import importlib.metadata
import os
import re
import runpy
import subprocess
import sys
import tarfile
import textwrap
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

import numadam as na
from numadam import _version
from tests import budget, extras
from tests.processes import python

ROOT = Path(na.__file__).parents[1]


# --- import ---------------------------------------------------------------------------------------


#: What is done after `import numadam`, and libraries that it does not load.
SPARED = {
    "pass": ["numba", "llvmlite", "cupy", "scipy", "optree", "tqdm", "matplotlib"],
    "na.History()": ["numba", "cupy", "scipy", "matplotlib"],
    "import numadam._cli; numadam._cli.parser()": ["numba"],
    "from numadam import _info; _info.facts()": ["mpi4py"],
    """
    from numadam._arrays.sparse import coalesce, is_sparse
    coalesce(na.Rows(np.array([3, 1, 3]), np.ones((3, 2))), "g", (4, 2), np.dtype(float))
    assert not is_sparse(object())
    """: ["numba", "cupy", "scipy"],
}


@pytest.mark.parametrize(("code", "libraries"), SPARED.items())
def test_libraries_are_loaded_by_what_needs_them(code: str, libraries: list[str]) -> None:
    loaded = f"import sys; print([name for name in {libraries} if name in sys.modules])"
    assert python(f"{textwrap.dedent(code)}\n{loaded}") == "[]"


@pytest.mark.parametrize(
    ("module", "libraries"),
    [
        ("numadam", {"numpy", "json", "hashlib", "logging", "signal", "tempfile"}),
        ("numadam.schedules", {"numpy", "numba", "scipy", "optree"}),
    ],
)
def test_import_loads_little(module: str, libraries: set[str]) -> None:
    """Counted from what the interpreter loads by itself."""
    code = (
        f"import sys; b = set(sys.modules); import {module}; print(*sorted(set(sys.modules) - b))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "numadam" in loaded, done.stderr
    assert not loaded & libraries


def test_steps_load_neither_cupy_nor_scipy_nor_what_ranks_need() -> None:
    code = """
    import re, sys
    train(10)
    na.sgd_update(np.ones(3), np.ones(3))
    rest = re.compile("cupy$|numba[.]cuda|scipy[.]optimize$|.*_mpi|mpi4")
    print(list(filter(rest.match, sys.modules)))
    na.mpi.RankError
    print("mpi4py" in sys.modules)
    """
    assert python(code).split() == ["[]", "False"]


def test_public_names():
    assert set(na.__all__) >= {"Adam", "RMSprop", "SGD", "adam_update", "sgd_update"}
    assert dir(na) == sorted(na.__all__)


def test_completion_without_running_shows_public_names():
    """Editors list what the file assigns and imports, and the modules beside it."""
    package = Path(na.__file__).parent
    body = ast.parse(Path(na.__file__).read_text(encoding="utf-8")).body
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    named = {alias.asname or alias.name for node in imports for alias in node.names}
    named |= {path.stem for path in package.glob("*.py")}
    named |= {path.parent.name for path in package.glob("*/__init__.py")}
    # rules: what messages and pickles call the classes
    assert {name for name in named if not name.startswith("_")} <= {*na.__all__, "rules"}
    with pytest.raises(AttributeError, match="AdamX"):
        na.AdamX  # noqa: B018


def test_a_python_without_the_interpreter_lock_is_refused(monkeypatch):
    """Free-threaded builds: with PYTHON_GIL=1 they have it."""
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    with pytest.raises(ImportError, match=r"^numadam does not support .* PYTHON_GIL=1"):
        runpy.run_path(na.__file__)
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True)
    assert runpy.run_path(na.__file__)["__version__"] == na.__version__


# --- extras ---------------------------------------------------------------------------------------

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NEEDED = PROJECT["project"]["optional-dependencies"]


def test_marks_have_an_extra_and_a_stage_that_names_them():
    declared = [
        line.partition(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]
    ]
    stages = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for mark, (extra, _) in extras.EXTRAS.items():
        assert {mark, f"{mark}(*packages)"} & set(declared)
        assert extra in NEEDED
        (body,) = re.findall(rf"^stage_{mark}\(\) [{{(](.*?(?: }}$|^[}})]$))", stages, re.M | re.S)
        (names,) = re.findall(r"NUMADAM_EXTRAS=([\w,]+)", body)
        assert mark in names.split(",")
        assert f"\n{mark} " in stages


def test_a_skip_names_the_stage_that_runs_the_test(monkeypatch):
    """Else tests/conftest.py fails the test: one that never runs guards nothing."""
    monkeypatch.setattr(extras, "INSTALLED", set())
    for mark in extras.EXTRAS:
        with pytest.raises(pytest.skip.Exception) as caught:
            extras.require(mark, "no_such")
        assert extras.has_stage(str(caught.value))
    assert extras.has_stage(extras.fork.kwargs["reason"])
    for reason in (
        "not today",
        "no torch (.ci/run)",
        "no torch (.ci/run cude)",
        "(.ci/run mpi) no",
    ):
        assert not extras.has_stage(reason)


def test_the_tests_alone_bring_no_cuda():
    """It was 0.8 GB of 1.5."""
    assert not [need for need in NEEDED["test"] if re.search("cuda|cupy|numadam", need)]


CUDA_LIBRARIES = {"cublas", "cufft", "curand", "cusolver", "cusparse"}


def test_the_extras_for_gpus_bring_the_libraries_that_cupy_loads():
    """CuPy's wheel alone has none of them: `A @ x` and `cupy.random` ended with an ImportError."""
    for version in (12, 13):
        needs = [need for need in NEEDED[f"cuda{version}"] if need.startswith("cupy")]
        assert needs == [f"cupy-cuda{version}x[ctk]>=14.0"]  # the first that has this extra


@pytest.mark.cuda("cupy")
def test_the_extra_of_cupy_has_the_libraries():
    needs = importlib.metadata.requires("cupy-cuda13x") or []
    (toolkit,) = (need for need in needs if re.search(r"extra == .ctk", need))
    assert set(re.split(r"[\[\],]", toolkit)) >= CUDA_LIBRARIES


def test_no_index_is_advised_that_has_no_numadam():
    places = [*budget.files(), ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for path in places:
        if path.name == "releasing.md":  # of the time when an index has it
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


# --- distributions --------------------------------------------------------------------------------

NAME = f"numadam-{na.__version__}"
#: In a distribution's metadata these labels mean something to package indexes.
LABELS = {"Homepage", "Source", "Documentation", "Changelog", "Issues", "Funding"}


@pytest.fixture(scope="module")
def built() -> Path:
    """The folder with sdist and the wheel made of it; in `direct` the wheel made of the tree."""
    if "NUMADAM_DIST" not in os.environ:
        extras.stop("package", "NUMADAM_DIST names no folder with built distributions")
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
    found = [path for path in (ROOT / "numadam").rglob("*") if "__pycache__" not in path.parts]
    return {path.relative_to(ROOT).as_posix() for path in found if path.suffix in suffixes}


SHIPPED = sources(".py", ".typed", ".npz", ".txt")
STUBS = sources(".pyi")
OF_DIGITS = "licenses/numadam/_demos/digits-LICENSE.txt"


def metadata(files: dict[str, bytes]) -> Message:
    return message_from_bytes(files[f"{NAME}.dist-info/METADATA"])


def test_the_wheel_is_the_package_and_nothing_else(built: Path) -> None:
    files = set(wheel_files(built))
    notes = {name for name in files if name.startswith(f"{NAME}.dist-info/")}
    assert files - notes == SHIPPED | STUBS
    expected = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE", OF_DIGITS)
    assert notes == {f"{NAME}.dist-info/{name}" for name in expected}
    assert {"numadam/py.typed", "numadam/__init__.pyi", "numadam/_demos/mlp.py"} <= files


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
    assert (about["Name"], about["Version"]) == ("numadam", na.__version__)
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
    assert b"numadam = numadam._cli:main" in files[f"{NAME}.dist-info/entry_points.txt"]


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
