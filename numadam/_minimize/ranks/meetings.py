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
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from numadam._checkpoint import collective
from numadam._checkpoint.container import Container, check_writable
from numadam._checkpoint.folder import INDEX, Cut, Index
from numadam._checkpoint.storage import about_file
from numadam._core.hyper import LR
from numadam._minimize.checkpoint import Checkpoint
from numadam._minimize.objective import Objective
from numadam._minimize.observers import STOPPED, Observers
from numadam._minimize.python.stop_tests import StopTests
from numadam._minimize.stopping import CALLBACK, RUNNING
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
        with about_file(self.path):
            meta = dict(json.loads(arrays.pop(_META).tobytes()))
        return Container(self._kind, meta, arrays)

    def _put(self, content: Container) -> None:
        text = np.frombuffer(json.dumps(content.meta).encode(), np.uint8)
        meta = {"done": content.meta["at"]["done"]}
        part = collective.Part(content.kind, meta, {_META: text, **content.arrays})
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


# --- parts of the loop: objective, observers, schedules ------------------------------------------


#: Difference of f between two ranks, relative to the largest |f|, that is no rounding.
_UNLIKE = 0.01


class RankObjective(Objective):
    """The objective of all ranks: `evaluate` is where they meet at a tested iterate."""

    def join(
        self,
        shares: bool,
        tests: StopTests,
        meetings: Meetings,
        pace: Pace,
        file: RankCheckpoint | None = None,
    ) -> None:
        """From now on `evaluate` and `value` are collective: f of all ranks."""
        self._shares, self._file, self._largest = shares, file, 0.0
        self._tests, self._meetings, self._pace = tests, meetings, pace
        self._evaluate_block, self.evaluate = self.evaluate, self._evaluate_all

    def _evaluate_all(self, need_f: bool) -> tuple[float | None, Any]:
        """F of all ranks, or None where it is not asked for, and the gradient of this one."""
        pace, file = self._pace, self._file
        pace.started = True
        if not pace.tests():
            return None, self._evaluate_block(need_f)[1]
        with self._evaluation():
            f, g = self._evaluate_block(need_f)
            own = math.nan if f is None else float(f)
            sizes = self._tests.measure(self._tree.flatten(g, "jac"))
            due = file is not None and file.due_here(pace.done)
        pace.begins("test")
        rows = self._meetings.gather(own, *sizes, due)
        self._tests.join([row[2:5] for row in rows])
        if file is not None:
            file.is_due = bool(rows[0][5])
        f = None if f is None else self._joined(rows)
        self._meetings.evaluates = False
        return f, g

    def value(self) -> float:
        """F of all ranks alone. Collective."""
        with self._evaluation():
            own = float(super().value())
        f = self._joined(self._meetings.gather(own))
        self._meetings.evaluates = False
        return f

    @contextlib.contextmanager
    def _evaluation(self) -> Iterator[None]:
        """An evaluation behind which the ranks meet."""
        self._meetings.evaluates = True
        try:
            yield
        except BaseException as error:
            self._meetings.refuse(error)

    def _joined(self, rows: Sequence[Sequence[float]]) -> float:
        """The sum of all shares in the order of ranks; or f of rank 0, where all have the whole."""
        f = rows[0][1]
        if self._shares:
            for row in rows[1:]:
                f += row[1]
            return f
        for rank, row in enumerate(rows):
            if row[1] != f:
                self._compare(f, row[1], rank)
                if not math.isfinite(row[1]):
                    return row[1]
        self._largest = max(self._largest, abs(f))
        return f

    def _compare(self, f: float, other: float, rank: int) -> None:
        """Refuse values that no rounding explains: these are shares."""
        if abs(f - other) > _UNLIKE * max(self._largest, abs(f), abs(other)):
            self._meetings.over = True  # the same on all ranks
            raise ValueError(
                f"fun: returned {f:.6g} on rank 0 and {other:.6g} on rank {rank}. Return the whole "
                "f on all ranks (comm.allreduce), or pass f='local' where each returns its share."
            )


class RankObservers(Observers):
    """Observers of which each rank has its own; one that asks to stop, or fails, ends all runs.

    Attributes
    ----------
    meet : bool
        Whether any rank has a callback, or a schedule that observes f.
    """

    def __init__(self, meetings: Meetings, pace: Pace, *args: Any) -> None:
        super().__init__(*args)
        self._meetings, self._pace, self.meet = meetings, pace, False

    def join(self, each: bool, wants_f: bool, wants_gradient: bool) -> None:
        """Take what the observers of any rank need.

        f is evaluated for every callback: one that reads it alone could not evaluate that of all.
        """
        self.meet, self.active = bool(each), self.active or bool(each)
        self.wants_f, self.wants_gradient = bool(wants_f or each), bool(wants_gradient)

    def notify(self, nit: int, f: float | None, largest: float, rate: float, end: bool) -> int:
        """Notify all of an iterate; returns `CALLBACK` where a callback asks to stop."""
        if not self.meet:
            return super().notify(nit, f, largest, rate, end)
        try:
            code = super().notify(nit, f, largest, rate, end)
        except BaseException as error:
            self._meetings.refuse(error)
        self._pace.begins("notify")
        return self.together(code)

    def together(self, code: int) -> int:
        """`CALLBACK` where the answer of any rank is that. Collective."""
        if all(row[1] == RUNNING for row in self._meetings.gather(code)):
            return RUNNING
        self.message = STOPPED
        return CALLBACK


class RankSchedules:
    """Settings whose schedules are functions of the user's, as the loop asks them: all or none."""

    def __init__(self, settings: Any, meetings: Meetings, pace: Pace) -> None:
        self._settings, self._meetings, self._pace = settings, meetings, pace
        self.lr, self.schedules = settings.lr, settings.schedules
        if callable(self.lr):
            self.lr, self.schedules = self._rate, ()

    def _rate(self, t: int) -> float:
        rate = math.nan

        def ask() -> None:
            nonlocal rate
            rate = LR.check(self._settings.lr(t))
            self._settings.refresh(t)

        self._together(ask)
        return rate

    def refresh(self, t: int) -> None:
        """Take the values of all schedules for the step after t."""
        self._together(lambda: self._settings.refresh(t))

    def _together(self, ask: Callable[[], None]) -> None:
        if not self._pace.started:
            ask()
            return
        try:
            ask()
        except BaseException as error:
            self._meetings.refuse(error)
        self._pace.begins("schedule")
        self._meetings.gather()
