"""Files of runs on a disk that is full, written by two processes, and written very often."""

from __future__ import annotations

import errno
import os
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import numadam as na
from numadam._checkpoint.container import read
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


@extras.posix
def test_a_run_on_a_full_disk(tmp_path: Path) -> None:
    """It ends with its result; with room again, the same call goes on with the same bits."""
    code = f"""
    folder = Path({str(tmp_path)!r})
    path, n = folder / "a", 20_000
    def fun(x):
        return float(x @ x), 2 * x
    def run(maxiter, **options):
        return na.minimize(fun, np.linspace(1, 2, n), jac=True, gtol=0, maxiter=maxiter, **options)
    run(10, checkpoint=path)
    size = path.stat().st_size
    path.unlink()
    smaller_disk(folder, size * 3 // 2)
    run(10, checkpoint=path)
    limit(size // 2)
    error = refused(lambda: run(40, checkpoint=path, checkpoint_every=10), path)
    at = error.numadam_result.nit
    larger_disk(folder)
    whole, found = run(40), run(40, checkpoint=path, checkpoint_every=10)
    assert found.nit == whole.nit == 40 and found.x.tobytes() == whole.x.tobytes()
    print(at)
    """
    assert int(python(DISKS + textwrap.dedent(code))) in (20, 40)


RATES, ITERATIONS = (0.01, 0.02), 60


def run_of(rate: float, **options: object) -> na.OptimizeResult:
    """A run of Rosenbrock's valley in Python."""
    return na.minimize(
        python_rosen, START, jac=True, lr=rate, maxiter=ITERATIONS, gtol=0, **options
    )


def test_runs_of_two_processes_on_one_path(tmp_path: Path) -> None:
    """Each ends as if it were alone; at any time the file is one of one run."""
    path = tmp_path / "a.run"
    code = """
    import os, time
    from pathlib import Path
    from tests.minimize.objectives import START, python_rosen
    looks = Path({folder!r}).with_name("looks")
    folder, rate, path, calls = Path({folder!r}), {rate}, {path!r}, 0
    os.fsync = lambda handle: None  # nobody cuts the power
    def fun(x):
        # both have looked for the file, and found none, before one of them writes; and who reads
        # it between comes to look, however busy the machine is
        global calls
        calls += 1
        (folder / str(rate)).touch()
        while len(list(folder.iterdir())) < 2 or looks.stat().st_size < calls // 4:
            time.sleep(0.001)
        return python_rosen(x)
    res = na.minimize(
        fun, START, jac=True, lr=rate, maxiter={steps}, gtol=0, checkpoint=path, checkpoint_every=1)
    print(res.nit, res.x.tobytes().hex())
    """
    (tmp_path / "ready").mkdir()
    (tmp_path / "looks").touch()
    given = {"folder": str(tmp_path / "ready"), "path": str(path), "steps": ITERATIONS}
    seen: dict[float, list[np.ndarray]] = {rate: [START] for rate in RATES}
    whole = {rate: run_of(rate, callback=seen[rate].append) for rate in RATES}
    met = set()
    with ThreadPoolExecutor(2) as pool:
        runs = {rate: pool.submit(python, code.format(rate=rate, **given)) for rate in RATES}
        while not all(run.done() for run in runs.values()):
            if path.exists():
                found = read(path, "minimize")
                rate, done = found.meta["rule"]["lr"], found.meta["at"]["done"]
                np.testing.assert_array_equal(found.arrays["x"], seen[rate][done])
                met.add((rate, done))
            with (tmp_path / "looks").open("a") as looks:
                looks.write("x")
            time.sleep(0.001)
    for rate, run in runs.items():
        assert run.result() == f"{ITERATIONS} {whole[rate].x.tobytes().hex()}"
    assert len(met) > 10
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "looks", tmp_path / "ready"]
    last = read(path, "minimize").meta["rule"]["lr"]
    np.testing.assert_array_equal(run_of(last, checkpoint=path).x, whole[last].x)
    (other,) = {*RATES} - {last}
    with pytest.raises(na.CheckpointError, match=rf"^lr: the run has {last}, got {other}"):
        run_of(other, checkpoint=path)


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
