"""Processes that train one network together: one alone, or the ranks of MPI."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import numadam as na
from numadam.demos import MissingExtra

Array = np.ndarray[Any, Any]


class Team:
    """The processes that take a part of every batch each; without `comm`, this one alone."""

    def __init__(self, comm: Any = None) -> None:
        self.comm = comm
        self.rank: int = 0 if comm is None else comm.rank
        self.size: int = 1 if comm is None else comm.size

    def part(self, rows: Array) -> Array:
        """The rows of a batch that this rank takes."""
        return np.array_split(rows, self.size)[self.rank]

    def adam(self, params: Any, **options: Any) -> Any:
        """Adam, for gradients that are the sum of those of all ranks."""
        if self.comm is None:
            return na.Adam(params, **options)
        return na.mpi.Sharded(na.Adam, params, self.comm, **options)

    def sums(self, shares: list[float]) -> list[float]:
        """The sum over the ranks of each of some numbers, added in the order of the ranks."""
        parts = [shares] if self.comm is None else self.comm.allgather(shares)
        return [sum(numbers) for numbers in zip(*parts, strict=True)]

    def of_first(self, value: Any) -> Any:
        """The value of rank 0: a decision that follows is then the same on all ranks."""
        return value if self.comm is None else self.comm.bcast(value)

    def agree(self, work: Callable[[], Any]) -> Any:
        """The result of `work`; what it refuses on a rank ends all, and one of them says why."""
        if self.comm is None:
            return work()
        result = error = None
        try:
            result = work()
        except (MissingExtra, ValueError) as caught:
            error = caught
        failed = self.comm.allgather(error is not None)
        if error is not None and failed.index(True) == self.rank:
            raise error
        if any(failed):
            raise SystemExit(2)
        return result

    @contextmanager
    def together(self) -> Iterator[None]:
        """End all ranks where one raises: the others would wait for it."""
        try:
            yield
        except Exception:
            if self.size > 1:
                traceback.print_exc()
                sys.stderr.flush()
                self.comm.Abort(1)
            raise


ALONE = Team()


def ranks() -> Team:
    """The ranks that ``mpiexec`` has started."""
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise MissingExtra("mpi4py", "mpi") from error
    except RuntimeError as error:  # mpi4py is there, and no MPI
        raise ValueError(f"--mpi: {error}. Install one, e.g. pip install mpich.") from error
    return Team(MPI.COMM_WORLD)
