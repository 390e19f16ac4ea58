"""The cases of ``python -m numadam bench --mpi``: each is a run of two ranks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from numadam._version import install_command
from numadam.bench.case import Case
from numadam.bench.measure import Figure
from numadam.bench.peers import Unavailable

#: Ranks of a case, and seconds after which one is given up.
RANKS, _LIMIT = 2, 600.0


def mpiexec() -> str:
    """The program that starts ranks: beside the interpreter, as wheels bring it, or on the path."""
    beside = Path(sys.executable).parent
    found = shutil.which("mpiexec", path=os.fspath(beside)) or shutil.which("mpiexec")
    if found is None:
        raise Unavailable("mpiexec is not installed: pip install mpich")
    return found


def missing() -> str:
    """Why no case can run here, or ""."""
    from numadam.bench.peers import need

    try:
        need("mpi4py")
    except Unavailable as reason:
        return f"{reason}: {install_command('mpi')}"
    try:
        mpiexec()
    except Unavailable as reason:
        return str(reason)
    return ""


def run_ranks(module: str, words: list[str], ranks: int = RANKS) -> str:
    """Run a module of numadam on so many ranks of one thread each; what it has written to a file.

    The module gets the words, then the name of the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        command = [mpiexec(), "-n", str(ranks), sys.executable, "-m", module, *words, str(file)]
        environment = {**os.environ, "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_LIMIT, check=False
        )
        if done.returncode != 0 or not file.exists():
            raise RuntimeError(f"a case on {ranks} ranks failed: {done.stderr.strip()}")
        return file.read_text()


def _prepare(name: str) -> Callable[[], Callable[[int], Figure]]:
    def measure(pairs: int) -> Figure:
        text = run_ranks("numadam.bench.mpi_worker", [name, str(pairs)])
        return Figure(**json.loads(text))

    def prepare() -> Callable[[int], Figure]:
        mpiexec()
        return measure

    return prepare


def _case(name: str, what: str, target: float, *needs: str) -> Case:
    name = f"mpi-{name}"
    return Case(name, what, target, _prepare(name), needs=("mpi4py", *needs), memory=4.0)


_ZERO = "DDP's all-reduce and ZeroRedundancyOptimizer on gloo"

MPI_CASES = (
    _case("mode1-20M", "a step of 20M cut over 2 ranks / the two halves, each by itself", 1.05),
    _case("mode1-clip-20M", "the same with clip_norm / with clip_norm of each half alone", 1.10),
    _case("mode1-memory", "parameters, gradient, moments of a rank / 16 P/N bytes", 1.05),
    _case("mode2-20M", "a step of 20M in a node's memory / one process with 2 threads", 1.2),
    _case("mode2-memory", "memory of the node with 2 ranks / (12 + 4 k) P bytes", 1.05),
    _case("mode3-bytes", "bytes that a rank sends in a step of 20M / 2 (N-1)/N P b", 1.05),
    _case("mode3-floor", "Sharded's step of 20M / copying as many bytes, both ranks", 1.5),
    _case("mode3-torch-20x1M", f"Sharded, 20 arrays of 1M / {_ZERO}", 0.3, "torch"),
    _case("mode3-torch-20M", f"Sharded, one array of 20M / {_ZERO}", 0.3, "torch"),
    _case(
        "mode3-memory", "parameters, gradient, moments, buckets of a rank / (8 + 8/N) P bytes", 1.05
    ),
)
