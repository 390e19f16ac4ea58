"""Protocol of a communicator, as far as saves and loads of several ranks need it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np

Result = TypeVar("Result")


class Ranks(Protocol):
    """The ranks that save or load together."""

    rank: int
    size: int

    def gather(self, words: np.ndarray) -> np.ndarray:
        """The words of all ranks, a row for each."""

    def agree(self, error: BaseException | None, what: str) -> None:
        """Raise on all ranks where one has an error."""


class Alone:
    """The ranks of a process that saves or loads by itself."""

    rank, size = 0, 1

    def gather(self, words: np.ndarray) -> np.ndarray:
        """The words, in a row."""
        return words[None]

    def agree(self, error: BaseException | None, what: str) -> None:
        """Raise the error."""
        if error is not None:
            raise error


def on_all(ranks: Ranks, what: str, work: Callable[[], Result]) -> Result:
    """The result of some work of this rank, which takes what time it takes; it works on all ranks.

    Raises
    ------
    Exception
        Its own error on the rank that has one, and the error of `Ranks.agree` on the others.
    """
    error, result = None, None
    try:
        result = work()
    except BaseException as caught:  # an interrupt, too, ends all of them
        error = caught
    # a rank that has failed waits here for those that work on; in `agree` it would not
    if ranks.gather(np.array([error is not None], np.int64)).any():
        ranks.agree(error, what)
    return result  # type: ignore[return-value]  # there is one where there is no error
