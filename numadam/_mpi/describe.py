"""The MPI that mpi4py finds, and the way of CuPy arrays, for ``python -m numadam info``."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

#: Names of the variables by which a launcher tells a process its rank begin with these.
_LAUNCHERS = ("PMI", "PRTE", "OMPI_COMM", "OMPI_UNIVERSE", "HYD", "MPIEXEC", "MPI_LOCAL", "SLURM_")
#: Seconds for the start of MPI.
_START_SECONDS = 30


def describe() -> str:
    """MPI's name and version, and the transport of CuPy arrays, in one line.

    MPI is started in a process of its own, as one rank: on the login node of a cluster its start
    may end the process that asks.
    """
    if importlib.util.find_spec("mpi4py") is None:
        return "none found: pip install mpi4py"
    alone = {key: value for key, value in os.environ.items() if not key.startswith(_LAUNCHERS)}
    command = [sys.executable, "-m", "numadam._mpi.describe"]
    try:
        done = subprocess.run(
            command, env=alone, capture_output=True, text=True, timeout=_START_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "mpi4py is installed, but its MPI does not start here as a single process"
    return done.stdout.strip().splitlines()[-1]


def _ask() -> str:
    """The line, in this process, which starts MPI."""
    from mpi4py import MPI

    from numadam._mpi.choose import takes_gpu_memory

    name, version = MPI.get_vendor()
    takes = takes_gpu_memory(MPI.COMM_SELF)
    way = "MPI" if takes else "the host's memory"
    why = {True: "", False: " (MPI takes no memory of a GPU)", None: " (MPI does not say)"}[takes]
    return f"{name} {'.'.join(map(str, version))}; CuPy arrays go through {way}{why}"


if __name__ == "__main__":
    print(_ask())
