"""Texts compiled once for one signature: the files that keep them, threads, exceptions, forks.

The cache on the disk: damaged, shared by processes, out of date, or not writable.
"""

import logging
import os
import shutil
import tempfile
import textwrap
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import types

from numadam._jit import build, reports
from numadam._jit.build import compiled
from tests.jit import some_loop
from tests.jit.some_loop import loop, plus, value
from tests.processes import FORKED, ROOT, STORM, python

#: First words of reports.
Log = Callable[[], list[str]]

LOOP = Path(some_loop.__file__).read_text() + "\n"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only folder of files, which does not exist yet, for a process that has none loaded."""
    only = tmp_path / "below" / "only"
    monkeypatch.setattr(build, "folders", lambda: [only])
    monkeypatch.setattr(build, "directory", lambda: only)
    monkeypatch.setattr(build, "_made", {})
    build._remove_old.cache_clear()
    return only


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """``log()``: first words of what was reported since the last call."""
    words: list[str] = []
    handler = logging.Handler()
    monkeypatch.setattr(
        handler, "emit", lambda record: words.append(record.getMessage().split()[0])
    )
    monkeypatch.setattr(reports.logger, "handlers", [handler])
    monkeypatch.setattr(reports.logger, "level", logging.DEBUG)

    def since() -> list[str]:
        found = list(words)
        words.clear()
        return found

    return since


def files(folder: Path, kind: str = "py") -> list[Path]:
    """Sources of modules in a folder, or Numba's files of a kind."""
    places = folder.iterdir() if kind == "py" else build._files(folder)
    return sorted(path for path in places if path.suffix == f".{kind}")


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("folder")
def test_what_tells_a_function_from_others(log: Log) -> None:
    """Closures of the same code, serial and parallel, dtypes, texts; the same twice is one."""
    assert [value(), value(2), value(0.5), value(kind="float32"), value()] == [2, 3, 1.5, 2, 2]
    assert value(parallel=True) == 2
    assert log() == ["compiled"] * 5
    build._made.clear()
    assert [value(parallel=True), value(2), value()] == [2, 3, 2]
    assert log() == ["loaded"] * 3
    for odd in ([1], object()):
        scope = {"change": plus(odd), "prange": None}
        with pytest.raises(TypeError, match=r"change: a text cannot read .*, which no other"):
            compiled("loop", "", scope, types.void(), entry="run")


def test_a_function_that_is_not_kept(folder: Path, log: Log) -> None:
    """A user's: it may read what no other process has, and its name tells it."""
    table = np.arange(3.0)

    def change(x: float) -> float:
        return x + table[2]

    a = np.ones(3)
    how = {"entry": "run", "keep": False}
    text = "def run(a):\n    a[0] = change(a[0])\n"
    for _ in range(2):
        compiled("own", text, {"change": change}, types.void(types.float64[::1]), **how)(a)
    assert a[0] == 5
    assert log() == ["compiled"]
    assert not folder.exists()


@pytest.mark.parametrize("kind", ["py", "nbi", "nbc"])
def test_damaged_files_are_compiled_again(folder: Path, log: Log, kind: str) -> None:
    """Empty, truncated, or what nothing can be made of, with the right begin."""
    value()
    (file,) = files(folder, kind)
    right = file.read_bytes()
    log()
    for damage in (b"", right[:9], right[:-1], right[:-9] + bytes(9), b"cno_such_module\nX\n."):
        file.write_bytes(damage)
        for words in ({"compiled", "loaded"} if kind == "py" else {"compiled"}, {"loaded"}):
            build._made.clear()  # a source written again is another one for Numba below 0.68
            assert value() == 2
            assert set(log()) <= words
    file.unlink()
    build._made.clear()
    assert value() == 2
    assert set(log()) <= ({"compiled", "loaded"} if kind == "py" else {"compiled"})


