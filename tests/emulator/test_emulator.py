"""Faults that the emulator has to find, and what has to work, each in a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

from tests import emulator, extras

BEGIN = """
import ctypes, cupy as cp, numpy as np
from tests import emulator
def run(body, blocks, threads, x):
    name = "extern \\"C\\" __global__ void k(float* x, int n) {"
    head = "int i = blockIdx.x * blockDim.x + threadIdx.x;"
    cp.RawKernel(name + head + body + "}", "k")((blocks,), (threads,), (x, np.int32(100)))
x, sync = cp.zeros(100, "f4"), cp.cuda.Device().synchronize
"""
UNKNOWN = """
ptx = b".version 8.5\\n.target sm_80\\n.visible .entry k() { .reg .f32 %f<9>; .reg .b32 %r<9>; "
module = cp.cuda.function.Module()
module.load(ptx + b"tex.1d.v4.f32.s32 {%f1, %f2, %f3, %f4}, [texture, {%r1}]; ret; }")
module.get_function("k")((1,), (1,), ())
sync()
"""
STEP = """
import numadam as na
na.SGD(x, lr=1.0, clip_norm=1.0).step(cp.ones(100, "f4"))
na.SGD(cp.ones(100), lr=1.0, clip_norm=1.0).step(cp.zeros(100))  # whose sum is formed twice
sync()
"""
#: By name the program, and a text of the fault; "" where there must be none.
PROGRAMS = {
    "out of bounds": ('run("x[i] = 1;", 1, 128, x); sync()', "OUT OF BOUNDS write of 4 bytes"),
    "misaligned": (
        'run("if (i < 10) ((float4*)(x + 1))[i] = make_float4(1, 1, 1, 1);", 1, 32, x); sync()',
        "MISALIGNED write of 16 bytes",
    ),
    "race in shared memory": (
        'run("__shared__ float s[128]; s[threadIdx.x] = i;"'
        '    "if (i < n) x[i] = s[127 - threadIdx.x];", 1, 128, x); sync()',
        "RACE",
    ),
    "race in global memory": ('run("x[0] += i;", 2, 32, x); sync()', "RACE"),
    "memory of another GPU": (
        "with cp.cuda.Device(1): y = cp.zeros(100, 'f4'); cp.cuda.Device().synchronize()\n"
        'run("if (i < n) x[i] = 7;", 1, 128, y); sync()',
        "memory of device 1 from device 0",
    ),
    "an instruction without a translation": (UNKNOWN, "TRAP (not translated: tex.1d"),
    "a step": (STEP, ""),
    "memory in a capture": (
        "with cp.cuda.Stream(non_blocking=True) as s: s.begin_capture(); y = cp.zeros(1000)",
        "",
    ),
}
LATE = """
y, stream = cp.zeros(100, "f4"), cp.cuda.Stream(non_blocking=True)
sync()
with stream:
    run("if (i < n) x[i] = 7;", 1, 128, y)
assert float(y[0]) == 0 and emulator.pending()
stream.synchronize()
assert float(y[0]) == 7 and emulator.faults() == []
"""


#: A mistake planted in a kernel of numadam's, and a text of the fault.
PLANTED = {
    "no barrier": ("norms", "make_sums", "cuda.syncthreads()", "pass", "RACE"),
    "no barrier before the next sums": (
        *("norms", "make_sums", "cuda.syncthreads()  # before", "pass  # before"),
        "RACE",
    ),
    "no barrier in the total": ("norms", "make_norms", "cuda.syncthreads()", "pass", "RACE"),
    "a write beyond the array": ("kernel", "make_step", "ps[i] =", "ps[i + 1] =", "OUT OF BOUNDS"),
    "one element too many": ("kernel", "make_step", "if i < n", "if i <= n", "OUT OF BOUNDS"),
}
PLANT = """
from numadam._cuda import {module}
make = {module}.{make}
def planted(*given):
    kernel = make(*given)
    return kernel._replace(text=kernel.text.replace({right!r}, {wrong!r}))
{module}.{make} = planted
if "{module}" == "norms":
    from numadam._cuda import reductions
    reductions.{make} = planted
"""


def program(code, **environment):
    """A process with two emulated GPUs, which checks all that the emulator can check."""
    if not emulator.is_running():
        extras.stop("gpu", "there is a GPU: nothing is emulated")
    given = {"EMU": "1", "EMU_RACE": "1", "EMU_EXACT": "1", "EMU_DEVICES": "2", **environment}
    return subprocess.run(
        [sys.executable, "-c", BEGIN + code],
        env={**emulator.environment(started=True), **given},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_faults_are_found(name):
    code, fault = PROGRAMS[name]
    ended = program(code)
    assert fault in ended.stderr
    if not fault:
        said = re.sub(r"^numadam: compiling .*\n", "", ended.stderr, flags=re.MULTILINE)
        assert (ended.returncode, said) == (0, "")


@pytest.mark.parametrize("name", PLANTED)
def test_mistakes_in_kernels_of_numadam_are_found(name, tmp_path):
    module, make, right, wrong, fault = PLANTED[name]
    mistake = PLANT.format(module=module, make=make, right=right, wrong=wrong)
    kept = {"NUMBA_CACHE_DIR": str(tmp_path)}  # of no other process
    assert fault in program(mistake + STEP, **kept).stderr


def test_work_runs_as_late_as_it_may():
    assert program(LATE).returncode == 0


def test_the_host_must_not_touch_memory_of_the_gpu():
    ended = program("print(ctypes.c_float.from_address(x.data.ptr).value)")
    assert ended.returncode == -signal.SIGSEGV
