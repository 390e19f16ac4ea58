"""Out of memory: a MemoryError, and an optimiser that goes on as if nothing had been asked."""

from __future__ import annotations

import ast
import sys

import pytest

from tests.processes import python

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
    opt = na.Adam(p, 0.1, accumulate=2, **options)
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
    "another optimiser": lambda p, opt: na.Adam(p, 0.1, accumulate=2, bounds=(-1.0, 1.0)),
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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_out_of_memory_changes_nothing() -> None:
    # glibc then returns every freed array to the system, and has none at hand
    tried = ast.literal_eval(python(OUT_OF_MEMORY, MALLOC_MMAP_THRESHOLD_="65536"))
    assert all(tried.values()), tried
