"""Find where a plate was hot, on the ranks of MPI.

mpiexec -n 2 python -m mpi4py heat_inversion.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI

import numadam as na

SHARE, STEPS = 0.2, 20  # share of heat to each neighbour in a step; steps
NOISE = 0.01


def exchange(u, comm):
    """Fill the ghost rows from the neighbours; our own rows at the rim."""
    u[0], u[-1] = u[1], u[-2]
    above = comm.rank - 1 if comm.rank else MPI.PROC_NULL
    below = comm.rank + 1 if comm.rank + 1 < comm.size else MPI.PROC_NULL
    comm.Sendrecv(u[1], above, recvbuf=u[-1], source=below)
    comm.Sendrecv(u[-2], below, recvbuf=u[0], source=above)


def flow(u, comm):
    """Let the heat flow, in place."""
    for _ in range(STEPS):
        exchange(u, comm)
        wide = np.pad(u, ((0, 0), (1, 1)), "edge")
        around = u[:-2] + u[2:] + wide[1:-1, :-2] + wide[1:-1, 2:]
        u[1:-1] += SHARE * (around - 4 * u[1:-1])


def misfit(x, seen, comm):
    """Share of half the sum of squares; gradient of the whole sum."""
    error = x.copy()
    flow(error, comm)
    error[1:-1] -= seen
    share = 0.5 * np.sum(error[1:-1] ** 2)
    # as much flows from a to b as from b to a: the flow is its own adjoint
    flow(error, comm)
    exchange(error, comm)
    return share, error


def invert(seen, comm):
    """The rows of this rank as they were, from those that are seen."""
    pixels = comm.allreduce(seen.size)
    x = np.zeros((len(seen) + 2, seen.shape[1]))
    owned = np.ones(x.shape, bool)
    owned[[0, -1]] = False

    def enough(intermediate_result):
        # what is left is noise
        if intermediate_result.fun <= 0.5 * NOISE**2 * pixels:
            raise StopIteration

    return na.minimize(
        misfit,
        x,
        (seen, comm),
        comm=na.mpi.Decomposition(comm, owned=owned),
        f="local",
        jac=True,
        lr=0.1,
        beta2=0.9,
        bounds=(0, None),
        maxiter=300,
        callback=enough,
    )


if __name__ == "__main__":
    comm, folder = MPI.COMM_WORLD, Path(sys.argv[1])
    whole = np.load(folder / "seen.npy", mmap_mode="r")
    cuts = [len(whole) * rank // comm.size for rank in range(comm.size + 1)]
    mine = whole[cuts[comm.rank] : cuts[comm.rank + 1]]
    res = invert(np.array(mine), comm)
    np.save(folder / f"{comm.rank}-of-{comm.size}.npy", res.x[1:-1])
    if comm.rank == 0:
        print(
            f"ranks: {comm.size}, iterations: {res.nit}, f: {res.fun:.6f}"
        )
