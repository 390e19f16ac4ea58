"""Two ranks of MPI: time against the same without it and against torch, bytes against formulas.

Each case is a run of its own. Skipped where mpi4py or mpiexec is missing.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from numadam._version import install_command
from numadam.bench.peers import Unavailable, need

from .common import Case, Cases, Figure
from .step import TORCH

#: Seconds after which a run is given up.
_LIMIT = 600.0
_ZERO = "DDP's all-reduce and ZeroRedundancyOptimizer on gloo"


def mpiexec():
    """The program that starts ranks: beside the interpreter, as wheels bring it, or on the path."""
    try:
        need("mpi4py")
    except Unavailable as reason:
        raise Unavailable(f"{reason}: {install_command('mpi')}") from None
    beside = Path(sys.executable).parent
    found = shutil.which("mpiexec", path=os.fspath(beside)) or shutil.which("mpiexec")
    if found is None:
        raise Unavailable("mpiexec is not installed: pip install mpich")
    return found


def run_ranks(program, words, ranks=2):
    """Run a program of the folder above on so many ranks; return its figures.

    The program gets the words, then the name of the file that it writes JSON to.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        path = Path(__file__).parents[1] / program
        command = [mpiexec(), "-n", str(ranks), sys.executable, str(path), *words, str(file)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_LIMIT, check=False
        )
        if done.returncode != 0 or not file.exists():
            raise RuntimeError(f"a case on {ranks} ranks failed: {done.stderr.strip()}")
        return json.loads(file.read_text())


def _figure(name, pairs):
    return Figure(**run_ranks("mpi_ranks.py", [name, str(pairs)]))


def _case(name, what, target, needs=()):
    name = f"mpi-{name}"

    def make():
        mpiexec()
        return functools.partial(_figure, name)

    return name, Case(what, target, make, needs)


class OnTwoRanks(Cases):
    cases = dict(
        [
            _case("mode1-20M", "a step of 20M cut over 2 ranks / the halves, each by itself", 1.05),
            _case("mode1-clip-20M", "the same with clip_norm / clip_norm of each half alone", 1.1),
            _case("mode1-memory", "parameters, gradient, moments of a rank / 16 P/N bytes", 1.05),
            _case("mode2-20M", "a step of 20M in a node's memory / one process, 2 threads", 1.2),
            _case("mode2-memory", "memory of the node with 2 ranks / (12 + 4 k) P bytes", 1.05),
            _case("mode3-bytes", "bytes that a rank sends in a step of 20M / 2 (N-1)/N P b", 1.05),
            _case("mode3-floor", "Sharded's step of 20M / copying as many bytes, both ranks", 1.5),
            _case("mode3-torch-20x1M", f"Sharded, 20 arrays of 1M / {_ZERO}", 0.3, TORCH),
            _case("mode3-torch-20M", f"Sharded, one array of 20M / {_ZERO}", 0.3, TORCH),
            _case(
                "mode3-memory",
                "parameters, gradient, moments, buckets of a rank / (8 + 8/N) P bytes",
                1.05,
            ),
        ]
    )
    timeout = 600
    track_ratio = Cases.value
