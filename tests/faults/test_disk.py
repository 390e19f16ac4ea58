"""Files of runs on a disk that is full, written by two processes, and written very often.

Out of memory, and more than 2^31 elements.

Out of memory means a MemoryError, and an optimiser that goes on as if nothing had been asked.
Memory of large arrays is asked for without a reservation, and few of its pages are touched; steps
over all elements: tests/campaigns/large_arrays.py.
"""

from __future__ import annotations

import ast
import errno
import mmap
import os
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import numadam as na
from tests import extras
from tests.minimize.objectives import START, python_rosen
from tests.processes import python

#: ``smaller_disk(folder, size)`` mounts a disk for this process alone; where it may not, the system
#: refuses files of more than half of that. ``larger_disk(folder)`` gives it room.
DISKS = """
import ctypes, errno, os, resource
from pathlib import Path
libc = ctypes.CDLL(None, use_errno=True)
NEW_SPACE, PRIVATE, REMOUNT = 0x20000, 1 << 18 | 1 << 14, 32
mounted = False
def smaller_disk(folder, size):
    global mounted
    place, options = os.fsencode(folder), f"size={size}".encode()
    mounted = (
        hasattr(libc, "unshare")
        and libc.unshare(NEW_SPACE) == 0
        and libc.mount(b"none", b"/", None, PRIVATE, None) == 0
        and libc.mount(b"tmpfs", place, b"tmpfs", 0, options) == 0
    )
def limit(size):
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
def larger_disk(folder):
    limit(resource.RLIM_INFINITY)
    if mounted:
        assert libc.mount(None, os.fsencode(folder), None, REMOUNT, b"size=64m") == 0
def refused(work, path):
    "The error of work, which leaves the file, and nothing beside it."
    before, file = path.read_bytes(), path.stat().st_ino
    try:
        work()
    except OSError as error:
        assert error.errno == (errno.ENOSPC if mounted else errno.EFBIG), error
        assert f"{path} was not saved: it is as it was" in error.__notes__[0], error.__notes__
        assert (path.read_bytes(), path.stat().st_ino) == (before, file)
        assert os.listdir(path.parent) == [path.name]
        return error
    raise AssertionError("a full disk took a file")
"""


@extras.posix
def test_an_optimiser_on_a_full_disk(tmp_path: Path) -> None:
    code = f"""
    folder = Path({str(tmp_path)!r})
    path, opt = folder / "a", na.Adam(np.ones(20_000))
    opt.step(np.ones(20_000))
    smaller_disk(folder, 600_000)
    opt.save(path)
    limit(100_000)
    opt.step(np.ones(20_000))
    for _ in range(3):
        refused(lambda: opt.save(path), path)
    assert na.load(path).t == 1
    opt.step(np.ones(20_000))
    larger_disk(folder)
    opt.save(path)
    again = na.load(path)
    assert again.t == opt.t == 3 and again.params.tobytes() == opt.params.tobytes()
    print("whole")
    """
    assert python(DISKS + textwrap.dedent(code)) == "whole"


RATES, ITERATIONS = (0.01, 0.02), 60


def run_of(rate: float, **options: object) -> na.OptimizeResult:
    """A run of Rosenbrock's valley in Python."""
    return na.minimize(
        python_rosen, START, jac=True, lr=rate, maxiter=ITERATIONS, gtol=0, **options
    )


@extras.machine(Path("/dev/fd").is_dir(), "/dev/fd")
def test_many_files_leave_no_file_open_and_none_beside(tmp_path, monkeypatch) -> None:
    """Also those that fail at the last moment."""
    path, opt = tmp_path / "a", na.Adam(np.ones(3), lr=0.1)
    sync, fails = os.fsync, False

    def fsync(handle: int) -> None:
        if fails:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    opt.save(path)
    run_of(RATES[0], checkpoint=tmp_path / "b", checkpoint_every=1)
    before = sum(1 for _ in Path("/dev/fd").iterdir())
    for k in range(60):
        opt.step(np.ones(3))
        fails = k % 2 == 1
        if fails:
            with pytest.raises(OSError, match="No space left"):
                opt.save(path)
        else:
            opt.save(path)
            opt.load(path)
            assert na.load(path).t == k + 1
    fails = False
    (tmp_path / "b").unlink()
    run_of(RATES[0], checkpoint=tmp_path / "b", checkpoint_every=1)
    assert sum(1 for _ in Path("/dev/fd").iterdir()) == before
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a", "b"]
    assert na.load(path).t == 59


# --- memory --------------------------------------------------------------------------------------


linux = extras.machine(sys.platform == "linux", "memory as Linux gives it")

