"""What two ranks find out about the benchmarks on MPI.

mpiexec -n 2 python -m tests.bench.mpi_ranks FILE
"""

import json
import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI

from numadam.bench import mpi_worker
from numadam.bench.mpi_memory import Counting, growth, resident
from numadam.bench.mpi_timing import Elsewhere, Together, middle, rounds
from numadam.bench.peers import numpy_adam


def counted(comm):
    """Bytes and messages of known traffic, also over copies and parts of a communicator."""
    counting = Counting(comm)
    copy, request = counting.Idup()
    request.Wait()
    part = copy.Split(0, comm.rank)
    other, found = 1 - comm.rank, []
    into = np.empty(10)
    for message in (np.ones(10), [np.ones(10), MPI.DOUBLE], [np.ones(10), 5, MPI.DOUBLE]):
        Counting.reset()
        received = part.Irecv(into, other)
        MPI.Request.Waitall([received, part.Isend(message, other)])
        found.append((Counting.sent, Counting.messages))
    Counting.reset()
    rows = np.zeros((2, 3), np.int64)
    part.Iallgather(rows[comm.rank].copy(), rows).Wait()
    part.Iallgather(MPI.IN_PLACE, rows).Wait()
    found.append((Counting.sent, Counting.messages))
    Counting.reset()
    counts = [0, 5] if comm.rank == 0 else [5, 0]
    part.Ialltoallv([into, counts, [0, 0], MPI.DOUBLE], [rows, counts, [0, 0], MPI.DOUBLE]).Wait()
    part.Iallgatherv(MPI.IN_PLACE, [into, [3, 3], [0, 3], MPI.DOUBLE]).Wait()
    found.append((Counting.sent, Counting.messages))
    try:
        part.Allreduce(np.ones(1), np.ones(1))
    except NotImplementedError as error:
        found.append(str(error))
    return found


def grown(comm):
    """Bytes by which ranks grow: one of their own, one that they share."""
    own = growth(comm, lambda: np.ones(2_000_000))

    def share(size):
        window = MPI.Win.Allocate_shared(size if comm.rank == 0 else 0, 1, comm=comm)
        whole = np.frombuffer(window.Shared_query(0)[0], np.uint8)
        if comm.rank == 0:
            whole[:] = 1
        comm.Barrier()
        return window, int(whole.max())

    share(1000)  # what MPI itself needs for windows
    return own, growth(comm, lambda: share(64_000_000)), resident()


def timed(comm):
    """Sides of all ranks, and one elsewhere: every rank gets the same times."""
    calls = []
    here, asleep = (Together(comm, lambda: calls.append(1), asleep=kind) for kind in (False, True))
    elsewhere = Elsewhere(comm, 1, numpy_adam, 5)
    times = rounds(comm, (here, asleep, elsewhere), 3, sample=1e-4)
    elsewhere.close()
    same = comm.allgather(times)
    positive = all(value > 0 for side in times for value in side)
    return same[0] == same[1], positive, [len(side) for side in times], middle([2.0], [4.0])


if __name__ == "__main__":
    ranks = MPI.COMM_WORLD
    answers = {
        "cases": sorted(mpi_worker.CASES),
        "counted": ranks.allgather(counted(ranks)),
        "grown": grown(ranks),
        "timed": timed(ranks),
    }
    if ranks.rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(answers))
