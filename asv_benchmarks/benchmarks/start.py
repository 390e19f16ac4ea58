"""Start-up, making an optimiser, keeping where one is: seconds, and bytes of a step."""

import functools
import os
import shutil
import tempfile
import time
import tracemalloc
import weakref
from pathlib import Path
from statistics import median

import numpy as np

import numadam
from numadam._checkpoint.container import Container, write

from .common import Case, Cases, Figure, counted, pair, run_python, seconds, step, values
from .step import TORCH, many

#: A program, from the first import to the end of the first step; 1M need the parallel loop, too.
FIRST_STEP = """
import numpy as np
import numadam
params, grads = np.zeros({n}, np.float32), np.ones({n}, np.float32)
numadam.Adam(params).step(grads)
"""
_TORCH_STEP = """
import torch
parameter = torch.zeros({n}, requires_grad=True)
parameter.grad = torch.ones({n})
torch.optim.Adam([parameter], fused=True).step()
"""
_NOW = "import time; print(time.monotonic())"
_IMPORT = """
import time
import numpy
start = time.monotonic()
import numadam
print(time.monotonic() - start)
"""
#: Bytes of a call of the system, as in a save: 4 MiB and more are slower, up to five times.
_PIECE = 1 << 20


def _whole(program, cache):
    """Seconds from the start of a process to the end of its program."""
    start = time.monotonic()  # the monotonic clock is one for all processes of the machine
    return float(run_python(["-c", program + _NOW], {"NUMBA_CACHE_DIR": str(cache)})) - start


def first_step(n, cold, against_torch, pairs):
    """Process start to the end of the first step / the same for torch's fused step, or seconds.

    Ours has an empty or a full cache of compiled loops.
    """
    program, peer, ours, theirs = FIRST_STEP.format(n=n), _TORCH_STEP.format(n=n), [], []
    with tempfile.TemporaryDirectory() as folder:
        if not cold:
            _whole(program, folder)  # fills the cache
        if against_torch:
            _whole(peer, folder)  # reads torch's files from the disk
        for k in range(min(pairs, 3 if cold else 5)):
            ours.append(_whole(program, Path(folder) / str(k) if cold else folder))
            if against_torch:
                theirs.append(_whole(peer, folder))
    if not against_torch:
        return Figure(median(ours))
    value = median(a / b for a, b in zip(ours, theirs, strict=True))
    return Figure(value, median(ours), median(theirs))


def import_time(pairs):
    """Seconds that ``import numadam`` adds to ``import numpy``."""
    return Figure(median(float(run_python(["-c", _IMPORT])) for _ in range(pairs)))


def _first_step(what, target, cold):
    start = f"process start to the end of the first step of 1000 elements, {what} cache"
    title = f"{start} / a process that imports torch and takes a fused step"
    return Case(title, target, counted(first_step, 1000, cold, True), TORCH)


def with_state(n):
    optimizer = numadam.Adam(values(n))
    optimizer.step(values(n, seed=1))
    return optimizer


def set_t():
    """An optimiser as after so many steps."""
    optimizer = numadam.Adam(np.zeros(5))

    def side():
        optimizer.t = 7

    return side


def snapshot(n):
    """Copy an optimiser into a snapshot that is there."""
    optimizer = with_state(n)
    return functools.partial(optimizer.snapshot, out=optimizer.snapshot())


def copies(n):
    """Copy the arrays of a snapshot one by one."""
    optimizer = with_state(n)
    arrays = [optimizer.params, optimizer.state["m"], optimizer.state["v"]]
    kept = list(map(np.ones_like, arrays))

    def side():
        for to, array in zip(kept, arrays, strict=True):
            np.copyto(to, array)

    return side


def _in_folder(work):
    """Work on a file in a new folder of the current one: the usual place may be in memory."""
    folder = tempfile.mkdtemp(prefix=".numadam-bench-", dir=Path.cwd())

    def side():
        work(Path(folder) / "file")

    weakref.finalize(side, shutil.rmtree, folder)
    return side


