"""Points that the model of the scale is checked against, and this machine's constants in it.

mpiexec -n N python -m numadam.bench.scale_points PARAMETERS PAIRS FILE
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from mpi4py import MPI

from numadam.bench import mpi_sides
from numadam.bench.measure import Side
from numadam.bench.mpi_timing import Together, rounds
from numadam.bench.peers import values
from numadam.bench.scale_model import WORDS

#: Elements of a message, messages of a call, and small messages that are on their way together.
MESSAGE, _CALL, MANY = 1 << 18, 4, 256
#: Elements that a call exchanges.
EXCHANGED = MESSAGE * _CALL
#: Parameters of a rank whose step is all call.
_FEW = 16
#: Short samples of the machine's own speed, of which the fastest counts: others were away then.
_SAMPLES, _SHORT = 60, 1e-3


def _exchange(comm: MPI.Intracomm, n: int, stored: bool) -> Side:
    """Send to the other one of two ranks and receive from it, one part of n numbers after another.

    What comes in is either stored in as large an array, or in a buffer that stays in the cache.
    """
    other, out = 1 - comm.rank, values(n)
    into = np.zeros(n if stored else MESSAGE, np.float32)
    places = itertools.cycle(range(0, n - MESSAGE + 1, MESSAGE))

    def side() -> None:
        for at in itertools.islice(places, _CALL):
            to = into[at : at + MESSAGE] if stored else into
            received = comm.Irecv(to, other)
            MPI.Request.Waitall([received, comm.Isend(out[at : at + MESSAGE], other)])

    return side


def _small_messages(comm: MPI.Intracomm) -> Side:
    other, out, into = 1 - comm.rank, np.zeros(64), np.zeros((MANY, 64))

    def side() -> None:
        requests = [comm.Irecv(row, other) for row in into]
        requests += [comm.Isend(out, other) for _ in into]
        MPI.Request.Waitall(requests)

    return side


def _gather(comm: MPI.Intracomm) -> Side:
    words = np.zeros(WORDS // 8, np.int64)
    rows = np.zeros((comm.size, words.size), np.int64)
    return lambda: comm.Iallgather(words, rows).Wait()


def _constants(comm: MPI.Intracomm, n: int) -> dict[str, Side]:
    """Sides of the machine's own speed, of two ranks."""
    if comm.size != 2:
        return {}
    return {
        "exchange": _exchange(comm, n // 2, False),
        "exchange stored": _exchange(comm, n // 2, True),
        "small messages": _small_messages(comm),
        "gather": _gather(comm),
        "call": mpi_sides.independent(comm, 2 * _FEW),
    }


def _modes(comm: MPI.Intracomm, n: int) -> dict[str, Callable[[], Side]]:
    return {
        "alone": lambda: mpi_sides.independent(comm, n),
        "mode 1": lambda: mpi_sides.distributed(comm, n),
        "mode 1, clip_norm": lambda: mpi_sides.distributed(comm, n, clip_norm=1.0),
        "mode 2": lambda: mpi_sides.shared(comm, n),
        "mode 3": lambda: mpi_sides.sharded(comm, [n]),
        "replicated": lambda: mpi_sides.replicated(comm, n),
    }


def main(n: int, pairs: int, file: Path) -> None:
    """Measure all of it on these ranks; rank 0 writes seconds by name.

    Those of a mode are the median, those of the machine's own speed the shortest.
    """
    comm = MPI.COMM_WORLD
    sides = {name: make() for name, make in _modes(comm, n).items()}
    crowded = comm.size > (os.cpu_count() or 1)
    timed = [Together(comm, side, asleep=crowded) for side in sides.values()]
    found = dict(zip(sides, map(median, rounds(comm, timed, pairs)), strict=True))
    own = _constants(comm, n)
    times = rounds(comm, [Together(comm, side) for side in own.values()], _SAMPLES, _SHORT)
    found |= dict(zip(own, map(min, times), strict=True))
    if comm.rank == 0:
        file.write_text(json.dumps(found))


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        MPI.COMM_WORLD.Abort(1)
