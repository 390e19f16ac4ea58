"""Ranks that are threads of one process: what they exchange goes without MPI."""

from __future__ import annotations

import collections
import threading

import numpy as np

from numadam._mpi import Ranks
from numadam.mpi import RankError

#: Seconds after which ranks that wait for each other are a failure.
PATIENCE = 1200


class LeftAloneError(Exception):
    """Raised on a rank that the others do not come to."""


class Group:
    """Ranks of one communicator."""

    def __init__(self, size):
        self.size, self.moved, self.failed = size, threading.Condition(), False
        self.rows = collections.defaultdict(dict)  # of each exchange, by rank

    def run(self, work):
        """``work(ranks)`` on all ranks at once: the results, or exceptions, by rank."""
        found = [None] * self.size

        def one(rank):
            try:
                found[rank] = work(ThreadRanks(self, rank))
            except BaseException as error:
                found[rank], self.failed = error, True
                self.until(lambda: True)

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    def until(self, there):
        """Tell the others that this rank has done something, and wait for what they do."""
        with self.moved:
            self.moved.notify_all()
            came = self.moved.wait_for(lambda: there() or self.failed, PATIENCE)
            if not there():
                raise LeftAloneError("another rank failed" if came else "the others did not come")


class ThreadRanks(Ranks):
    """One rank."""

    def __init__(self, group, rank):
        self.group, self.rank, self.size, self.exchanges = group, rank, group.size, 0

    def gather(self, words):
        rows = np.empty((self.size, len(words)), words.dtype)
        rows[self.rank] = words
        self.share(rows)
        return rows

    def share(self, rows, patience=None):
        given = self.group.rows[self.exchanges]
        self.exchanges += 1
        given[self.rank] = rows[self.rank].copy()
        self.group.until(lambda: len(given) == self.size)
        for rank, row in given.items():
            assert (row.shape, row.dtype) == (rows.shape[1:], rows.dtype)
            rows[rank] = row
        return True


def on_ranks(size, work):
    """Results of ``work(ranks)`` on so many ranks; the first own error, if there is one."""
    found = Group(size).run(work)
    errors = [error for error in found if isinstance(error, BaseException)]
    for error in sorted(errors, key=lambda error: isinstance(error, (RankError, LeftAloneError))):
        raise error
    return found
