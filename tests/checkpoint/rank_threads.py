"""Ranks that are threads of one process: collectives without MPI."""

from __future__ import annotations

import threading

import numpy as np

from numadam.mpi import RankError

#: Seconds after which ranks that wait for each other are a failure.
PATIENCE = 60


class Group:
    """Ranks of one communicator."""

    def __init__(self, size):
        self.size, self.barrier = size, threading.Barrier(size, timeout=PATIENCE)
        self.rows, self.errors = [None] * size, [None] * size

    def run(self, work):
        """``work(ranks)`` on all ranks at once: the results, or exceptions, by rank."""
        found = [None] * self.size

        def one(rank):
            try:
                found[rank] = work(ThreadRanks(self, rank))
            except Exception as error:
                found[rank] = error

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found


class ThreadRanks:
    """One rank, with what `numadam._checkpoint.together` asks of a communicator."""

    def __init__(self, group, rank):
        self._group, self.rank, self.size = group, rank, group.size

    def gather(self, words):
        group = self._group
        group.rows[self.rank] = np.array(words)
        group.barrier.wait()
        assert len({(row.shape, row.dtype) for row in group.rows}) == 1
        rows = np.array(group.rows)
        group.barrier.wait()
        return rows

    def agree(self, error, what):
        group = self._group
        group.errors[self.rank] = error
        group.barrier.wait()
        errors = list(group.errors)
        group.barrier.wait()
        if error is not None:
            raise error
        for rank, other in enumerate(errors):
            if other is not None:
                raise RankError(f"{what}: rank {rank} of {self.size} failed. {other!r}")


def on_ranks(size, work):
    """Results of ``work(ranks)`` on so many ranks; the first own error, if there is one."""
    found = Group(size).run(work)
    for one in sorted(found, key=lambda one: isinstance(one, RankError)):
        if isinstance(one, Exception):
            raise one
    return found
