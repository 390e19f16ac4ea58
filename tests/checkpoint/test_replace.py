"""A save that fails or is killed leaves the old file; where files go, and who may read them."""

from __future__ import annotations

import errno
import gc
import os
import stat
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from numadam._checkpoint.container import Container, check_writable, read, replacing, write
from tests import extras
from tests.processes import python, strike_everywhere

pytestmark = extras.posix


def state(number):
    return Container("optimizer", {"t": number}, {"p/w": np.full(40, float(number))})


def number(path):
    """The state that a file has, all of it."""
    found = read(path, "optimizer")
    assert (found.arrays["p/w"] == found.meta["t"]).all()
    return found.meta["t"]


def names(folder):
    return sorted(found.name for found in folder.iterdir())


#: Calls of `os` that a save makes, in this order.
CALLS = ("chmod", "fsync", "replace", "open", "fsync", "close")


class Disk:
    """Counts calls of a save; at number `at` raises, before or after it does what is asked for."""

    def __init__(self, monkeypatch, at, error, after):
        self.names = []
        for name in {*CALLS}:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))
        self._at, self._error, self._after = at, error, after

    def _wrapped(self, name, function):
        def call(*args, **keywords):
            self.names.append(name)
            strikes = len(self.names) == self._at
            if strikes and not self._after:
                raise self._error
            result = function(*args, **keywords)
            if strikes:
                raise self._error
            return result

        return call


def test_calls_are_in_the_order_that_a_crash_needs(tmp_path, monkeypatch):
    write(tmp_path / "a", state(1))
    disk = Disk(monkeypatch, 0, None, after=False)
    write(tmp_path / "a", state(2))
    assert tuple(disk.names) == CALLS


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, len(CALLS) + 1))
def test_failure_at_every_call(tmp_path, monkeypatch, at, after, error):
    path, moved = tmp_path / "a", (at, after) > (3, False)
    write(path, state(1))
    with monkeypatch.context() as patch:
        Disk(patch, at, error, after)
        with pytest.raises(type(error)) as found:
            write(path, state(2))
    notes = getattr(found.value, "__notes__", [])
    assert notes == ([] if moved else [f"{path} was not saved: it is as it was."])
    found.value.__notes__ = []
    assert number(path) == 1 + moved
    assert names(tmp_path) == ["a"]


# zipfile closes what the exception has left open, and fails
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_exception_anywhere_leaves_one_of_both_files(tmp_path):
    path, seen = tmp_path / "a", []

    def check(_):
        seen.append(number(path))
        assert names(tmp_path) == ["a"]

    strike_everywhere(
        lambda: write(path, state(1)),
        lambda _: write(path, state(2)),
        check,
        inside="/_checkpoint",
    )
    gc.collect()
    assert seen == sorted(seen)
    assert {*seen} == {1, 2}


def test_killed_at_random_moments():
    """Of two writers, too."""
    # in memory, where there is such a folder: to be killed there is the same, and no disk waits
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        code = f"""
        from pathlib import Path
        from tests.campaigns.kills import campaign
        print(*campaign(Path({folder!r}), 60), *campaign(Path({folder!r}), 20, writers=2))
        """
        kills, middle, states, *two = map(int, python(code).split())
    assert (kills, two[0]) == (60, 20)
    assert middle > 5
    assert states > kills


# --- places and permissions ----------------------------------------------------------------------


def test_rights(tmp_path):
    """Of a user who is not root, in a folder that everybody can reach."""
    code = """
    import os, shutil, tempfile
    from pathlib import Path
    from numadam._checkpoint.container import Container, read, write
    content = Container("optimizer", {}, {"a": np.ones(3)})
    top = Path(tempfile.mkdtemp()); top.chmod(0o755)
    write(top / "a", content); read(top / "a", "optimizer")  # imports what it needs
    if os.getuid() == 0:
        os.chown(top, 65534, 65534); os.setgid(65534); os.setuid(65534)
    def refused(path):
        before = {found: found.read_bytes() for found in path.parent.iterdir()}
        try:
            write(path, content)
        except PermissionError as error:
            assert before == {found: found.read_bytes() for found in path.parent.iterdir()}
            return str(error).partition("]")[2].replace(str(top), "").strip()
    folder = top / "closed"; folder.mkdir()
    (folder / "a").write_bytes(b"old"); folder.chmod(0o555)
    print(refused(folder / "a").split(":")[0])
    folder.chmod(0o755); (folder / "a").chmod(0o444)
    print(refused(folder / "a"))
    folder = top / "not to be listed"; folder.mkdir(); folder.chmod(0o300)
    write(folder / "a", content); write(folder / "a", content)
    print(read(folder / "a", "optimizer").arrays["a"].sum())
    folder.chmod(0o700)
    shutil.rmtree(top)
    """
    assert python(code).splitlines() == [
        "Permission denied",
        "is write-protected: '/closed/a'",
        "3.0",
    ]


