"""A save that fails or is killed leaves the old file, and nothing else.

Kills come at every operation, and at random moments (`tests/campaigns/kills.py`). And where files
go, and who may read them.
"""

import errno
import os
import stat
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from numadam._checkpoint import container
from numadam._checkpoint.container import Container, read, replacing, write
from tests.checkpoint.files import Disk
from tests.processes import STORM, python

fcntl = pytest.importorskip("fcntl", reason="permissions and locks of POSIX")

NOT_SAVED = "and nothing is left of the new file"
IS_NEW = "is the new file, complete"


def state(number):
    return Container("optimizer", {"t": number}, {"p/w": np.full(40, float(number))})


def number(path):
    """The state that a file has, all of it."""
    found = read(path, "optimizer")
    assert (found.arrays["p/w"] == found.meta["t"]).all()
    return found.meta["t"]


def names(folder):
    return sorted(found.name for found in folder.iterdir())


def operations(path, monkeypatch):
    """Names of the operations of a save."""
    with monkeypatch.context() as patch:
        disk = Disk(None, at=0).install(patch)
        write(path, state(0))
    return disk.names


def fail(error):
    def act(*args, **keywords):
        raise error

    return act


ERRORS = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    KeyboardInterrupt(),
    MemoryError(),
]


def test_operations_are_in_the_order_that_a_crash_needs(tmp_path, monkeypatch):
    write(tmp_path / "a", state(1))
    (tmp_path / "a").chmod(0o600)
    found = operations(tmp_path / "a", monkeypatch)
    assert [name for i, name in enumerate(found) if found[i - 1 : i] != [name]] == [
        *("listdir", "create", "open", "chmod"),  # `create` opens
        *("seek", "write", "seek", "write"),
        *("fsync", "replace", "close file", "open", "fsync", "close"),
    ]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("exists", [False, True], ids=["new", "old"])
def test_failure_at_every_operation(tmp_path, monkeypatch, error, after, exists):
    path = tmp_path / "a"
    if exists:
        write(path, state(1))
    whole = operations(tmp_path / "b", monkeypatch)
    (tmp_path / "b").unlink()
    for at in range(1, len(whole) + 1 + exists):
        with monkeypatch.context() as patch:
            disk = Disk(fail(error), at, after).install(patch)
            with pytest.raises(type(error)) as found:
                write(path, state(2))
        assert found.value is error
        note = error.__notes__.pop()
        assert str(path) in note
        if exists and NOT_SAVED in note:
            assert "it is as it was" in note
            assert number(path) == 1
        elif NOT_SAVED in note:
            assert "it does not exist" in note
            assert not path.exists()
        else:
            assert IS_NEW in note
            assert "replace" in disk.names
            assert number(path) == 2
            write(path, state(1)) if exists else path.unlink()
        assert names(tmp_path) == ["a"] * exists
    write(path, state(3))
    assert number(path) == 3


def test_a_disk_that_is_gone(tmp_path, monkeypatch):
    """The caller sees the first error, and the old file stays."""
    write(tmp_path / "a", state(1))
    count = len(operations(tmp_path / "a", monkeypatch))
    for at in range(1, count + 1):
        with monkeypatch.context() as patch:
            disk = Disk(gone, at, forever=True).install(patch)
            patch.setattr(os, "unlink", fail(OSError(errno.EIO, "unlink")))
            with pytest.raises(OSError, match="operation") as found:
                write(tmp_path / "a", state(2))
        # that of closing the file may come on top of the first
        assert f"operation {at}" in (str(found.value) + str(found.value.__context__))
        assert number(tmp_path / "a") == (2 if "replace" in disk.names[: at - 1] else 0)
        write(tmp_path / "a", state(0))
        assert names(tmp_path) == ["a"]


def gone(count):
    raise OSError(errno.EIO, f"operation {count}")


def test_a_system_that_writes_nothing(tmp_path, monkeypatch):
    disk = Disk(None, at=0).install(monkeypatch)
    disk.call = lambda name, function, *args, **keywords: (
        0 if name == "write" else function(*args, **keywords)
    )
    with pytest.raises(OSError, match="the system wrote nothing"):
        write(tmp_path / "a", state(1))
    assert names(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="a call of Linux")
def test_the_disk_starts_early(tmp_path, monkeypatch):
    """In parts without gaps, and the call is one that the system takes."""
    parts, start = [], container._sync_file_range()

    def record(*args):
        parts.append(args[1:])
        assert start(*args) == 0
        return -1  # a file system that has no such call

    monkeypatch.setattr(container, "_STARTED_BYTES", 100)
    monkeypatch.setattr(container, "_sync_file_range", lambda: record)
    with replacing(tmp_path / "a") as file:
        for size in (60, 60, 300, 60):
            file.write(memoryview(bytes(size)))
    assert parts == [(0, 120, 2), (120, 300, 2)]
    with (tmp_path / "a").open("r+b") as file:
        assert start(file.fileno(), 2**40, 2**40, 2) == 0
    monkeypatch.setattr(container, "_sync_file_range", lambda: None)
    write(tmp_path / "a", state(1))
    assert number(tmp_path / "a") == 1


