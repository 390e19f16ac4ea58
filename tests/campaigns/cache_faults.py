"""Writers of the cache of loops that are killed, meet, or find the disk full: no reader is harmed.

    python tests/campaigns/cache_faults.py              # 500 kills
    python tests/campaigns/cache_faults.py --kills 5000 --writers 4 --folder /dev/shm

Children write entries under a few names without a pause; kill -9 ends them in the middle. Then each
name has to have a whole entry of its own, and the next writer has to find its way. Give a folder on
a disk that is almost full, too: a `tmpfs` of 64 kB, say.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import resource
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from numadam._jit import cache, reports

_NAMES = [f"objective-{k:032x}.loop" for k in range(8)]
#: Bytes of an entry, and the longest time until a kill: some writes.
_MOST_BYTES, _SECONDS = 200_000, 0.01
#: Entries that are kept in the last part, where children write so many each.
_KEPT, _EACH = 50, 200


def content(name: str, seed: int) -> bytes:
    """An entry's content, which tells whose it is, and where it ends."""
    return f"{name} {seed} ".encode() * (seed % (_MOST_BYTES // 50)) + b"end"


def is_right(name: str) -> bool:
    """Whether there is no entry of that name, or a whole one of its own."""
    found = cache.read(name)
    if found in (None, b"end"):
        return True
    return found == content(name, int(found.split()[1]))


def in_child(work: Callable[[], object]) -> int:
    """The process that does the work, and ends with status 0 where it raises nothing."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            warnings.simplefilter("error")
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def write_on() -> None:
    """Write until somebody ends it."""
    warnings.simplefilter("ignore")  # of a disk that is full
    rng = random.Random(os.getpid())
    while True:
        name = rng.choice(_NAMES)
        cache.write(name, content(name, rng.randrange(1 << 30)))
        assert is_right(name)


def kills(count: int, writers: int) -> None:
    """Kill writers, and read."""
    found = collections.Counter[str]()
    for _ in range(count):
        pids = [in_child(write_on) for _ in range(writers)]
        time.sleep(random.random() * _SECONDS)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        ends = [os.waitpid(pid, 0)[1] for pid in pids]
        assert set(ends) == {signal.SIGKILL}, ends
        assert all(map(is_right, _NAMES))
        folder = cache.directory()
        assert folder is not None
        for path in folder.glob("*.tmp"):
            found["left over"] += 1
            os.utime(path, (0, 0))  # as a writer finds it an hour later
    pid = in_child(lambda: cache.write(_NAMES[0], b"end"))
    assert os.waitpid(pid, 0)[1] in (0, 256)  # the latter is the warning on a full disk
    assert not list(folder.glob("*.tmp"))
    print(f"{count} times {writers} killed: {found['left over']} files left over, all removed")


def full() -> None:
    """Write more than the system allows: a warning, and all stays as it was."""
    name = _NAMES[0]
    before = cache.read(name)

    def write() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        reports._warned = False
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert not cache.write(name, b"x" * 10_000)
        assert len(told) == 1
        assert cache.read(name) == before

    assert os.waitpid(in_child(write), 0)[1] == 0
    folder = cache.directory()
    assert folder is not None
    assert not list(folder.glob("*.tmp"))
    print("a full disk: one warning, and the old entry stays")


def many(writers: int) -> None:
    """Write more entries than are kept, from several processes."""

    def write() -> None:
        warnings.simplefilter("ignore")
        for k in range(_EACH):
            cache.write(f"objective-{os.getpid():08x}{k:024x}.loop", b"end")
            cache.remove_oldest("objective", _KEPT)

    pids = [in_child(write) for _ in range(writers)]
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
    folder = cache.directory()
    assert folder is not None
    left = len(list(folder.glob("*.loop")))
    print(f"{writers} times {_EACH} written at once: {left} left, of {_KEPT} to be kept")
    assert left <= _KEPT + writers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder, cache.only_in(Path(folder)):
        assert cache.directory() is not None
        kills(args.kills, args.writers)
        full()
        many(4 * args.writers)


if __name__ == "__main__":
    main()
