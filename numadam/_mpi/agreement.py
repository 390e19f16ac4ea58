"""The meeting of all ranks before they step parameters that all of them hold.

Who may touch what, and when. Within a node p and the gradient windows are shared memory, and a
rank reads the windows of its neighbours; between nodes all goes through messages:

1. Before a step each rank writes its own gradient, and nobody else reads it.
2. A step begins with an exchange of a few words among all ranks. It tells whether all of them can
   go on, and it is the barrier: when it is done, all gradients are written. A rank that refuses its
   arguments says so here, and nobody writes anything.
3. Each rank reads the gradients of its piece from all ranks, and writes p, m, v of its piece. Its
   piece of p goes out to the same piece of p on the other nodes.
4. A barrier of the node ends the step: p is complete on this node, and no one reads the gradients
   any more. Now each rank may read p, and overwrite its own gradient.

Between steps a rank that writes shared parameters writes them for its neighbours, too.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import NoReturn

import numpy as np

from numadam._core.parts import Parts
from numadam._mpi.errors import RankError
from numadam._mpi.ranks import LEFT_ALONE, Ranks, described

#: Words of a rank: whether it refuses, steps taken, gradients added up, a digest of the rest.
_WORDS = 4


def agree(
    ranks: Ranks,
    parts: Parts,
    what: str,
    error: BaseException | None,
    rate: float,
    sync: Callable[[], None],
) -> None:
    """Go on where all ranks can, with the same numbers. Collective.

    Parameters
    ----------
    ranks : Ranks
    parts : Parts
        Of the optimiser of this rank's part.
    what : str
        The call, for messages.
    error : exception or None
        Why this rank cannot.
    rate : float
        The learning rate of this step.
    sync : callable
        Makes stores visible to the ranks of this node, and theirs to this rank.

    Raises
    ------
    RankError
        Where another rank cannot, or has other numbers; the error of this rank, if there is one.
    """
    if ranks.size == 1:
        if error is not None:
            raise error
        return
    backend = parts.backend
    numbers = zlib.crc32(np.append(parts.settings.control, rate).tobytes())
    rows = np.zeros((ranks.size, _WORDS), np.int64)
    rows[ranks.rank] = error is not None, backend.t, backend.calls, numbers
    sync()
    came = ranks.share(rows, None if error is None else LEFT_ALONE)
    sync()
    if not came and error is not None:
        ranks.abort(f"{what}: the other ranks did not come. {described(error)}")
    if rows[:, 0].any():
        ranks.tell(error, rows[:, 0] != 0, what)
    unlike = np.flatnonzero((rows != rows[0]).any(1))
    if len(unlike):
        _differ(what, rows, int(unlike[0]))


def _differ(what: str, rows: np.ndarray, rank: int) -> NoReturn:
    """Raise on all ranks: what is not the same on one of them."""
    _, t, calls, _ = rows[0].tolist()
    _, its_t, its_calls, _ = rows[rank].tolist()
    if calls != its_calls and t == its_t:
        raise RankError(
            f"{what}: rank {rank} has added up {its_calls} gradients so far, rank 0 {calls}. "
            "Call discard on all ranks alike."
        )
    raise RankError(
        f"{what}: t, lr or a hyperparameter of rank {rank} is not that of rank 0 (t is {its_t} and "
        f"{t}). Set them on all ranks alike, and make schedules functions of t alone."
    )
