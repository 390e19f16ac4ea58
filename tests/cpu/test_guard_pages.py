"""Memory of a step: none outside its arrays, and code that comes with the first that needs it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from tests import extras

GUARDED = """
    import ctypes, mmap, sys
    import numpy as np
    import numadam as na
    from numadam._jit import process

    PAGE = mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    class Guarded:
        "One page between two that can be neither read nor written."

        def __init__(self):
            self.map = mmap.mmap(-1, 3 * PAGE)
            whole = np.frombuffer(self.map, np.uint8)
            self.page = whole[PAGE : 2 * PAGE]
            for at in (0, 2 * PAGE):
                if libc.mprotect(whole.ctypes.data + at, PAGE, 0) != 0:
                    raise OSError(ctypes.get_errno(), "mprotect")

        def array(self, n, dtype, first):
            "n elements from byte `first` of the page (counted from its end if negative)."
            self.page[:] = 0xA5
            size = n * np.dtype(dtype).itemsize
            self.first = first if first >= 0 else PAGE + first + 1 - size
            self.size = size
            return self.page[self.first : self.first + size].view(dtype)

        def untouched(self):
            return bool(
                np.all(self.page[: self.first] == 0xA5)
                and np.all(self.page[self.first + self.size :] == 0xA5)
            )

    rooms = [Guarded() for _ in range(6)]
    if sys.argv[1] == "break":  # shows that the guard bites
        whole = np.frombuffer(rooms[0].map, np.uint8)
        whole[2 * PAGE] = 1
    parallel = sys.argv[1] == "parallel"
    process.layer()
    process.wants_parallel = lambda total: parallel

    def calls(p, g, m, v, x, out, t):
        yield lambda: na.adam_update(p, g, m, v, t, vmax=x, out=out)
        yield lambda: na.sgd_update(p, g, out=out)

    count = 0
    for dtype in [np.float32, np.float64][parallel:]:  # of each form another dtype
        item = np.dtype(dtype).itemsize
        # flush with the lower guard, flush with the upper one, and every offset mod 64
        for n in range(34):
            firsts = [0, -1] + ([*range(1, 64)] if n in (1, 9, 17, 33) else [*range(0, 64, item)])
            for first in firsts:
                arrays = [room.array(n, dtype, first) for room in rooms]
                for k, a in enumerate(arrays):
                    a[...] = k + 1
                used = arrays[:-1] + ([None] if (n + first) % 2 else arrays[-1:])
                every = first in (0, -1)
                for k, call in enumerate(calls(*used, 3)):
                    if every or k == first % 2:
                        call()
                        count += 1
                assert all(np.isfinite(a).all() for a in arrays)
                assert all(room.untouched() for room in rooms), (dtype, n, first)
                assert n == 0 or not (arrays[0] == 1).all() or used[-1] is not None
    print("calls", count)
"""


def run_guarded(mode):
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(GUARDED), mode],
        capture_output=True,
        text=True,
    )


@extras.posix
@pytest.mark.parametrize("mode", ["serial", "parallel"])
def test_guard_pages(mode):
    """Every array of a step lies between pages that cannot be touched; beside it, marked bytes."""
    done = run_guarded(mode)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[1]) == {"serial": 1556, "parallel": 658}[mode]


@extras.posix
def test_guard_pages_bite():
    assert run_guarded("break").returncode < 0
