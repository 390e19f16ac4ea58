"""Two ranks of MPI: time against the same without it and against torch, bytes against formulas.

Skipped where mpi4py or mpiexec is missing.
"""

from .common import Tracked


class OnTwoRanks(Tracked):
    params = [
        "mpi-mode1-20M",
        "mpi-mode1-clip-20M",
        "mpi-mode1-memory",
        "mpi-mode2-20M",
        "mpi-mode2-memory",
        "mpi-mode3-bytes",
        "mpi-mode3-floor",
        "mpi-mode3-torch-20x1M",
        "mpi-mode3-torch-20M",
        "mpi-mode3-memory",
    ]
    timeout = 600

    def track_ratio(self, name):
        return self.value()

    track_ratio.unit = "ratio"
