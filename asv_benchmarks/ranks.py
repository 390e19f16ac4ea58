"""Cost of a step on ranks of MPI, beside one process: the table of docs/how-to/mpi.md.

    mpiexec -n 2 -bind-to core:1 python -m mpi4py asv_benchmarks/ranks.py

The sides take turns, with one thread a rank. Of each the least is told: of the time of a step on
the slowest rank, and of the processor time of all ranks together.
"""

import itertools
import os
import time

os.environ |= {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # before they are read

import numpy as np
from benchmarks.common import LIMIT
from mpi4py import MPI

import numadam as na

#: Numbers in all blocks together; steps of a sample, and samples: short ones find a quiet moment.
SIZES = {10_000: (10, 400), 1_000_000: (1, 200)}
#: Seconds between two looks of a rank that waits without using its core.
_NAP = 5e-4


def wait(comm):
    """Wait for all ranks, asleep."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(_NAP)


def sides(comm, n):
    """Steps by name; that of one process is taken by rank 0 alone."""
    first, last = (n * rank // comm.size for rank in (comm.rank, comm.rank + 1))
    g = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    total = np.empty_like(g)

    def step_of(size, **options):
        opt, mine = na.Adam(np.ones(size, np.float32), **options), g[:size].copy()
        return lambda: opt.step(mine)

    whole, clipped = step_of(n), step_of(n, clip_norm=1.0)
    replica = step_of(n)

    def replicated():
        comm.Allreduce(g, total)
        replica()

    def alone(step):
        return step if comm.rank == 0 else lambda: None

    return {
        "one process": alone(whole),
        "blocks": step_of(last - first, comm=comm),
        "`Allreduce`, then the whole step": replicated,
        "one process, `clip_norm`": alone(clipped),
        "blocks, `clip_norm`": step_of(last - first, comm=comm, clip_norm=1.0),
    }


def sample(comm, step, count):
    """Seconds of a step on the slowest rank, and processor seconds of all ranks together."""
    wait(comm)
    step()
    comm.Barrier()
    wall, used = time.perf_counter(), time.process_time()
    for _ in itertools.repeat(None, count):
        step()
    times = time.perf_counter() - wall, time.process_time() - used
    every = comm.allgather(times)
    return max(one[0] for one in every) / count, sum(one[1] for one in every) / count


def main(comm):
    for n, (count, rounds) in SIZES.items():
        steps = sides(comm, min(n, LIMIT))
        found = {name: [] for name in steps}
        for step in steps.values():  # compiles
            step()
        for _ in range(rounds if n < LIMIT else 1):
            for name, step in steps.items():
                found[name].append(sample(comm, step, count))
        for name, taken in found.items():
            wall, used = (min(column) * 1e6 for column in zip(*taken, strict=True))
            if comm.rank == 0:
                print(f"| {n:,} | {name} | {wall:,.0f} us | {used:,.0f} us |", flush=True)


if __name__ == "__main__":
    main(MPI.COMM_WORLD)
