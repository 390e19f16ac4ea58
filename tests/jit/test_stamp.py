"""The stamp of the cache of compiled loops covers all source that may be compiled into a loop."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import numadam
from numadam import nopython
from numadam._jit import cache
from tests.processes import python

ROOT = Path(numadam.__file__).parent

#: packages whose functions are compiled into the loops of a package
COMPILED = {
    "_cpu": {"_jit", "_core", "rules", "_cpu"},
    "_cuda": {"_jit", "_core", "rules", "_cuda"},
    "_minimize": {"_jit", "_core", "rules", "_cpu", "_cuda", "_minimize"},
    "nopython": {"_jit", "_core", "rules", "nopython"},
}


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package, which the cache takes for its own."""
    copy = tmp_path / "numadam"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cache, "_PACKAGE", copy)
    cache.source_stamp.cache_clear()
    yield copy
    cache.source_stamp.cache_clear()


def stamp(package: str) -> str:
    return cache.source_stamp.__wrapped__(package)


@pytest.mark.parametrize("package", COMPILED)
def test_an_edit_of_any_compiled_file_changes_the_stamp(package: str, copied: Path) -> None:
    before = stamp(package)
    for name in COMPILED[package]:
        files = sorted((copied / name).rglob("*.py"))
        assert files, name
        for file in files:
            text = file.read_text()
            file.write_text(text + "\n")
            assert stamp(package) != before, file
            file.write_text(text)
    assert stamp(package) == before


@pytest.mark.parametrize("package", COMPILED)
def test_a_new_file_changes_the_stamp_at_any_depth(package: str, copied: Path) -> None:
    before = stamp(package)
    for name in COMPILED[package]:
        folder = copied / name / "a" / "b"
        folder.mkdir(parents=True)
        (folder / "new.py").write_text("")
        assert stamp(package) != before, name
        shutil.rmtree(copied / name / "a")


def test_version_of_nopython_is_the_stamp() -> None:
    """User modules are recompiled when it changes (`numadam.nopython.VERSION`)."""
    assert f"{numadam.__version__}-{stamp('nopython')[:12]}" == nopython.VERSION


def test_compiled_functions_of_a_step_are_of_stamped_packages() -> None:
    """In a process of its own: other tests compile functions of their own."""
    text = python("""
        na.Adam(np.zeros(3), clip_norm=1.0, accumulate=2, bounds=(0.0, 1.0), ema=0.9)
        from numadam._jit import functions
        print(*{code[0] for code, _ in functions._compiled_once})
    """)
    modules = text.split()
    assert "numadam._cpu.kernel" in modules
    packages = {module.split(".")[1] for module in modules if module.startswith("numadam.")}
    assert packages <= COMPILED["_cpu"]


def test_package_of_numba_helpers_is_empty() -> None:
    """Importing `numadam` imports ``_jit.forks``, and must not load Numba with it."""
    assert (ROOT / "_jit" / "__init__.py").read_text() == ""
