"""Runs on subnormal numbers, in every form of our compiled code, and the mode of the thread.

For a process of its own, as ``from tests.faults.float_mode_runs import ...``: what another library
leaves behind in a thread is left behind here, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import platform

import numba
import numpy as np

import numadam as na
from numadam._jit import loops
from numadam.nopython import adam_update
from tests.faults.platform_bits import hash_of

X86 = platform.machine().lower() in ("x86_64", "amd64")
ARM = platform.machine().lower() in ("aarch64", "arm64")

#: name: the control word. x86: flush and denormals-are-zero, to nearest, downwards, to zero, traps
#: off; aarch64: bit 24 flushes, 22 and 23 round.
MODES = (
    {"default": 0x1F80, "flush": 0x9FC0, "down": 0x3F80, "flush to zero": 0xFFC0}
    if X86
    else {"default": 0, "flush": 1 << 24, "down": 2 << 22, "flush to zero": 1 << 24 | 3 << 22}
)


#: machine code of ``f(address of a word)``: ldmxcsr and stmxcsr; msr, mrs to and from fpcr
_CODE = (
    {"set": "0fae17c3", "get": "0fae1fc3"}
    if X86
    else {"set": "000040f9 00441bd5 c0035fd6", "get": "01443bd5 010000f9 c0035fd6"}
)
_pages = []  # code at these addresses stays alive


def _function(name: str):
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex(_CODE[name]))
    _pages.append(page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


_set, _get, _word = _function("set"), _function("get"), ctypes.c_uint64()


def set_mode(name: str) -> None:
    _word.value = MODES[name]
    _set(ctypes.addressof(_word))


def mode() -> str:
    """The name of the mode that this thread is in; its flags do not count."""
    _word.value = 0
    _get(ctypes.addressof(_word))
    word = _word.value & (0xFFC0 if X86 else 2**32 - 1)
    return {word: name for name, word in MODES.items()}.get(word, hex(word))


@contextlib.contextmanager
def in_mode(name: str):
    """Code in a mode, which it has to leave as it is."""
    set_mode(name)
    try:
        yield
        assert mode() == name, mode()
    finally:
        set_mode("default")


@numba.njit
def parabola(x, g):
    """Of 1e-160 the squares are subnormal."""
    total = 0.0
    for i in range(x.size):
        g[i] = 2.0 * x[i]
        total += x[i] * x[i]
    return total


_rng = np.random.default_rng(0)
N = 100_000
START = (_rng.standard_normal(N) * 1e-39).astype("f4")
GRADS = [
    (_rng.standard_normal(N) * 10.0 ** _rng.uniform(-44, -15, N)).astype("f4") for _ in range(3)
]
MANY = _rng.standard_normal((70, 3)) * 1e-160
ZEROS = np.zeros((4, N), "f4")


def _steps(n=N, **options):
    p = START[:n].copy()
    opt = na.Adam(p, lr=1e-3, **options)
    for g in GRADS:
        opt.step(g[:n])
    return p, opt.state["m"], opt.state["v"]


def _functional():
    p, (m, v) = START.copy(), ZEROS[:2].copy()
    for t, g in enumerate(GRADS, 1):
        na.adam_update(p, g, m, v, t, lr=1e-3)
    return p, m, v


def _nopython():
    p, (m, v) = START[:99].copy(), ZEROS[:2, :99].copy()
    for t, g in enumerate(GRADS, 1):
        adam_update(p, g[:99], m, v, t, lr=1e-3)
    with contextlib.suppress(ValueError):  # which restores the mode, too
        adam_update(p, p, m, v, 0)
    return p, m, v


def _sparse():
    p = START.copy().reshape(-1, 10)
    opt = na.Adam(p, lr=1e-3, sparse="lazy")
    for g in GRADS:
        opt.step(na.Rows(np.arange(0, len(p), 2), g.reshape(-1, 10)[::2].copy()))
    return p, opt.state["m"], opt.state["v"]


def _minimize():
    res = na.minimize(parabola, MANY[0], lr=1e-161, maxiter=20, gtol=0, xtol=1e-300)
    return res.x_last, res.fun_last, res.grad_norm


def _minimize_many():
    res = na.minimize_many(parabola, MANY, lr=1e-161, maxiter=20, gtol=0)
    return res.x_last, res.fun_last, res.grad_norm


def _minimize_python():
    def fun(x):
        return 0.0, np.ldexp(x, 1)

    res = na.minimize(fun, MANY[0], jac=True, lr=1e-161, maxiter=20, gtol=0, xtol=1e-300)
    return res.x_last, res.grad_norm


RUNS = {
    "step in one thread": lambda: _steps(99),
    "step in threads": _steps,
    "step with a norm": lambda: _steps(clip_norm=1e-16),
    "functional": _functional,
    "nopython": _nopython,
    "sparse": _sparse,
    "minimize": _minimize,
    "minimize_many": _minimize_many,
    "minimize in Python": _minimize_python,
}
#: those of them that use threads
THREADED = ("step in threads", "step with a norm", "functional", "sparse", "minimize_many")


def digests(name: str, runs=tuple(RUNS)) -> dict[str, str]:
    """Digest of each run in a mode, which it has to leave as it is."""
    loops.wants_parallel = lambda total: total > 10_000
    found = {}
    for run in runs:
        with in_mode(name):
            arrays = RUNS[run]()
        found[run] = hash_of(*arrays)
    return found
