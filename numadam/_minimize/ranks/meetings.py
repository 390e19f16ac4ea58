"""Meetings of the ranks in a run: what they exchange, and how one that fails tells the others.

The loop is that of one process. Its objective, stop tests and observers meet the other ranks:

- once at each tested iterate: f, the norms of the blocks, and whether rank 0 wants to save;
- once more there, where any rank has a callback or a schedule that observes f;
- once before each step, where a function of the user's is a schedule.

Each such meeting is one gather of as many numbers, the first of which is not 0 where a rank
refuses it. So a rank that fails refuses its next meeting, and need not know which one it is.

A run by several ranks is saved in a folder: a file of each, and an index that names those of one
save. All is compared where it lies.
"""

from __future__ import annotations

import contextlib
import errno
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from numadam._checkpoint import collective
from numadam._checkpoint.container import Container, check_writable
from numadam._checkpoint.folder import INDEX, Cut, Index
from numadam._minimize.checkpoint import Checkpoint
from numadam._mpi.ranks import LEFT_ALONE, Ranks, described

# --- meetings ------------------------------------------------------------------------------------


#: Numbers of a meeting behind the word that refuses it: f, three norms, whether to save.
_SHARED_NUMBERS = 5
#: Times the longest wait of a run that a rank which failed waits for the others.
_WAITS = 3.0


class Meetings:
    """The meetings of the ranks in one run.

    Attributes
    ----------
    ranks : Ranks
    over : bool
        Whether a rank has failed, and all know.
    evaluates : bool
        Whether the ranks evaluate f or gradient and have not met since.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.over, self.evaluates = ranks, False, False
        self._rows = np.zeros((ranks.size, 1 + _SHARED_NUMBERS))
        self._last, self._longest = time.monotonic(), 0.0

    def gather(self, *numbers: float) -> list[list[float]]:
        """The numbers of every rank, a row for each, behind a 0. Collective.

        Raises
        ------
        RankError
            Where another rank refuses.
        """
        own = self._rows[self.ranks.rank]
        own[0] = 0.0
        own[1 : 1 + len(numbers)] = numbers
        self.ranks.share(self._rows)
        now = time.monotonic()
        self._last, self._longest = now, max(self._longest, now - self._last)
        rows: list[list[float]] = self._rows.tolist()
        for row in rows:
            if row[0]:
                self.over = True
                self.ranks.tell(None, self._rows[:, 0] != 0.0, "minimize")
        return rows

    def refuse(self, error: BaseException) -> NoReturn:
        """Raise an error here, and `RankError` on the ranks at their next meeting. Collective.

        Where they do not come, e.g. since they wait for this rank in a communication of the
        user's, the whole program is ended: after 5 s, and not before a few times the longest
        iteration has passed.
        """
        if self.over:
            raise error
        self.over = True
        # new memory: Ctrl-C may have left a gather of the other that is still under way
        rows = np.zeros_like(self._rows)
        rows[self.ranks.rank, 0] = 1.0
        if not self.ranks.share(rows, max(LEFT_ALONE, _WAITS * self._longest)):
            self.ranks.abort(f"minimize: the other ranks did not come. {described(error)}")
        self.ranks.tell(error, rows[:, 0] != 0.0, "minimize")


class Pace:
    """The iterations of a run, and which meeting or step of the ranks comes next.

    Attributes
    ----------
    begin, end, check : int
        First and last iteration, and iterations from one test to the next.
    last : {"test", "notify", "schedule"}
        The last meeting before a step.
    started : bool
        Whether the first iterate has been evaluated.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self.begin, self.end, self.check = 0, 0, 1
        self.last, self.started = "test", False
        self._ready = -1

    @property
    def done(self) -> int:
        """Iterations since the first."""
        return int(self._optimizer.t - self.begin)

    def tests(self) -> bool:
        """Whether the iterate at hand is tested."""
        k, check = self._optimizer.t, self.check
        return check == 1 or k == self.end or (k - self.begin) % check == 0

    def goes_on(self) -> None:
        """Note that the iterate at hand is that of a file, which has been tested."""
        self.started, self._ready = True, -1 if self.last == "schedule" else self._optimizer.t

    def begins(self, meeting: str) -> None:
        """Note that the ranks are at this meeting of the iterate at hand."""
        if meeting == self.last:
            self._ready = self._optimizer.t

    def steps_next(self) -> bool:
        """Whether the next that the ranks do together is a step, and no meeting."""
        meets = self.last == "schedule" or self.tests()
        return not meets or self._ready == self._optimizer.t


@contextlib.contextmanager
def all_or_none(ranks: Ranks) -> Iterator[None]:
    """Raise an exception of the block on its rank, and `RankError` on all others. Collective."""
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
    ranks.agree(error, "minimize")


# --- the folder of a run -------------------------------------------------------------------------


#: Name of the array that holds what a file of one process has as its JSON.
_META = "meta"


class RankCheckpoint(Checkpoint):
    """The folder that a run is saved to and goes on from.

    Attributes
    ----------
    is_due : bool
        Whether it has to be written at the iterate at hand, as rank 0 has said.
    """

    def __init__(self, path: Any, every: Any, meetings: Meetings) -> None:
        self._meetings, self.is_due = meetings, False
        if path in ("", b""):  # would be the current folder
            raise ValueError("checkpoint: is empty. Give the name of a folder.")
        super().__init__(path, every, "minimize")
        self._exists = (self.path / INDEX).exists()

    def agree(self) -> None:
        """Take the answer of rank 0, whether there is a run. Collective."""
        self._exists = bool(self._meetings.ranks.gather(np.array([self._exists], np.int64))[0, 0])

    @property
    def exists(self) -> bool:
        """Whether there is a run to go on from."""
        return self._exists

    def _check_writable(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            text = "is a file, and several ranks write into a folder: give another name"
            raise OSError(errno.ENOTDIR, text)
        if self._meetings.ranks.rank == 0:
            check_writable(self.path / INDEX if self.path.exists() else self.path)

    def _read(self) -> Container:
        size = self._meetings.ranks.size

        def wanted(index: Index) -> Mapping[str, Cut]:
            if index.ranks != size:
                raise ValueError(
                    f"is the run of {index.ranks} ranks, and here are {size}. Start as many, or "
                    "give another path to begin anew."
                )
            return {name: Cut(None, ()) for name in index.arrays}

        _, arrays = collective.load(self.path, self._meetings.ranks, self._kind, wanted)
        meta = json.loads(arrays.pop(_META).tobytes())
        return Container(self._kind, meta, arrays)

    def _put(self, content: Container) -> None:
        text = np.frombuffer(json.dumps(content.meta).encode(), np.uint8)
        part = collective.Part(
            kind=content.kind,
            meta={"done": content.meta["at"]["done"]},
            arrays={_META: text, **content.arrays},
            cut_of={},
            cuts={},
        )
        self._exists = True
        try:
            collective.save(self.path, self._meetings.ranks, lambda: part)
        except BaseException:
            self._meetings.over = True  # all ranks know
            raise

    def due_here(self, done: int) -> bool:
        """Whether it has to be written by the clock of this rank."""
        return super().due(done)

    def due(self, done: int) -> bool:
        """Whether it has to be written, so many iterations into the run."""
        return self.is_due

    def write_after(self, error: BaseException, *run_state: Any) -> None:
        """Write the run that an exception has ended; a file that fails is a note on it."""
        try:
            self.write(*run_state)
        except Exception as failed:
            error.add_note(f"numadam: {str(self.path)!r} could not be written: {failed}")