def test_other_systems_start_at_the_end(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert container._sync_file_range.__wrapped__() is None


def test_rights(tmp_path):
    """Of a user who is not root, in a folder that everybody can reach."""
    code = """
    import os, stat, tempfile
    from pathlib import Path
    from numadam._checkpoint.container import Container, read, write
    content = Container("optimizer", {}, {"a": np.ones(3)})
    top = Path(tempfile.mkdtemp()); top.chmod(0o755)
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
    import shutil; shutil.rmtree(top)
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
        with pytest.raises(error, match=text):
            write(tmp_path / name, state(1))
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


def test_chdir_meanwhile_moves_nothing(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with replacing("a") as file:
        os.chdir(tmp_path / "other")
        file.write(memoryview(b"new"))
    assert (tmp_path / "a").read_bytes() == b"new"
    assert names(tmp_path / "other") == []


def test_the_last_complete_writer_wins(tmp_path):
    with replacing(tmp_path / "a") as first:
        first.write(memoryview(b"first"))
        with replacing(tmp_path / "a") as second:
            second.write(memoryview(b"second"))
        assert (tmp_path / "a").read_bytes() == b"second"
        first.write(memoryview(b" and last"))
    assert (tmp_path / "a").read_bytes() == b"first and last"
    assert names(tmp_path) == ["a"]


LEFT = ".a.123-0123abcd.tmp"


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    """Only theirs: what no process has locked, of this target."""
    keep = [".a.tmp", ".a.123-0123abcd.tmp.x", ".a.x-0123abcd.tmp", ".a.123-0123ABCD.tmp", "a.tmp"]
    keep += [".b.123-0123abcd.tmp", ".a.b.123-0123abcd.tmp", "x.a.123-0123abcd.tmp"]
    locked, folder = ".a.123-00000000.tmp", ".a.123-11111111.tmp"
    for name in (*keep, LEFT, locked):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / folder).mkdir()
    os.utime(tmp_path / locked, (0, 0))  # how old it is says nothing
    with (tmp_path / locked).open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write(tmp_path / "a", state(1))
        assert names(tmp_path) == sorted(["a", *keep, locked, folder])
    write(tmp_path / "a", state(1))
    assert names(tmp_path) == sorted(["a", *keep, folder])


def test_leftovers_of_long_names(tmp_path):
    name = "ä" * 120
    with replacing(tmp_path / name):
        (found,) = tmp_path.iterdir()
    found.write_bytes(b"")
    write(tmp_path / name, state(1))
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("system", ["no module", "no locks"])
def test_without_locks_leftovers_are_known_by_their_age(tmp_path, monkeypatch, system):
    """Windows has no fcntl, some network file systems refuse."""
    if system == "no module":
        monkeypatch.setattr(container, "fcntl", None)
    else:
        monkeypatch.setattr(fcntl, "flock", fail(OSError(errno.ENOLCK, "no locks")))
    old, young = tmp_path / LEFT, tmp_path / ".a.123-00000000.tmp"
    for path, age in ((old, 3700), (young, 3500)):
        path.write_bytes(b"")
        os.utime(path, (time.time() - age,) * 2)
    write(tmp_path / "a", state(1))
    assert number(tmp_path / "a") == 1
    assert names(tmp_path) == [young.name, "a"]


def test_windows_moves_no_file_that_is_open(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "fcntl", None)
    moved = []
    move = os.replace

    def record(*args):
        moved.append(file._file.closed)
        move(*args)

    monkeypatch.setattr(os, "replace", record)
    with replacing(tmp_path / "a") as file:
        file.write(memoryview(b"new"))
    assert moved == [True]


def test_a_temporary_file_that_another_writer_took_for_a_leftover(tmp_path, monkeypatch):
    """It is found between its creation and its lock; then there is another one."""
    lock, seen = container.lock, []

    def slow(file):
        seen.append(Path(file.name))
        if len(seen) == 1:
            seen[0].unlink()  # the other has locked and removed it, and has let it go
        return len(seen) != 2 and lock(file)  # the other still has the second

    monkeypatch.setattr(container, "lock", slow)
    write(tmp_path / "a", state(1))
    assert len({*seen}) == 3
    assert number(tmp_path / "a") == 1
    seen[1].unlink()  # which the other would do
    assert names(tmp_path) == ["a"]


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
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        kinds = synced(patch)
        container.sync_folder(tmp_path)
        assert kinds == []
    synced(monkeypatch, OSError(errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output") as found:
        write(tmp_path / "a", state(2))
    assert IS_NEW in found.value.__notes__[0]
    assert number(tmp_path / "a") == 2


def test_full_sync_of_macos(tmp_path, monkeypatch):
    calls = []
    mac = SimpleNamespace(
        F_FULLFSYNC=51,
        fcntl=lambda fd, command: calls.append(command),
        **{name: getattr(fcntl, name) for name in ("flock", "LOCK_EX", "LOCK_NB")},
    )
    monkeypatch.setattr(container, "fcntl", mac)
    kinds = synced(monkeypatch)
    write(tmp_path / "a", state(1))
    assert calls == [51]
    assert kinds == [stat.S_IFDIR]
    mac.fcntl = fail(OSError(errno.ENOTSUP, "a network disk"))
    write(tmp_path / "a", state(2))
    assert kinds == [stat.S_IFDIR, stat.S_IFREG, stat.S_IFDIR]


def test_exceptions_from_outside(tmp_path):
    """At any moment of a save: the file is the last that was complete or the one that was saved."""
    code = f"""
    import os
    from pathlib import Path
    from numadam._checkpoint.container import Container, read, write
    path, begun, done = Path({str(tmp_path)!r}) / "a", 0, 0
    def save():
        global begun, done
        begun += 1
        write(path, Container("minimize", {{"k": begun}}, {{"a": np.full(2000, float(begun))}}))
        done = begun
    save()
    for _ in range(60):
        storm(save, 1)
        found = read(path, "minimize")
        assert (found.arrays["a"] == found.meta["k"]).all()
        assert done <= found.meta["k"] <= begun
        assert os.listdir(path.parent) == ["a"]
    print(begun > 60)
    """
    assert python(STORM + textwrap.dedent(code)) == "True"


# --- kills ----------------------------------------------------------------------------------------

KILLED = """
import os, signal
from pathlib import Path
import pytest
from tests.checkpoint.files import Disk
path = Path(MEMORY) / "run"
def killed(at, after):
    pid = os.fork()
    if not pid:
        kill = lambda count: os.kill(os.getpid(), signal.SIGKILL)
        Disk(kill, at, after).install(pytest.MonkeyPatch())
        save(2)
        os._exit(0)
    return os.waitpid(pid, 0)[1]
def run():
    for after in (False, True):
        found, at = "", 1
        save(1)
        while killed(at, after):
            found += str(load())
            save(1)
            assert len(os.listdir(folder)) == files
            at += 1
        print(found, load())
"""
OF_A_FILE = """
from numadam._checkpoint.container import Container, read, write
folder, files = path.parent, 1
def save(k):
    write(path, Container("minimize", {"k": k}, {"a": np.full(40, float(k))}))
def load():
    found = read(path, "minimize")
    assert (found.arrays["a"] == found.meta["k"]).all()
    return found.meta["k"]
run()
"""
OF_A_FOLDER = """
from numadam._checkpoint.collective import assemble
from numadam._checkpoint.collective import Alone
from numadam._checkpoint.folder import read_index
from numadam._checkpoint.folder import whole_cut
from numadam._checkpoint.collective import Part, save as save_together
folder, files = path, 2
def save(k):
    arrays, cuts = {"a": np.full(40, float(k))}, {"a": whole_cut((40,))}
    part = Part("minimize", {"k": k}, arrays, {"a": "a"}, cuts)
    save_together(path, Alone(), lambda: part)
def load():
    index = read_index(path, "minimize")
    found = assemble(path, index, {"a": whole_cut((40,))})
    assert (found["a"] == index.meta["k"]).all()
    return index.meta["k"]
run()
"""


@pytest.fixture
def memory():
    """A folder in memory, where there is one: to be killed there is the same, and no disk waits."""
    folder = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=folder) as found:
        yield found


@pytest.mark.parametrize("code", [OF_A_FILE, OF_A_FOLDER], ids=["file", "folder"])
def test_killed_at_every_operation(memory, code):
    """Before and after it: the old state up to the move of the file or index, then the new one."""
    for line in python(KILLED.replace("MEMORY", repr(memory)) + code).splitlines():
        states, last = line.split()
        old, new = states.count("1"), states.count("2")
        assert states == old * "1" + new * "2"
        assert last == "2"
        assert old > 10
        assert new >= 4  # close, open, fsync and close come after the move


def test_killed_at_random_moments(memory):
    code = f"""
    from pathlib import Path
    from tests.campaigns.kills import campaign
    print(*campaign(Path({memory!r}), 80), *campaign(Path({memory!r}), 20, writers=2))
    """
    kills, middle, states, *two = map(int, python(code).split())
    assert (kills, two[0]) == (80, 20)
    assert middle > 10  # a half or more, where nothing else runs
    assert states > kills
