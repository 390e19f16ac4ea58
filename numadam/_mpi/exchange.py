"""Exchange of ranks in a step that forms a norm: sums of squares, and refusals."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from numadam._mpi.errors import RankError
from numadam._mpi.ranks import LEFT_ALONE, Ranks, described

_WHILE = "step"
#: Words before those of the caller: whether a rank refuses the step, and a digest of `same`.
_OWN_WORDS = 2


class StepExchange:
    """The exchange of one optimiser with the same one on the other ranks.

    Parameters
    ----------
    ranks : Ranks
    names : sequence of str
        What the user calls the numbers of `same`, for messages.

    Attributes
    ----------
    rank, size : int
    words : int
        Words that a rank passes to `gather`; set by the back end.
    """

    def __init__(self, ranks: Ranks, names: Sequence[str]) -> None:
        self._ranks, self._names = ranks, ["lr", *names]
        self.rank, self.size, self.words = ranks.rank, ranks.size, 0
        self._met, self._rate = False, 0.0
        self._known: BaseException | None = None

    def gather(self, words: np.ndarray, same: np.ndarray) -> np.ndarray:
        """The words of every rank, a row for each. Collective.

        Parameters
        ----------
        words : numpy.ndarray
            `words` of int64.
        same : numpy.ndarray
            Numbers in float64 that have to be those of all other ranks.

        Raises
        ------
        RankError
            Where another rank refuses the step, or has other numbers.
        """
        rows = self._rows()
        same = np.array([self._rate, *same])
        digest = hashlib.blake2b(same.tobytes(), digest_size=8).digest()
        rows[self.rank, 1] = np.frombuffer(digest, np.int64)[0]
        rows[self.rank, _OWN_WORDS:] = words
        self._ranks.share(rows)
        self._met = True
        if rows[:, 0].any():
            self._ranks.tell(None, rows[:, 0] != 0, _WHILE)
        if (rows[:, 1] != rows[0, 1]).any():
            self._differ(same)
        return rows[:, _OWN_WORDS:]

    def begin(self, lr: float) -> None:
        """Begin a step: no words have been exchanged in it. All ranks pass the same lr."""
        self._met, self._known, self._rate = False, None, lr

    def end(self, error: BaseException) -> None:
        """Note how a step ended: of an error after its exchange the others need not know."""
        self._known = error if self._met else None

    def refuse(self, error: BaseException) -> None:
        """Tell the ranks that wait in `gather`, unless this error came after it; raise the error.

        Where they do not come within a few seconds, the program ends.
        """
        known, self._known = self._known, None
        if known is error:
            return
        rows = self._rows()
        rows[self.rank, 0] = 1
        if not self._ranks.share(rows, LEFT_ALONE):
            self._ranks.abort(f"{_WHILE}: the other ranks did not come. {described(error)}")
        self._ranks.tell(error, rows[:, 0] != 0, _WHILE)

    def _rows(self) -> np.ndarray:
        return np.zeros((self.size, _OWN_WORDS + self.words), np.int64)

    def _differ(self, same: np.ndarray) -> NoReturn:
        """Raise on all ranks: the first number that is not the same everywhere."""
        rows = self._ranks.gather(same)
        unlike = rows.view(np.int64) != rows[0].view(np.int64)  # NaN is NaN
        column = int(np.flatnonzero(unlike.any(axis=0))[0])
        rank = int(np.flatnonzero(unlike[:, column])[0])
        one, other = rows[0, column], rows[rank, column]
        raise RankError(
            f"{self._names[column]}: is {one:g} on rank 0 and {other:g} on rank {rank} in the same "
            "step. Make the same calls and set the same hyperparameters on all ranks."
        )
