"""What two ranks find out about the benchmarks on MPI.

mpiexec -n 2 python tests/bench/ranks_of_bench.py FILE
"""

import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI

sys.path.append(str(Path(__file__).parents[2]))
from tests.bench import load

ranks = load("mpi_ranks")
Counting, Together = ranks.Counting, ranks.Together


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
    rows = np.zeros((2, 3), np.int64)
    calls = [
        lambda: part.Iallgather(rows[comm.rank].copy(), rows).Wait(),
        lambda: part.Iallgather(MPI.IN_PLACE, rows).Wait(),
        lambda: part.Allgatherv(np.ones(2), [np.empty(4), [2, 2], MPI.DOUBLE]),
        # own part left out: to the other rank 3 numbers
        lambda: part.Alltoallv(
            [np.ones(6), counts(comm, 3), MPI.DOUBLE], [np.empty(6), counts(comm, 3), MPI.DOUBLE]
        ),
    ]
    for call in calls:
        Counting.reset()
        call()
        found.append((Counting.sent, Counting.messages))
    try:
        part.Allreduce(np.ones(1), np.ones(1))
    except NotImplementedError as error:
        found.append(str(error))
    return found


def counts(comm, n):
    return [0 if rank == comm.rank else n for rank in range(comm.size)]


def grown(comm):
    """Bytes by which ranks grow: one of their own, one that they share."""
    own = ranks.growth(comm, lambda: np.ones(2_000_000))

    def share(size):
        window = MPI.Win.Allocate_shared(size if comm.rank == 0 else 0, 1, comm=comm)
        whole = np.frombuffer(window.Shared_query(0)[0], np.uint8)
        if comm.rank == 0:
            whole[:] = 1
        comm.Barrier()
        return window, int(whole.max())

    share(1000)  # what MPI itself needs for windows
    return own, ranks.growth(comm, lambda: share(64_000_000)), ranks.resident()


def timed(comm):
    """Sides of all ranks, and one of rank 0: every rank gets the same times."""
    calls = []
    here, asleep = (Together(comm, lambda: calls.append(1), asleep=kind) for kind in (False, True))
    alone = Together(comm, ranks.whole(comm, 5), asleep=True)
    times = ranks.rounds(comm, (here, asleep, alone), 3, sample=1e-4)
    same = comm.allgather(times)
    positive = all(value > 0 for side in times for value in side)
    return same[0] == same[1], positive, [len(side) for side in times], ranks.middle([2.0], [4.0])


def figures(comm, file):
    """Values of all cases that need no torch."""
    names = [name for name in ranks.CASES if "torch" not in name]
    return {name: ranks.CASES[name](comm, 1, Path(file)).value for name in names}


def main(comm, file):
    return {
        "cases": sorted(ranks.CASES),
        "figures": figures(comm, file),
        "counted": comm.allgather(counted(comm)),
        "grown": grown(comm),
        "timed": timed(comm),
    }


if __name__ == "__main__":
    ranks.run(main, sys.argv[1:])
