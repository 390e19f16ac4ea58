"""Ranks of one program in one process: each a thread, of which one runs at a time.

Numba's simulator launches one kernel at a time. So a rank has the turn until it waits for others.
"""

from __future__ import annotations

import collections
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from numadam._mpi.ranks import Ranks

#: Seconds after which a rank that waits for others fails.
PATIENCE = 120


class Meeting:
    """What ranks that are threads have together."""

    def __init__(self, size):
        self.size, self.turn = size, threading.Lock()
        self.rows = collections.defaultdict(dict)
        self.letters = collections.defaultdict(collections.deque)
        self.failed = False
        self.calls = [0] * size

    def until(self, there):
        """Give the turn to others until they have done something."""
        end = time.monotonic() + PATIENCE
        while not there():
            self.turn.release()
            time.sleep(1e-4)
            self.turn.acquire()
            assert not self.failed, "another rank failed"
            assert time.monotonic() < end, "the others did not come"


class FakeRanks(Ranks):
    """One rank."""

    def __init__(self, meeting, rank):
        self._meeting, self.rank, self.size = meeting, rank, meeting.size
        self.comm = Comm(meeting, rank)

    def gather(self, words):
        """The words of all ranks, once they have all come."""
        rows = np.empty((self.size, len(words)), words.dtype)
        rows[self.rank] = words
        self.share(rows)
        return rows

    def share(self, rows, patience=None):
        """As `gather`, in place."""
        meeting = self._meeting
        all_rows = meeting.rows[meeting.calls[self.rank]]
        meeting.calls[self.rank] += 1
        all_rows[self.rank] = rows[self.rank].copy()
        meeting.until(lambda: len(all_rows) == self.size)
        for rank, row in all_rows.items():
            assert (row.shape, row.dtype) == (rows.shape[1:], rows.dtype)
            rows[rank] = row
        return True


class Comm:
    """Messages as MPI has them: one is there when both sides have waited for it."""

    def __init__(self, meeting, rank):
        self._meeting, self._rank, self.log = meeting, rank, []

    def Get_info(self):
        """As of a real communicator."""
        from mpi4py import MPI

        return MPI.COMM_SELF.Get_info()

    def Isend(self, message, dest):
        """Offer the bytes as they will be when the other side takes them."""
        letter = {"bytes": _bytes(message), "taken": False}
        self._meeting.letters[self._rank, dest].append(letter)
        self.log.append(("Isend", dest, letter["bytes"].nbytes, type(message[0]).__module__))
        return Request(self._meeting, lambda: letter["taken"])

    def Irecv(self, message, source):
        """Take the next message that no other request has taken."""
        room, letters = _bytes(message), self._meeting.letters[self._rank, source, "wanted"]
        wanted = {"room": room, "there": False}
        letters.append(wanted)
        self.log.append(("Irecv", source, room.nbytes, type(message[0]).__module__))
        return Request(self._meeting, lambda: self._take(source, wanted))

    def _take(self, source, wanted):
        sent = self._meeting.letters[source, self._rank]
        asked = self._meeting.letters[self._rank, source, "wanted"]
        while sent and asked and not wanted["there"]:
            letter, one = sent.popleft(), asked.popleft()
            assert letter["bytes"].nbytes == one["room"].nbytes
            one["room"][...] = letter["bytes"]
            one["there"] = letter["taken"] = True
        return wanted["there"]


class Request:
    def __init__(self, meeting, there):
        self._meeting, self._there = meeting, there

    def Wait(self):
        self._meeting.until(self._there)


def _bytes(message):
    from mpi4py import MPI

    array, kind = message
    assert kind == MPI.BYTE
    assert array.dtype == np.uint8
    assert array.flags.c_contiguous
    return np.ndarray.view(array, np.ndarray)


def on_ranks(size, work):
    """Results of ``work(ranks)`` with the `FakeRanks` of each, and their meeting."""
    meeting = Meeting(size)

    def one(rank):
        with meeting.turn:
            try:
                return work(FakeRanks(meeting, rank))
            except BaseException:
                meeting.failed = True
                raise

    with ThreadPoolExecutor(size) as pool:
        tasks = [pool.submit(one, rank) for rank in range(size)]
        errors = [task.exception() for task in tasks]
    for error in sorted(filter(None, errors), key=lambda e: str(e) == "another rank failed"):
        raise error
    return [task.result() for task in tasks], meeting
