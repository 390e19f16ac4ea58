"""Optimisers on the ranks of an MPI program: blocks of one problem, or shared work on one array.

mpi4py itself is imported only where a communicator comes in.
"""

from numadam._mpi.decomposition import Decomposition
from numadam._mpi.errors import RankError

__all__ = ["Decomposition", "RankError"]
