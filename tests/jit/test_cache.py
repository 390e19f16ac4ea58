"""The cache on the disk: damaged, shared by processes, out of date, or not writable."""

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from numadam._jit import cache, reports
from tests.processes import ROOT, python

UNKEPT = """
import warnings
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    opt = na.SGD(np.ones(10))  # compiles the step and the validation
    opt.step(np.ones(10))
(told,) = told
assert told.category is na.CacheWarning
print(told.filename, opt.t, told.message, sep="|")
"""


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    """Nothing fails at import or in a step; loops are compiled in memory."""
    blocked = tmp_path / "a-file"
    blocked.write_text("not a folder")
    folder = blocked / "below"
    file, t, text = python(UNKEPT, NUMBA_CACHE_DIR=str(folder)).split("|")
    assert (file, t) == ("<string>", "1")  # the user's file: that of `python -c`
    assert f"{folder / 'numadam'}: Not a directory" in text
    assert "Set NUMBA_CACHE_DIR" in text


def test_a_zip_file_and_no_home(tmp_path: Path) -> None:
    """Every folder that was tried is named; the source in the file is that of the stamp."""
    home = tmp_path / "home"
    home.write_text("not a folder")
    archive = Path(shutil.make_archive(str(tmp_path / "all"), "zip", ROOT, "numadam"))
    env = {"NUMBA_CACHE_DIR": "", "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    code = """
        import warnings
        from numadam._jit import cache
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert not cache.write("a.loop", b"")
        print(told[0].message)
    """
    text = python(code, root=archive, cwd=tmp_path, **env)
    assert f"{archive / 'numadam' / '__pycache__'}: Not a directory" in text
    assert f"{home / 'cache' / 'numadam' / '__pycache__'}: Not a directory" in text
    code = "from numadam._jit.cache import source_stamp; print(source_stamp('_cpu'))"
    before = python(code, root=archive, cwd=tmp_path)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("numadam/_core/new.py", "")
    assert python(code, root=archive, cwd=tmp_path) != before


def test_a_process_that_compiles_nothing_is_not_warned(warm: str) -> None:
    """A read-only image that was filled before: nothing is missing."""
    python(
        """
        import pathlib, tempfile
        from numadam._jit import cache
        def refuse(*_, **__): raise PermissionError(13, "Permission denied")
        tempfile.TemporaryFile = refuse
        train(10)
        assert cache.directory() is None
        """,
        NUMBA_CACHE_DIR=warm,
    )


DAMAGED = """
import os, pathlib
from numadam._cpu import kernel as c
from numadam._jit import cache, loops

def again():
    loops._compiled_loops.clear(); c.code_address.cache_clear()  # as in a new process
    found = digest(100)
    (step,) = loops._compiled_loops.values()
    return found, (step.serial._cache.hit, loops._callbacks[-1]._cache.hit)

garbage = b"cno_such_module\\nX\\n."  # whole, but pickle can make nothing of it
right, hits = again()
assert hits == (True, True), hits
for damage in (lambda name, old: old[:-1], lambda name, old: cache.signed(name, garbage)):
    entries = list(pathlib.Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.loop"))
    assert len(entries) >= 2
    for entry in entries:
        entry.write_bytes(damage(entry.name, entry.read_bytes()))
    assert again() == (right, (False, False))
    assert again() == (right, (True, True))
print(right)
"""


def test_damaged_cache_is_compiled_again(warm: str, tmp_path: Path) -> None:
    """In one process, which compiles quickly from the second time on, and in a new one."""
    folder = str(shutil.copytree(warm, tmp_path / "cache"))
    right = python(DAMAGED, NUMBA_CACHE_DIR=folder)
    hit = "from numadam._jit import loops; print(digest(100), loops._callbacks[0]._cache.hit)"
    assert python(hit, NUMBA_CACHE_DIR=folder) == f"{right} True"


def test_entries_are_read_from_every_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An image is filled by root, beside the package, and used by those who may not write there."""
    package, own = tmp_path / "package", tmp_path / "own"
    for folder in (package, own):
        folder.mkdir()
    monkeypatch.setattr(cache, "folders", lambda: [package, own])
    monkeypatch.setattr(cache, "directory", lambda: package)
    cache.write("a.loop", b"of root")
    monkeypatch.setattr(cache, "directory", lambda: own)
    cache.write("b.loop", b"mine")
    assert (cache.read("a.loop"), cache.read("b.loop")) == (b"of root", b"mine")
    (package / "b.loop").write_bytes(b"damaged, and of others")
    assert cache.read("b.loop") == b"mine"
    monkeypatch.setattr(cache, "directory", lambda: None)
    monkeypatch.setattr(reports, "_warned", False)
    with pytest.warns(reports.CacheWarning, match="no folder can be written"):
        cache.write("c.loop", b"nowhere")
    assert cache.read("c.loop") is None


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only folder of entries; it does not exist yet."""
    only = tmp_path / "below" / "only"
    monkeypatch.setattr(cache, "folders", lambda: [only])
    monkeypatch.setattr(cache, "directory", lambda: only)
    return only


def test_a_folder_that_was_removed_is_made_again(folder: Path) -> None:
    """Whoever empties a cache does not stop the programs first."""
    assert cache.write("a.loop", b"whole")
    assert cache.read("a.loop") == b"whole"
    shutil.rmtree(folder.parent)
    assert cache.write("a.loop", b"again")
    assert cache.read("a.loop") == b"again"


def test_a_loop_of_another_processor_is_not_loaded(warm: str) -> None:
    code = """
        from numadam._cpu import kernel as c
        from numadam._jit import loops
        c.code_address("validator"); print(loops._callbacks[0]._cache.hit)
    """
    assert python(code, NUMBA_CACHE_DIR=warm) == "True"
    assert python(code, NUMBA_CACHE_DIR=warm, NUMBA_CPU_NAME="generic") == "False"
    assert python(code, NUMBA_CACHE_DIR=warm, NUMBA_CPU_NAME="generic") == "True"


def test_several_processes_fill_one_cache(filled: tuple[str, list[str]]) -> None:
    folder, digests = filled
    assert digests == digests[:1] * 2
    assert not list(Path(folder).rglob("*.tmp"))


ONE_STEP = """
for case in CASES:
    p, g = np.zeros(7), np.full(7, 2.0)
    if case == "sgd":
        na.sgd_update(p, g, lr=1.0)
        right = -2.0
    else:
        na.sgd_update(p, g, np.ones(7), lr=1.0, momentum=0.5, nesterov=case == "nesterov")
        right = -3.25 if case == "nesterov" else -2.5
    assert np.allclose(p, right, atol=1e-6), (case, p[0], right)
"""


def test_loops_of_other_processes_are_not_taken_for_each_other(tmp_path: Path) -> None:
    """Loops from the disk and fresh ones meet in one process, either first.

    Numba names symbols by a counter of the process: without names of our own, momentum from the
    disk was linked against plain SGD compiled here.
    """
    for cases in (["momentum"], ["sgd", "momentum"], ["momentum", "nesterov", "sgd"]):
        python(ONE_STEP.replace("CASES", repr(cases)), NUMBA_CACHE_DIR=str(tmp_path))


# --- the stamp covers all source that may be compiled into a loop -------------------------------

#: packages whose functions are compiled into the loops of a package
COMPILED = {
    "_cpu": {"_jit", "_core", "rules", "_cpu"},
    "_cuda": {"_jit", "_core", "rules", "_cuda"},
    "_minimize": {"_jit", "_core", "rules", "_cpu", "_cuda", "_minimize"},
    "_least_squares": {"_jit", "_minimize", "_least_squares"},
    "nopython": {"_jit", "_core", "rules", "nopython"},
}


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package, which the cache takes for its own."""
    copy = tmp_path / "numadam"
    shutil.copytree(ROOT / "numadam", copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cache, "_PACKAGE", copy)
    cache.source_stamp.cache_clear()
    yield copy
    cache.source_stamp.cache_clear()


def stamp(package: str) -> str:
    return cache.source_stamp.__wrapped__(package)


@pytest.mark.parametrize("package", COMPILED)
def test_an_edit_of_any_compiled_file_changes_the_stamp(
    package: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does a new file at any depth, and another version."""
    before = stamp(package)
    for name in COMPILED[package]:
        for file in {min((copied / name).rglob("*.py")), max((copied / name).rglob("*.py"))}:
            text = file.read_text()
            file.write_text(text + "\n")
            assert stamp(package) != before, file
            file.write_text(text)
        folder = copied / name / "a" / "b"
        folder.mkdir(parents=True)
        (folder / "new.py").write_text("")
        assert stamp(package) != before, name
        shutil.rmtree(copied / name / "a")
    assert stamp(package) == before
    monkeypatch.setattr(cache, "__version__", "9")
    assert stamp(package) != before


def test_cache_sees_changed_formula_and_version(tmp_path: Path) -> None:
    """An edit of the formula's file alone is never served from the old entry."""
    shutil.copytree(ROOT / "numadam", tmp_path / "numadam", ignore=shutil.ignore_patterns("*.loop"))
    code = """
        from numadam._cpu.kernel import compiled_step
        p = np.ones(3)
        opt = na.SGD(p, lr=1.0, momentum=0.5)
        opt.step(np.ones(3))
        opt.step(np.ones(3))
        print(compiled_step(chosen(opt).arguments.plan).serial._cache.hit, p[0])
    """

    def run() -> str:
        return python(code, root=tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "cache"))

    assert (run(), run()) == ("False -1.5", "True -1.5")
    rule = tmp_path / "numadam" / "rules" / "sgd.py"
    text, formula = rule.read_text(), " + h.share * g\n"
    assert formula in text
    rule.write_text(text.replace(formula, f"{formula[:-1]} + h.share * g\n"))
    assert run() == "False -4.0"