def save(n):
    """A checkpoint of n parameters with two state arrays, over the one before."""
    content = Container("optimizer", {}, {f"{name}/w": values(n, seed=1) for name in "pmv"})
    return _in_folder(lambda path: write(path, content))


def plain_write(n):
    """The same bytes into a new file, and fsync: neither checked nor safe."""
    arrays = [values(n, seed=1) for _ in "pmv"]

    def work(path):
        path.unlink(missing_ok=True)
        with path.open("wb", buffering=0) as file:
            for array in arrays:
                data = array.view(np.uint8).data
                for at in range(0, len(data), _PIECE):
                    file.write(data[at : at + _PIECE])
            os.fsync(file.fileno())

    return _in_folder(work)


def _pair_of(ours, theirs, n):
    return pair(functools.partial(ours, n), functools.partial(theirs, n))


def memory(side, peak):
    """Bytes that a step leaves behind, or has at most, as tracemalloc sees them."""
    work = side()

    def figure(pairs):
        steps, peaks = 10 * pairs, []
        tracemalloc.start()
        try:
            for _ in range(10):
                work()
            first = tracemalloc.get_traced_memory()[0]
            for _ in range(steps):
                work()
            # rounded: Python's free lists come and go by an object
            net = round((tracemalloc.get_traced_memory()[0] - first) / steps)
            for _ in range(pairs):
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                work()
                peaks.append(tracemalloc.get_traced_memory()[1] - before)
        finally:
            tracemalloc.stop()
        return Figure(median(peaks) if peak else net)

    return figure


class Starts(Cases):
    cases = {
        "first-step-cold-1000": _first_step("cold", 1.3, cold=True),
        "first-step-warm": _first_step("warm", 0.25, cold=False),
    }
    track_ratio = Cases.value


class Seconds(Cases):
    unit = "s"
    cases = {
        "first-step-cold-1M": Case(
            "process start to the end of the first step of 1M elements, cold cache: the parallel "
            "loop",
            4.0,
            counted(first_step, 10**6, True, False),
        ),
        "import": Case("import numadam on top of numpy's import", 0.1, counted(import_time)),
        "make-5": Case(
            "a second na.Adam(x) of 5 numbers",
            60e-6,
            seconds(lambda: functools.partial(numadam.Adam, np.zeros(5))),
        ),
        "reset-5": Case(
            "opt.reset(), 5 numbers", 5e-6, seconds(lambda: numadam.Adam(np.zeros(5)).reset)
        ),
        "set-t-5": Case("opt.t = 7, 5 numbers", 10e-6, seconds(set_t)),
        "set-state-t-5": Case(
            'opt.state["t"] = 7, 5 numbers',
            10e-6,
            seconds(lambda: functools.partial(numadam.Adam(np.zeros(5)).state.__setitem__, "t", 7)),
        ),
    }
    track_seconds = Cases.value


class Keeping(Cases):
    cases = {
        **{
            f"snapshot-{text}": Case(
                f"opt.snapshot(out=snap) of {text} / numpy.copyto of p, m and v",
                1.1,
                _pair_of(snapshot, copies, n),
                memory=gib,
            )
            for text, n, gib in (("50M", 5 * 10**7, 4.0), ("1M", 10**6, 0.0))
        },
        **{
            f"save-{text}": Case(
                f"a checkpoint of {text} parameters and two states / writing the bytes, and fsync",
                1.43,  # 0.7 of the disk's speed
                _pair_of(save, plain_write, n),
                memory=gib,
            )
            for text, n, gib in (("1M", 10**6, 0.0), ("100M", 10**8, 8.0))
        },
    }
    track_ratio = Cases.value


class Memory(Cases):
    unit = "B"
    cases = {
        f"memory-{name}{suffix}": Case(what, target, functools.partial(memory, side, bool(target)))
        for suffix, side, words in (
            (
                "",
                step(100_000),
                ("bytes that a step leaves behind", "bytes that a step has at most"),
            ),
            ("-many", functools.partial(many, "same"), ("the same, 1000 arrays",) * 2),
        )
        for name, what, target in (("net", words[0], 0), ("peak", words[1], 1000))
    }
    track_bytes = Cases.value
