"""Exchange of norms between the ranks of `comm=`, and what they compare at construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from numadam._mpi.ranks import RankError, Ranks, digest, first_unlike
from numadam._settings.settings import Settings, names_of_same

# --- exchange of ranks in a step that forms a norm -----------------------------------------------

_WHILE = "step"
#: Words before those of the caller: whether a rank refuses the step, and a digest of `same`.
_OWN_WORDS = 2


class StepExchange:
    """The exchange of one optimiser with the same one on the other ranks, at steps with a norm.

    `names` are what the user calls the numbers of `same`. The back end sets `words`, the number of
    words that a rank passes to `gather`.
    """

    def __init__(self, ranks: Ranks, names: Sequence[str]) -> None:
        self._ranks, self._names = ranks, ["lr", *names]
        self.size, self.words = ranks.size, 0
        #: whether the step under way has exchanged its words: of a later error nobody has to know
        self._met, self._rate = False, 0.0

    def gather(self, words: np.ndarray, same: np.ndarray) -> np.ndarray:
        """The words of every rank, a row for each, in int64. Collective.

        `same` are numbers in float64 that have to be those of all other ranks. Raises `RankError`
        where they are not, and where another rank refuses the step.
        """
        rows = self._rows()
        same = np.array([self._rate, *same])
        rows[self._ranks.rank, 1] = digest(same.tobytes())
        rows[self._ranks.rank, _OWN_WORDS:] = words
        self._ranks.share(rows)
        self._met = True
        if rows[:, 0].any():
            self._ranks.tell(None, rows[:, 0] != 0, _WHILE)
        if (rows[:, 1] != rows[0, 1]).any():
            self._differ(same)
        return rows[:, _OWN_WORDS:]

    def begin(self, lr: float) -> None:
        """Begin a step with this learning rate, which has to be that of all other ranks."""
        self._met, self._rate = False, lr

    def done(self) -> None:
        """Note that the step has ended without an error."""
        self._met = False

    def refuse(self, error: BaseException) -> None:
        """Tell the ranks that wait in `gather`, unless this error came after it; raise the error.

        Where they do not come within a few seconds, the program ends.
        """
        met, self._met = self._met, False
        if not met:
            self._ranks.exchange(self._rows(), error, _WHILE)

    def _rows(self) -> np.ndarray:
        return np.zeros((self.size, _OWN_WORDS + self.words), np.int64)

    def _differ(self, same: np.ndarray) -> NoReturn:
        """Raise on all ranks: the first number that is not the same everywhere."""
        rows = self._ranks.gather(same)
        differ = first_unlike(rows.view(np.int64))  # NaN is NaN
        assert differ is not None  # their digests do
        column, rank = differ
        raise RankError(
            f"{self._names[column]}: is {rows[0, column]:g} on rank 0 and {rows[rank, column]:g} "
            f"on rank {rank} in the same step. Make the same calls and set the same "
            "hyperparameters on all ranks."
        )


# --- making one optimiser on all ranks -----------------------------------------------------------

#: Options that belong to the block of a rank, as its parameters do.
_OF_BLOCK = ("bounds", "comm")


class Construction:
    """Options of an optimiser that all ranks take together; `what` they do, for errors."""

    def __init__(self, ranks: Ranks, what: str) -> None:
        self.ranks, self._what = ranks, what
        self._agreed = False

    def join(self, settings: Settings, names: Sequence[str]) -> None:
        """Give the settings what they need to work with those of the other ranks."""
        if settings.plan.norm:
            settings.exchange = StepExchange(self.ranks, names_of_same(settings.rule))
        settings.together = lambda home: self._agree(settings, names, home)

    def _agree(self, settings: Settings, names: Sequence[str], home: str) -> None:
        """Go on where all ranks have come so far, with the same of everything. Collective."""
        self._agreed = True
        self.ranks.agree(None, self._what)
        remedy = (
            "Make the optimiser with the same structure, dtypes and options on all ranks; only "
            "shapes may differ."
        )
        # the same number for every optimiser
        texts = {
            "rule": settings.rule.key,
            "library of params": home,
            "number of arrays": str(len(names)),
            "names of params": ", ".join(names),
            "dtype": settings.plan.dtype.name,
            "options": ", ".join(settings.options),
        }
        self.ranks.compare(texts, remedy)
        options = {"lr": settings.lr, **settings.options}
        texts = {name: _described(options[name]) for name in options if name not in _OF_BLOCK}
        self.ranks.compare(texts, remedy)

    def fail(self, error: BaseException) -> None:
        """Raise an error of this rank, after the other ranks are told, where they wait for it."""
        if not self._agreed:
            self._agreed = True
            self.ranks.agree(error, self._what)


def _described(value: Any) -> str:
    """A value as a text that is the same on all ranks: arrays may differ, functions have names."""
    if isinstance(value, Mapping):
        entries = [f"{key!r}: {_described(entry)}" for key, entry in value.items()]
        return "{" + ", ".join(entries) + "}"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(_described, value)) + ")"
    if getattr(value, "ndim", 0) or hasattr(value, "__cuda_array_interface__"):
        return "an array"
    if hasattr(value, "item"):
        return repr(value.item())
    if value is None or isinstance(value, (bool, int, float, str, np.dtype)):
        return repr(value)
    return str(getattr(value, "__qualname__", type(value).__qualname__))