def test_files_are_read_from_every_folder(folder: Path, monkeypatch: Any, log: Log) -> None:
    """An image is filled by root, beside the package, and used by those who may not write there."""
    value()
    own = folder.parent / "own"
    monkeypatch.setattr(build, "folders", lambda: [folder, own])
    monkeypatch.setattr(build, "directory", lambda: own)
    for words in (["compiled", "loaded", "compiled"], ["loaded", "loaded"]):
        build._made.clear()
        assert (value(), value(2)) == (2, 3)
        assert log() == words
        assert [len(files(place, "nbc")) for place in (folder, own)] == [1, 2]
    monkeypatch.setattr(build, "directory", lambda: None)
    build._made.clear()
    assert (value(), value(2)) == (2, 3)
    assert log() == ["loaded", "loaded"]
    monkeypatch.setattr(reports, "_warned", False)
    with pytest.warns(reports.CacheWarning, match="no folder can be written"):
        value(3)


def test_a_folder_that_was_removed_is_made_again(folder: Path) -> None:
    """Whoever empties a cache does not stop the programs first."""
    value()
    shutil.rmtree(folder.parent)
    value(2)
    assert len(files(folder)) == 1


def test_a_disk_that_is_full(folder: Path, monkeypatch: Any, log: Log) -> None:
    """It is compiled for this process, and said once."""
    value()
    shutil.rmtree(folder)
    folder.write_text("no folder any more")
    monkeypatch.setattr(reports, "_warned", False)
    with pytest.warns(reports.CacheWarning, match="File exists: .*below/only"):
        assert value(2) == 3
    assert log() == ["compiled", "compiled"]


def test_old_modules_and_files_of_killed_writers_go(folder: Path, monkeypatch: Any) -> None:
    """Others stay: those of another host that writes now, and those that are not ours."""
    monkeypatch.setattr(build, "MOST_MODULES", 2)
    ours, below = "numadam_text_", folder / "__pycache__"
    below.mkdir(parents=True)
    ages = {folder / f"{ours}{name}.py": age for name, age in (("a", 3), ("b", 2), ("c", -9e9))}
    ages |= {below / f"{ours}{name}.run-1.py311.nbi": 0 for name in "abc"}
    ages |= {below / f"{ours}a.nbc.tmp.0": 8000, folder / f"{ours}a.py.tmp.0": 8000}
    ages |= {below / f"{ours}a.nbc.tmp.1": 0, folder / "mine.tmp.0": 8000, folder / "mine.py": 8000}
    for path, age in ages.items():
        path.write_bytes(b"")
        os.utime(path, (time.time() - age,) * 2)
    build._remove_old(folder)
    gone = {path.name.removeprefix(ours) for path in ages if not path.exists()}
    assert gone == {"c.py", "c.run-1.py311.nbi", "a.nbc.tmp.0", "a.py.tmp.0"}


def test_four_processes_with_four_signatures_at_once(tmp_path: Path) -> None:
    """All are right, also those that load what the others have written."""
    code = LOOP + textwrap.dedent("""
    kinds = ["float32", "float64", "int32", "int64"]
    kinds = kinds[FIRST:] + kinds[:FIRST]
    print([value(k, kind) for kind in kinds for k in (1, 2)])
    """)

    def run(first: int) -> str:
        return python(code.replace("FIRST", str(first)), NUMBA_CACHE_DIR=str(tmp_path))

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(run, range(4))) == {str([2.0, 3.0] * 4)}
    names = [path.suffix for path in tmp_path.rglob("numadam_text_*")]
    assert sorted(names) == [".nbc"] * 8 + [".nbi"] * 8 + [".py"] * 8
    assert run(0) == str([2.0, 3.0] * 4)


#: Root may write everywhere, and others may not read what Python imports later.
AS_NOBODY = """
import email.parser, os, sys, warnings, numba
numba.njit(lambda: 1)()
if os.getuid() == 0:
    os.setuid(65534)
"""


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="folders have no such modes on Windows")
def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has is loaded; the rest is compiled, and said once, in the user's line."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("TMPDIR", raising=False)  # one that anybody may read
    place = Path(tempfile.mkdtemp())
    env = {"NUMBA_CACHE_DIR": str(place)}
    python(LOOP + "value()", **env)
    for folder in (place, *place.iterdir()):
        folder.chmod(0o555)
    code = """
    import logging
    logging.basicConfig(level=10, stream=sys.stdout, format="%(message)s")
    logging.getLogger("numba").setLevel("WARNING")
    print(value())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        value(2), value(3)
    (told,) = told
    print(told.filename, told.message, sep="|")
    """
    out = python(LOOP + AS_NOBODY + textwrap.dedent(code), **env).splitlines()
    assert [line.split(" in ")[0] for line in out[:4]] == [
        "loaded loop",
        "2.0",
        *["compiled loop"] * 2,
    ]
    assert out[4].startswith("<string>|numadam keeps no compiled loops: no folder can be written")
    assert f"({place / 'numadam'}: Permission denied)" in out[4]
    assert "Set NUMBA_CACHE_DIR" in out[4]
    for folder in (place, *place.iterdir()):
        folder.chmod(0o755)
    shutil.rmtree(place)


