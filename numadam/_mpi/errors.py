"""The error of a rank that cannot go on because of another one."""

from __future__ import annotations


class RankError(RuntimeError):
    """Another rank failed, or two ranks do not go together.

    The message names the rank and says what happened there. The rank that failed raises its own
    error. Nothing was written on any rank.

    Examples
    --------
    All ranks leave out a step that one of them refuses::

        comm = MPI.COMM_WORLD
        opt = na.Adam(block, clip_norm=1.0, comm=comm)
        try:
            opt.step(gradient(block))
        except (na.mpi.RankError, ValueError) as error:
            print(comm.rank, error)
    """

    __module__ = "numadam.mpi"
