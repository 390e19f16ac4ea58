"""Optimisers on the ranks of an MPI program: the error that tells a rank of another one.

The option `comm` of every optimiser needs nothing from here. mpi4py itself is never imported.
"""

from numadam._mpi import RankError

__all__ = ["RankError"]
