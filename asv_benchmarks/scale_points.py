"""Points that the model of the scale is checked against, and this machine's constants in it.

    mpiexec -n N python asv_benchmarks/scale_points.py PARAMETERS PAIRS FILE

Rank 0 writes seconds by name: the median of a mode, the shortest of the machine's own speed.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
from statistics import median

import mpi_ranks
import numpy as np
from benchmarks.common import values
from mpi4py import MPI
from scale_model import WORDS

#: Elements of a message, messages of a call, and small messages that are on their way together.
MESSAGE, _CALL, MANY = 1 << 18, 4, 256
#: Parameters of a rank whose step is all call.
_FEW = 16
#: Short samples of the machine's own speed, of which the fastest counts: others were away then.
_SAMPLES, _SHORT = 60, 1e-3


def _exchange(comm, n, stored):
    """Send to the other one of two ranks and receive from it, one part of n numbers after another.

    What comes in is either stored in as large an array, or in a buffer that stays in the cache.
    """
    other, out = 1 - comm.rank, values(n)
    into = np.zeros(n if stored else MESSAGE, np.float32)
    places = itertools.cycle(range(0, n - MESSAGE + 1, MESSAGE))

    def side():
        for at in itertools.islice(places, _CALL):
            to = into[at : at + MESSAGE] if stored else into
            received = comm.Irecv(to, other)
            MPI.Request.Waitall([received, comm.Isend(out[at : at + MESSAGE], other)])

    return side


def _small_messages(comm):
    other, out, into = 1 - comm.rank, np.zeros(64), np.zeros((MANY, 64))

    def side():
        requests = [comm.Irecv(row, other) for row in into]
        requests += [comm.Isend(out, other) for _ in into]
        MPI.Request.Waitall(requests)

    return side


def _gather(comm):
    words = np.zeros(WORDS // 8, np.int64)
    rows = np.zeros((comm.size, words.size), np.int64)
    return lambda: comm.Iallgather(words, rows).Wait()


def _constants(comm, n):
    """Sides of the machine's own speed, of two ranks."""
    if comm.size != 2:
        return {}
    return {
        "exchange": _exchange(comm, n // 2, False),
        "exchange stored": _exchange(comm, n // 2, True),
        "small messages": _small_messages(comm),
        "gather": _gather(comm),
        "call": mpi_ranks.independent(comm, 2 * _FEW),
    }


def _modes(comm, n):
    return {
        "alone": mpi_ranks.independent(comm, n),
        "mode 1": mpi_ranks.distributed(comm, n),
        "mode 1, clip_norm": mpi_ranks.distributed(comm, n, clip_norm=1.0),
        "mode 2": mpi_ranks.shared(comm, n),
        "mode 3": mpi_ranks.sharded(comm, [n]),
        "replicated": mpi_ranks.replicated(comm, n),
    }


def _main(comm, parameters, pairs, file):
    sides, constants = _modes(comm, int(parameters)), _constants(comm, int(parameters))
    crowded = comm.size > (os.cpu_count() or 1)
    timed = [mpi_ranks.Together(comm, side, asleep=crowded) for side in sides.values()]
    times = mpi_ranks.rounds(comm, timed, int(pairs))
    found = dict(zip(sides, map(median, times), strict=True))
    timed = list(map(functools.partial(mpi_ranks.Together, comm), constants.values()))
    times = mpi_ranks.rounds(comm, timed, _SAMPLES, _SHORT)
    return found | dict(zip(constants, map(min, times), strict=True))


if __name__ == "__main__":
    mpi_ranks.run(_main, sys.argv[1:])