def test_what_is_no_regular_file_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, error, text in [
        ("folder", IsADirectoryError, "is a folder: give the name of a file in it"),
        ("", IsADirectoryError, "is a folder"),
        ("pipe", OSError, "is no regular file"),
        ("loop", OSError, "is no regular file"),
        ("missing/a", FileNotFoundError, "No such file"),
    ]:
        for act in (check_writable, lambda path: write(path, state(1))):
            with pytest.raises(error, match=text):
                act(tmp_path / name)
        assert names(tmp_path) == ["folder", "loop", "pipe"]
    with pytest.raises(ValueError, match="pipe: no regular file"):
        read(tmp_path / "pipe", "optimizer")
    with pytest.raises(IsADirectoryError):
        read(tmp_path / "folder", "optimizer")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "missing", "optimizer")
    with pytest.raises(TypeError, match=r"expected str, bytes or os.PathLike object, not int"):
        write(3, state(1))


def test_links_stay(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "latest").symlink_to("data/one")
    for k in (1, 2):  # what it points to does not exist at first
        write(tmp_path / "latest", state(k))
        assert (tmp_path / "latest").is_symlink()
        assert number(tmp_path / "data" / "one") == k
    assert names(tmp_path) == ["data", "latest"]
    assert names(tmp_path / "data") == ["one"]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666, 0o640])
def test_permissions_of_the_old_file_stay(tmp_path, mode):
    write(tmp_path / "a", state(1))
    (tmp_path / "a").chmod(mode)
    with replacing(tmp_path / "a"):
        (temporary,) = tmp_path.glob(".a.*")  # from the beginning
        assert stat.S_IMODE(temporary.stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_new_files_have_the_permissions_that_open_gives(tmp_path, mask):
    old = os.umask(mask)
    try:
        (tmp_path / "opened").write_bytes(b"")
        write(tmp_path / "a", state(1))
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "opened").stat().st_mode


def test_kinds_of_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = "a*[b]?\n ä.file"
    for path in ("a", b"b", Path("c"), str(tmp_path / "d"), os.fsencode("\udcff"), odd, "x" * 255):
        write(path, state(1))
        write(path, state(2))
        assert number(path) == 2
    assert len(names(tmp_path)) == 7


def test_the_last_complete_writer_wins(tmp_path):
    with replacing(tmp_path / "a") as first:
        first.write(b"first")
        with replacing(tmp_path / "a") as second:
            second.write(b"second")
        assert (tmp_path / "a").read_bytes() == b"second"
        first.write(b" and last")
    assert (tmp_path / "a").read_bytes() == b"first and last"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["a", "ä" * 120], ids=["short", "long"])
def test_leftovers_of_killed_writers_are_removed(tmp_path, name):
    """Only those of this target, ten minutes after their last write."""
    keep = [".a.tmp", ".a.123-0123abcd.tmp.x", ".a.x-0123abcd.tmp", ".a.123-0123ABCD.tmp", "a.tmp"]
    keep += [".b.123-0123abcd.tmp", ".a.b.123-0123abcd.tmp", "x.a.123-0123abcd.tmp"]
    with replacing(tmp_path / name):
        (left,) = tmp_path.iterdir()
    young = left.with_name(left.name.replace(f".{os.getpid()}-", ".123-"))
    for path, age in ((left, 610), (young, 590), *((tmp_path / one, 610) for one in keep)):
        path.write_bytes(b"")
        os.utime(path, (time.time() - age,) * 2)
    write(tmp_path / name, state(1))
    assert names(tmp_path) == sorted([name, young.name, *keep])


def synced(monkeypatch, error=None):
    """What fsync is called for: files and folders; `error` is that of folders."""
    kinds, fsync = [], os.fsync

    def record(fd):
        kinds.append(stat.S_IFMT(os.fstat(fd).st_mode))
        if error and kinds[-1] == stat.S_IFDIR:
            raise error
        fsync(fd)

    monkeypatch.setattr(os, "fsync", record)
    return kinds


def test_folders_that_have_no_fsync(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        kinds = synced(patch, OSError(errno.EINVAL, "Invalid argument"))
        write(tmp_path / "a", state(1))
        assert kinds == [stat.S_IFREG, stat.S_IFDIR]
    synced(monkeypatch, OSError(errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        write(tmp_path / "a", state(2))
    assert number(tmp_path / "a") == 2
