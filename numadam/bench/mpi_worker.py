"""Program of each rank of a case on MPI; rank 0 writes the figure.

mpiexec -n 2 python -m numadam.bench.mpi_worker CASE PAIRS FILE
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from mpi4py import MPI

from numadam.bench import mpi_memory, mpi_sides
from numadam.bench.measure import Figure, Side
from numadam.bench.mpi_timing import Elsewhere, Timed, Together, middle, rounds

#: Parameters of the cases, bytes of one, and the steps after which all pages are touched.
_N, _ITEM, _STEPS = 20_000_000, 4, 3


def _against(comm: MPI.Intracomm, ours: Timed, theirs: Timed, pairs: int) -> Figure:
    mine, other = rounds(comm, (ours, theirs), pairs)
    return Figure(middle(mine, other), median(mine), median(other))


def _milliseconds(times: list[float]) -> str:
    return f"{median(times) * 1e3:.1f} ms"


def _distributed(comm: MPI.Intracomm, pairs: int, file: Path, **options: Any) -> Figure:
    """Each side twice, as a palindrome: where its arrays lie makes some percent."""
    ours, theirs = mpi_sides.distributed, mpi_sides.independent
    order = (ours, theirs, theirs, ours)
    sides = [Together(comm, side(comm, _N, **options)) for side in order]
    a, b, c, d = rounds(comm, sides, pairs)
    mine, other = ([sum(both) / 2 for both in zip(*two, strict=True)] for two in ((a, d), (b, c)))
    return Figure(middle(mine, other), median(mine), median(other))


def _shared(comm: MPI.Intracomm, pairs: int, file: Path) -> Figure:
    ours = Together(comm, mpi_sides.shared(comm, _N))
    theirs = Elsewhere(comm, comm.size, mpi_sides.whole, _N)
    figure = _against(comm, ours, theirs, pairs)
    theirs.close()
    return figure


def _shared_memory(comm: MPI.Intracomm, pairs: int, file: Path) -> Figure:
    """Parameters, moments and each rank's gradient: (12 + 4 k) P bytes a node, k ranks."""
    _stepped(mpi_sides.shared(comm, 1000))
    grown = mpi_memory.growth(comm, lambda: _stepped(mpi_sides.shared(comm, _N)))
    return _of_formula(sum(grown), (12 + 4 * comm.size) * _N, "a node")


def _sharded_memory(comm: MPI.Intracomm, pairs: int, file: Path) -> Figure:
    """Bytes of a rank in all: (8 + 8/N) P, and buckets whose size does not grow with P."""
    _stepped(mpi_sides.sharded(comm, [1000]))
    grown = mpi_memory.growth(comm, lambda: _stepped(mpi_sides.sharded(comm, [_N])))
    return _of_formula(max(grown), (8 + 8 / comm.size) * _N, "a rank")


def _distributed_memory(comm: MPI.Intracomm, pairs: int, file: Path) -> Figure:
    """Bytes of a rank in all: 16 P / N."""
    _stepped(mpi_sides.distributed(comm, 1000))
    grown = mpi_memory.growth(comm, lambda: _stepped(mpi_sides.distributed(comm, _N)))
    return _of_formula(max(grown), 16 * _N / comm.size, "a rank")


def _stepped(side: Side) -> Side:
    for _ in range(_STEPS):
        side()
    return side


def _of_formula(found: float, formula: float, whose: str) -> Figure:
    return Figure(found / formula, note=f"{found / 1e6:.2f} MB {whose}, formula {formula / 1e6:g}")


def _traffic(comm: MPI.Intracomm) -> float:
    """Bytes a rank must send in a step of mode 3: a gradient's share, and a parameter's."""
    return 2 * (comm.size - 1) / comm.size * _N * _ITEM


def _sharded_bytes(comm: MPI.Intracomm, pairs: int, file: Path) -> Figure:
    counting = mpi_memory.Counting(comm)
    step = _stepped(mpi_sides.sharded(counting, [_N]))
    mpi_memory.Counting.reset()
    step()
    sent = comm.allgather((mpi_memory.Counting.sent, mpi_memory.Counting.messages))
    most, messages = max(sent)
    figure = _of_formula(most, _traffic(comm), "a rank and step")
    return Figure(figure.value, note=f"{figure.note}, {messages} messages")


def _sharded_floor(comm: MPI.Intracomm, pairs: int, file: Path) -> Figure:
    """The whole step, and copies of as many bytes as it sends, both ranks at once."""
    ours = Together(comm, mpi_sides.sharded(comm, [_N]))
    floor = Together(comm, mpi_sides.copy(round(_traffic(comm)) // _ITEM))
    alone = Together(comm, mpi_sides.independent(comm, _N))
    mine, copies, steps = rounds(comm, (ours, floor, alone), pairs)
    left_out = f"the floor has no step: stepping half without MPI takes {_milliseconds(steps)}"
    rest = middle([a - b for a, b in zip(mine, steps, strict=True)], copies)
    note = f"{left_out}; without it {rest:.2f}"
    return Figure(middle(mine, copies), median(mine), median(copies), note=note)


def _torch(comm: MPI.Intracomm, pairs: int, file: Path, sizes: list[int]) -> Figure:
    mpi_sides.begin_torch(comm, f"{file}.gloo")
    ours = Together(comm, mpi_sides.sharded(comm, sizes, reduce="mean"))
    reduce, step = mpi_sides.torch_zero(sizes, 100 * (1 + comm.rank))

    def both() -> None:
        reduce()
        step()

    theirs, part = Together(comm, both), Together(comm, reduce)
    mine, other, reductions = rounds(comm, (ours, theirs, part), pairs)
    mpi_sides.end_torch()
    note = f"{_milliseconds(reductions)} of theirs is the all-reduce"
    return Figure(middle(mine, other), median(mine), median(other), note=note)


#: The cases by name: called with communicator, pairs and the file of the figure.
CASES: dict[str, Callable[[MPI.Intracomm, int, Path], Figure]] = {
    "mpi-mode1-20M": _distributed,
    "mpi-mode1-clip-20M": functools.partial(_distributed, clip_norm=1.0),
    "mpi-mode1-memory": _distributed_memory,
    "mpi-mode2-20M": _shared,
    "mpi-mode2-memory": _shared_memory,
    "mpi-mode3-bytes": _sharded_bytes,
    "mpi-mode3-floor": _sharded_floor,
    "mpi-mode3-torch-20x1M": functools.partial(_torch, sizes=[1_000_000] * 20),
    "mpi-mode3-torch-20M": functools.partial(_torch, sizes=[_N]),
    "mpi-mode3-memory": _sharded_memory,
}


def main(name: str, pairs: int, file: Path) -> None:
    """Run a case on all ranks."""
    figure = CASES[name](MPI.COMM_WORLD, pairs, file)
    if MPI.COMM_WORLD.rank == 0:
        file.write_text(json.dumps(asdict(figure)))


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        MPI.COMM_WORLD.Abort(1)  # the other ranks would wait for ever