OUT_OF_MEMORY = """
import copy, pickle, resource

N = 250_000  # 2 MB an array: each is asked of the system by itself

def limited(work, room):
    "Call with so many bytes to be had; whether there was enough."
    pages = int(open("/proc/self/statm").read().split()[0])
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, most))
    try:
        work()
        return True
    except MemoryError:
        return False
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

def new(**options):
    p = np.linspace(-2.0, 2.0, N)
    opt = na.Adam(p, 0.1, amsgrad=True, **options)
    opt.step(np.ones(N)); opt.step(np.ones(N)); opt.step(np.ones(N))
    return p, opt

def picture(p, opt):
    return [p.tobytes(), *(np.array(a).tobytes() for a in opt.state.values())]

def strided():
    return np.ones(2 * N)[::2]

g, saved = np.ones(N), new()[1].state.copy()
twice = strided()
works = {
    "strided gradient": lambda p, opt: opt.step(twice),
    "strided params": lambda p, opt: opt.step(g, params=twice),
    "state.copy": lambda p, opt: opt.state.copy(),
    "deepcopy": lambda p, opt: copy.deepcopy(opt),
    "pickle": lambda p, opt: pickle.dumps(opt),
    "grads": lambda p, opt: opt.grads,
    "set grads": lambda p, opt: setattr(opt, "grads", g),
    "another optimiser": lambda p, opt: na.Adam(p, 0.1, amsgrad=True),
    "another state": lambda p, opt: setattr(opt, "state", saved),
    "functional": lambda p, opt: na.adam_update(p, twice, opt.state["m"], opt.state["v"], 1),
}
for loop in works.values():  # all is compiled and imported
    loop(*new())
tried = {}
for name, work in works.items():
    failed = []
    for room in (0, 3_000_000, 6_000_000, 9_000_000):
        (p, opt), (q, twin) = new(), new()
        before = picture(p, opt)
        if limited(lambda: work(p, opt), room):
            continue
        failed.append(room)
        assert picture(p, opt) == before, (name, room)
        opt.step(g); twin.step(g)
        assert picture(p, opt) == picture(q, twin), (name, room)
    tried[name] = len(failed)
print(tried)
"""


@linux
def test_out_of_memory_changes_nothing() -> None:
    # glibc then returns every freed array to the system, and has none at hand, nor the arena of a
    # thread that has compiled
    limits = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    tried = ast.literal_eval(python(OUT_OF_MEMORY, **limits))
    assert all(tried.values()), tried


# --- addresses and counts are of 64 bits ---------------------------------------------------------

EDGE = 2**31
WIDTH = 1024


@pytest.fixture
def large():
    """2^31 + 1024 numbers in float32, all 0: 8 GiB of addresses."""
    no_reserve = 0x4000  # of Linux; `mmap` has no name for it before Python 3.13
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    room = mmap.mmap(-1, 4 * (EDGE + WIDTH), flags=flags)
    array = np.frombuffer(room, np.float32)
    yield array
    del array  # frees the memory, when its last view goes


@linux
def test_rows_on_both_sides_of_the_edge(large):
    p = large.reshape(-1, WIDTH)
    last = len(p) - 1
    assert last * WIDTH == EDGE
    opt = na.SGD(p, lr=1.0, sparse="lazy")
    rows = np.array([last, last - 1, 1])
    opt.step(na.Rows(rows, np.arange(3 * WIDTH, dtype=np.float32).reshape(3, WIDTH)))
    for k, row in enumerate(rows):
        np.testing.assert_array_equal(p[row], -np.arange(k * WIDTH, (k + 1) * WIDTH, dtype="f4"))
    # where sums of 32 bits would lead to
    assert not p[0].any()
    assert not p[last // 2].any()


@linux
def test_strides_over_the_edge(large):
    p, g = large[:: EDGE // 2], np.array([1.0, 2.0, 3.0], np.float32)
    assert p.shape == (3,)
    opt = na.SGD(p, lr=1.0)
    opt.step(g)
    opt.step(-2 * g)
    assert [float(large[at]) for at in (0, EDGE // 2, EDGE)] == [1.0, 2.0, 3.0]
    assert not large[1:1000].any()


@linux
def test_overlap_beyond_the_edge_is_refused_and_neighbours_are_not(large):
    p, g = large[EDGE:], large[EDGE - WIDTH : EDGE]
    opt = na.SGD(p, lr=1.0)
    opt.step(g)
    with pytest.raises(ValueError, match="grads shares memory with params"):
        opt.step(large[EDGE - 1 : EDGE - 1 + WIDTH])
    assert opt.t == 1
