"""Saves that are killed: at every operation, and at random moments (`tests/campaigns/kills.py`)."""

import os
import tempfile
from pathlib import Path

import pytest

from tests.processes import python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture
def memory():
    """A folder in memory, where there is one: to be killed there is the same, and no disk waits."""
    folder = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=folder) as found:
        yield found


def test_killed_at_every_operation(memory):
    """Before and after it: the old state up to the move of the file, then the new one."""
    code = """
    import os, signal
    from pathlib import Path
    import pytest
    from numadam._checkpoint.container import Container, read, write
    from tests.checkpoint.faults import Disk
    path = Path(MEMORY) / "run"
    def save(k):
        write(path, Container("minimize", {"k": k}, {"a": np.full(40, float(k))}))
    def load():
        found = read(path, "minimize")
        assert (found.arrays["a"] == found.meta["k"]).all()
        return found.meta["k"]
    def killed(at, after):
        pid = os.fork()
        if not pid:
            kill = lambda count: os.kill(os.getpid(), signal.SIGKILL)
            Disk(kill, at, after).install(pytest.MonkeyPatch())
            save(2)
            os._exit(0)
        return os.waitpid(pid, 0)[1]
    for after in (False, True):
        found, at = "", 1
        save(1)
        while killed(at, after):
            found += str(load())
            save(1)
            assert os.listdir(path.parent) == ["run"]
            at += 1
        print(found, load())
    """
    lines = python(code.replace("MEMORY", repr(memory))).splitlines()
    for line, new in zip(lines, (4, 5), strict=True):
        # new: close, open, fsync, close, and before them the return of the move
        states, last = line.split()
        assert last == "2"
        assert states == states.count("1") * "1" + "2" * new
        assert len(states) > 15


def test_killed_at_random_moments(memory):
    code = f"""
    from pathlib import Path
    from tests.campaigns.kills import campaign
    print(*campaign(Path({memory!r}), 160), *campaign(Path({memory!r}), 40, writers=2))
    """
    kills, middle, states, *two = map(int, python(code).split())
    assert (kills, two[0]) == (160, 40)
    assert middle > 20  # a half or more, where nothing else runs
    assert states > kills


def test_folder_killed_at_every_operation(memory):
    """Before and after it: the old checkpoint up to the move of the index, then the new one."""
    code = """
    import os, signal
    from pathlib import Path
    import pytest
    from numadam._checkpoint import folder
    from numadam._checkpoint.collective import assemble
    from numadam._checkpoint.collective import Alone
    from numadam._checkpoint.folder import read_index
    from numadam._checkpoint.folder import whole_cut
    from numadam._checkpoint.collective import Part, save as save_together
    from tests.checkpoint.faults import Disk
    path = Path(MEMORY) / "run"
    def save(k):
        arrays, cuts = {"a": np.full(40, float(k))}, {"a": whole_cut((40,))}
        part = Part("minimize", {"k": k}, arrays, {"a": "a"}, cuts)
        save_together(path, Alone(), lambda: part)
    def load():
        index = read_index(path, "minimize")
        found = assemble(path, index, {"a": whole_cut((40,))})
        assert (found["a"] == index.meta["k"]).all()
        return index.meta["k"]
    def killed(at, after):
        pid = os.fork()
        if not pid:
            kill = lambda count: os.kill(os.getpid(), signal.SIGKILL)
            Disk(kill, at, after).install(pytest.MonkeyPatch())
            save(2)
            os._exit(0)
        return os.waitpid(pid, 0)[1]
    for after in (False, True):
        found, at = "", 1
        save(1)
        while killed(at, after):
            found += str(load())
            save(1)
            assert len(os.listdir(path)) == 2
            at += 1
        print(found, load())
    """
    for line in python(code.replace("MEMORY", repr(memory))).splitlines():
        states, last = line.split()
        assert last == "2"
        assert states == states.count("1") * "1" + states.count("2") * "2"
        assert states.count("1") > 15
        assert states.count("2") > 3
