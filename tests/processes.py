"""Code that runs in a process of its own.

No process has a limit of time: pytest-timeout ends a test that hangs.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path
from typing import Any

import numadam
from tests import emulator, extras

ROOT = Path(numadam.__file__).parent.parent

PREAMBLE = """
import numpy as np, numadam as na
def train(n=100_000, steps=5, **options):
    rng = np.random.default_rng(0)
    p = rng.standard_normal(n).astype("f4")
    opt = na.Adam(p, lr=0.01, **options)
    for _ in range(steps):
        opt.step(np.sin(p))
    return p, opt
def form(opt):
    return opt._backend.compiled.kernel().form
def digest(n=100_000):
    import hashlib
    return hashlib.sha256(train(n)[0].tobytes()).hexdigest()
"""

#: For a process that forks: ``in_child(work)`` is the text that `work` returns in a child.
FORKED = """
import os, sys
def in_child(work):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, work().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    status = os.waitpid(pid, 0)[1]
    assert status == 0, f"child ended with status {status}"
    return text
"""

#: ``storm(work, strikes)``: calls of `work` that an exception from outside ends, so many times.
STORM = """
import ctypes, threading
class Strike(Exception): pass
def storm(work, strikes):
    main, stop, inside = threading.get_ident(), threading.Event(), []
    def strike():
        while not stop.wait(0.0005):
            if inside:  # one strike for each entry: none meets the handler below
                inside.clear()
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(main), ctypes.py_object(Strike))
    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    for _ in range(strikes):
        try:
            inside.append(True)
            while True:
                work()
        except Strike:
            pass
    stop.set(); thread.join()
"""


def python(code: str, *, root: Path = ROOT, cwd: Path | None = None, **env: str) -> str:
    """Run code in a fresh interpreter; its output, or its error as the test's."""
    settings = {**os.environ, "PYTHONPATH": str(root), "PYTHONWARNINGS": "error", **env}
    # a warning that Numba's tbb layer writes from C comes before what Python prints later
    settings["PYTHONUNBUFFERED"] = "1"
    layer = env.get("NUMBA_THREADING_LAYER")
    extras.need_machine(layer != "omp" or sys.platform == "linux", "GNU OpenMP")
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(code)],
        env=settings,
        cwd=cwd or root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def mpiexec(ranks: int, *words: Any) -> subprocess.CompletedProcess[str]:
    """Run Python on ranks of MPI; `words` are its arguments. One that fails ends all."""
    command = shutil.which("mpiexec", path=sysconfig.get_path("scripts")) or shutil.which("mpiexec")
    if command is None:
        extras.stop("mpi", "there is no mpiexec: pip install mpich")
    # what mpiexec or a start without it left in the environment would join the ranks of this run
    foreign = ("PMI", "HYDRA", "MPI_LOCAL", "MPIEXEC", "OMPI_", "PRTE", "PMIX")
    env = {key: text for key, text in emulator.environment().items() if not key.startswith(foreign)}
    if not emulator.is_running():
        env["PYTHONPATH"] = str(ROOT)
    env.setdefault("OMP_NUM_THREADS", "1")  # of BLAS; the ranks share the cores
    # more ranks than cores: those of MPICH that wait sleep instead of taking turns in a loop
    env.setdefault("MPIR_CVAR_ENABLE_HEAVY_YIELD", "1")
    return subprocess.run(
        [command, "-n", str(ranks), sys.executable, "-m", "mpi4py", *map(str, words)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
