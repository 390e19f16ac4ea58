"""The error of a rank that cannot go on because of another one."""

from __future__ import annotations


class RankError(RuntimeError):
    """Another rank failed, or two ranks do not go together.

    The message names the rank and says what happened there. The rank that failed raises its own
    error. Nothing was written on any rank.
    """

    __module__ = "numadam.mpi"