def test_a_zip_file_and_no_home(tmp_path: Path) -> None:
    """Every folder that was tried is named; the source in the file is that of the stamp."""
    home = tmp_path / "home"
    home.write_text("not a folder")
    archive = Path(shutil.make_archive(str(tmp_path / "all"), "zip", ROOT, "numadam"))
    env = {"NUMBA_CACHE_DIR": "", "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    code = """
    import warnings
    from numadam._jit import build
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        print(value(), build.source_stamp())
    print(told[0].message)
    """
    run: Any = {"root": archive, "cwd": tmp_path}
    result, text = python(LOOP + textwrap.dedent(code), **run, **env).splitlines()
    assert result.startswith("2.0 ")
    assert f"{archive / 'numadam' / '__pycache__'}: Not a directory" in text
    assert f"{home / 'cache' / 'numadam' / '__pycache__'}: Not a directory" in text
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("numadam/_core/new.py", "")
    code = "from numadam._jit.build import source_stamp; print(source_stamp())"
    assert python(code, **run) not in result


def test_a_loop_of_another_processor_is_not_loaded(tmp_path: Path) -> None:
    for cpu, count in (({}, 1), ({"NUMBA_CPU_NAME": "generic"}, 2)):
        python(LOOP + "value()", NUMBA_CACHE_DIR=str(tmp_path), **cpu)
        assert len(files(tmp_path / "numadam", "nbc")) == count


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package, which is taken for our own."""
    copy = tmp_path / "numadam"
    shutil.copytree(ROOT / "numadam", copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(build, "_PACKAGE", copy)
    return copy


def test_an_edit_of_any_compiled_file_changes_the_stamp(copied: Path, monkeypatch: Any) -> None:
    """So does a new file at any depth, and another version: a formula edited is compiled again."""
    stamp = build.source_stamp.__wrapped__
    before = stamp()
    for name in ("_core", "_cpu", "_least_squares", "_minimize", "nopython", "rules"):
        for file in {min((copied / name).rglob("*.py")), max((copied / name).rglob("*.py"))}:
            text = file.read_text()
            file.write_text(text + "\n")
            assert stamp() != before, file
            file.write_text(text)
        folder = copied / name / "a" / "b"
        folder.mkdir(parents=True)
        (folder / "new.py").write_text("")
        assert stamp() != before, name
        shutil.rmtree(copied / name / "a")
    assert stamp() == before
    monkeypatch.setattr(build, "__version__", "9")
    assert stamp() != before


# --- threads, exceptions, forks ------------------------------------------------------------------


@pytest.mark.usefixtures("folder")
def test_threads_that_ask_for_the_same_wait_for_one_compile(log: Log) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = set(pool.map(lambda _: loop(7), range(4)))
    assert len(made) == 1
    assert log() == ["compiled"]


@pytest.mark.usefixtures("folder")
def test_an_error_of_the_text_is_the_callers(log: Log) -> None:
    """And nothing of it stays: the next call tries again."""
    for _ in range(2):
        with pytest.raises(Exception, match="no_such_name"):
            compiled("bad", "def run():\n    no_such_name()", {}, types.void(), entry="run")
    assert not log()
    assert not build._made


def test_a_warning_that_is_an_error_comes_once(folder: Path, monkeypatch: Any) -> None:
    folder.parent.write_text("no folder")
    monkeypatch.setattr(reports, "_warned", False)
    with pytest.raises(reports.CacheWarning, match="below/only"):
        value()
    assert value() == 2


SLOW = (
    LOOP
    + """
import logging, signal, threading, time
from numadam._jit import build
logging.basicConfig(level=10, format="%(name)s: %(message)s", stream=__import__("sys").stdout)
logging.getLogger("numba").setLevel("WARNING")
begun = threading.Event()
inner = build._Text._kept
def slow(*args):
    begun.set()
    if ALARM:  # while the main thread waits
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
    time.sleep(PAUSE)
    return inner(*args)
build._Text._kept, PAUSE, ALARM = slow, 0.0, False
"""
)


def test_exceptions_end_the_wait_and_not_the_compile(tmp_path: Path) -> None:
    """Of a handler of signals, and set by other threads: the same compile goes on."""
    code = """
    def handler(*_):
        raise TimeoutError
    signal.signal(signal.SIGALRM, handler)
    PAUSE, ALARM = 0.3, True
    try:
        loop()
    except TimeoutError:
        print("ended")
    print(value())
    PAUSE, ALARM = 0.0, False
    storm(lambda: loop(2), 40)
    print(value(2))
    """
    out = python(STORM + SLOW + textwrap.dedent(code), NUMBA_CACHE_DIR=str(tmp_path))
    words = [line.split(" in ")[0] for line in out.splitlines()]
    assert words == ["ended", "numadam: compiled loop", "2.0", "numadam: compiled loop", "3.0"]


def test_an_interpreter_that_ends_waits_for_the_compile(tmp_path: Path) -> None:
    """LLVM would end the process where its thread is stopped in the middle."""
    code = """
    PAUSE, ALARM = 0.2, True
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(0))
    import sys
    loop()
    """
    python(SLOW + textwrap.dedent(code), NUMBA_CACHE_DIR=str(tmp_path))
    assert len(files(tmp_path / "numadam", "nbc")) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_fork_in_the_middle_of_a_compile_is_an_error_and_no_hang(tmp_path: Path) -> None:
    """Of another thread, and of a handler of the thread that waits: the child returns to it."""
    code = """
    right = loop(5)
    def text(work):
        try:
            return str(work())
        except RuntimeError as error:
            return str(error).partition(" in this process")[0]
    PAUSE = 1.0
    begun.clear()
    thread = threading.Thread(target=loop, args=(6,)); thread.start()
    begun.wait()
    print(in_child(lambda: f"{value(5)} {text(loop)}; {text(lambda: loop(6))}"))
    thread.join()
    print(in_child(lambda: str(value(6))))
    pid = []
    signal.signal(signal.SIGALRM, lambda *_: pid.append(os.fork()))
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    told = text(lambda: value(7))
    if pid[0] == 0:
        print("child:", told, flush=True)
        os._exit(0)
    os.waitpid(pid[0], 0)
    print(told)
    """
    out = python(FORKED + SLOW + textwrap.dedent(code), NUMBA_CACHE_DIR=str(tmp_path))
    lines = [line for line in out.splitlines() if not line.startswith("numadam: compiled")]
    error = "numadam cannot compile or load a loop"
    assert lines == [f"6.0 {error}; {error}", "7.0", f"child: {error}", "8.0"]


# --- cache ---------------------------------------------------------------------------------------


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
    for cases in (["momentum"], ["nesterov", "sgd", "momentum"]):
        python(ONE_STEP.replace("CASES", repr(cases)), NUMBA_CACHE_DIR=str(tmp_path))


def test_cache_sees_changed_formula_and_version(tmp_path: Path) -> None:
    """An edit of the formula's file alone is never served from the old entry."""
    shutil.copytree(ROOT / "numadam", tmp_path / "numadam", ignore=shutil.ignore_patterns("*.loop"))
    code = """
        import logging
        found = []
        handler = logging.Handler()
        handler.emit = lambda record: found.append(record.getMessage())
        logging.getLogger("numadam").addHandler(handler)
        logging.getLogger("numadam").setLevel(logging.DEBUG)
        p = np.ones(3)
        opt = na.SGD(p, lr=1.0, momentum=0.5)
        opt.step(np.ones(3))
        opt.step(np.ones(3))
        print(any(text.startswith("loaded sgd") for text in found), p[0])
    """

    def run() -> str:
        return python(code, root=tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "cache"))

    assert run() == "False -1.5"
    rule = tmp_path / "numadam" / "rules" / "sgd.py"
    text, formula = rule.read_text(), " + h.share * g\n"
    assert formula in text
    rule.write_text(text.replace(formula, f"{formula[:-1]} + h.share * g\n"))
    assert run() == "False -4.0"
