"""One minimisation by several processes: each has its block of x, and all decide alike.

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
from numadam._checkpoint.collective import on_all
from numadam._checkpoint.container import Container, check_writable
from numadam._checkpoint.folder import INDEX, Cut, Index
from numadam._checkpoint.container import about_file
from numadam._core.hyper import LR
from numadam._core.parts import parts_of
from numadam._minimize.checkpoint import Checkpoint, Task, first_of, read_checkpoint
from numadam._minimize.objective import Objective
from numadam._minimize.observers import STOPPED, Observers
from numadam._minimize.python.loop import PythonRun
from numadam._minimize.python.stop_tests import DeviceStopTests, HostStopTests, StopTests
from numadam._minimize.result import Result
from numadam._minimize.stopping import CALLBACK, RUNNING
from numadam._mpi.ranks import (
    LEFT_ALONE,
    Decomposition,
    RankError,
    Ranks,
    decomposition,
    described,
)
from numadam._mpi.ranks import ranks as ranks_in
from numadam._optimizer.optimizer import Optimizer
from numadam._settings.groups import leaf_masks

# --- meetings ------------------------------------------------------------------------------------


#: Numbers of a meeting behind the word that refuses it: f, three norms, whether to save.
_SHARED_NUMBERS = 5
#: Times the longest wait of a run that a rank which failed waits for the others.
_WAITS = 3.0


class Meetings:
    """The meetings of the ranks in one run; `over` where one has failed, and all know.

    `evaluates`: the ranks evaluate f or gradient and have not met since.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.over, self.evaluates = ranks, False, False
        self._rows = np.zeros((ranks.size, 1 + _SHARED_NUMBERS))
        self._last, self._longest = time.monotonic(), 0.0

    def gather(self, *numbers: float) -> list[list[float]]:
        """The numbers of every rank, a row for each, behind a 0. Collective.

        RankError where another rank refuses.
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

    `check` is from one test to the next. `last`, the last meeting before a step, is "test",
    "notify" or "schedule". `started`: the first iterate has been evaluated.
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


# --- the folder of a run -------------------------------------------------------------------------


#: Name of the array that holds what a file of one process has as its JSON.
_META = "meta"


class RankCheckpoint(Checkpoint):
    """The folder that a run is saved to and goes on from.

    `is_due`: it has to be written at the iterate at hand, as rank 0 has said.
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

    They `meet` where any rank has a callback, or a schedule that observes f.
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
        with self._together():
            rate = LR.check(self._settings.lr(t))
            self._settings.refresh(t)
        return rate

    def refresh(self, t: int) -> None:
        """Take the values of all schedules for the step after t."""
        with self._together():
            self._settings.refresh(t)

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        started = self._pace.started
        try:
            yield
        except BaseException as error:
            if started:
                self._meetings.refuse(error)
            raise
        if started:
            self._pace.begins("schedule")
            self._meetings.gather()


# --- the run -------------------------------------------------------------------------------------

#: What the user has passed where ranks compare 0 or 1.
_PASSED = {
    "f": ("'global'", "'local'"),
    "checkpoint_check": ("False", "True"),
    "jac": ("True", "a function"),
    "track_best": ("False", "True"),
    "state": ("not given", "given"),
}


class RankRun(PythonRun):
    """One minimisation by several processes."""

    def __init__(
        self,
        meetings: Meetings,
        pace: Pace,
        objective: Any,
        optimizer: Optimizer,
        tests: Any,
        observers: RankObservers,
        task: Task,
    ) -> None:
        super().__init__(objective, optimizer, tests, observers, task)
        self._meetings, self._pace = meetings, pace
        self._answers: Callable[[int], int] = observers.together
        self._exchange = self._settings.exchange
        pace.begin, pace.check = self._begin, self._check
        pace.end = max(self._begin + task.maxiter, optimizer.t)
        if pace.last == "schedule":
            self._settings: Any = RankSchedules(self._settings, meetings, pace)
        if self._memory.gradient is not None:
            pace.goes_on()

    def agree(self, task: Task) -> None:
        """Refuse a run that is not the same on all ranks. Collective."""
        lr = self._optimizer.lr
        values = {
            **task.tolerances._asdict(),
            "f": task.shares,
            "jac": self._objective.apart,
            "lr": lr if isinstance(lr, float) else math.nan,
            "maxiter": task.maxiter,
            "checkpoint_check": task.checkpoint_check,
            "check_every": self._check,
            "track_best": math.nan if task.track_best is None else task.track_best,
            "history": task.every,
            "state": self._resumed,
            "state: the iteration": self._begin,
            "state: first_grad_norm": self._stop_tests.state[0],
            "checkpoint: f": math.nan if self._memory.f is None else self._memory.f,
        }
        rows = self._meetings.ranks.gather(
            np.array([*values.values(), self._memory.lowest], np.float64)
        )
        for name, column in zip(values, rows.T, strict=False):
            unlike = np.flatnonzero(column.view(np.int64) != column[:1].view(np.int64))
            if len(unlike):
                one, other = (_shown(name, column[rank]) for rank in (0, unlike[0]))
                raise ValueError(
                    f"{name}: is {one} on rank 0 and {other} on rank {unlike[0]}. Pass the same on "
                    "all ranks."
                )
        if math.inf in rows[:, -1]:  # a block of the best iterate before violates the bounds
            memory = self._memory
            memory.lowest, memory.best_x, memory.best_gradient = math.inf, None, None

    def _check_objective(self) -> None:
        with self._meetings.ranks.all_or_none("minimize"):
            super()._check_objective()

    def _ask_again(self) -> int:
        """Ask the callbacks that have ended the run of a file whether they still do."""
        try:
            code = super()._ask_again()
        except BaseException as error:
            self._meetings.refuse(error)
        self._observers.message = None
        return self._answers(code)

    def _save(self, code: int) -> None:
        if self._file is None:
            return
        try:
            with on_all(self._meetings.ranks, "minimize"):
                state = self._run_state(code)
        except BaseException:
            self._meetings.over = True  # all ranks know
            raise
        self._file.write(*state)

    def _loop(self) -> int:
        try:
            return super()._loop()
        except BaseException as error:
            if not self._meetings.evaluates:
                self._counted = None  # not all ranks are at an iterate to be evaluated again
            if isinstance(error, RankError) or self._meetings.over:
                raise
            if self._exchange is not None and self._pace.steps_next():
                self._exchange.refuse(error)  # unless the step has told them
                raise
            self._meetings.refuse(error)


def _shown(name: str, number: float) -> str:
    """A number that ranks have compared, as the user has passed it."""
    if name not in _PASSED:
        return f"{number:g}"
    return "None" if math.isnan(number) else _PASSED[name][int(number)]


@contextlib.contextmanager
def on_all_ranks(comm: Any) -> Iterator[Decomposition]:
    """The block of this rank; an exception in the context is one on all ranks. Collective."""
    block = decomposition(comm)
    with ranks_in(block).all_or_none("minimize"):
        yield block


def sums_over(comm: Decomposition) -> Callable[[tuple[int, ...]], list[int]]:
    """``add(counts)``: the sums of counts over all ranks. Collective."""
    return lambda counts: ranks_in(comm).gather(np.array(counts, np.int64)).sum(axis=0).tolist()


def minimize_on_ranks(
    task: Task, comm: Decomposition, checkpoint: Any, checkpoint_every: Any
) -> Result:
    """An objective in Python of which each rank has a block of x. Collective."""
    ranks, tolerances = ranks_in(comm), task.tolerances
    meetings = Meetings(ranks)
    file = _folder(checkpoint, checkpoint_every, meetings, task)
    task = task._replace(checkpoint=file)
    optimizer = task.rule(task.x, task.lr, comm=comm, **task.options)
    _, settings, backend, _ = parts_of(optimizer)
    pace, shows = Pace(optimizer), task.progress and ranks.rank == 0
    with ranks.all_or_none("minimize"):
        objective = RankObjective.of_task(task, optimizer)
        observers = RankObservers(meetings, pace, task.callback, shows, task.maxiter, optimizer)
        first = first_of(task.state, tolerances)
        owned = _masks(comm, optimizer)
        kind = HostStopTests if backend.is_host else DeviceStopTests
        tests = kind(backend, tolerances, first, owned)
        tests.join_ranks()
    schedules = [settings.lr, *(one[3] for one in settings.schedules)]
    # a function of the user's may fail on one rank alone
    asks_user = not all(map(_is_ours, filter(callable, schedules)))
    own = observers.each, observers.wants_f, observers.wants_gradient, asks_user
    each, wants_f, wants_gradient, asks = ranks.gather(np.array(own, np.int64)).max(axis=0).tolist()
    observers.join(each, wants_f, wants_gradient)
    pace.last = "schedule" if asks else "notify" if each else "test"
    with ranks.all_or_none("minimize"):
        objective.join(task.shares, tests, meetings, pace, file)
        run = RankRun(meetings, pace, objective, optimizer, tests, observers, task)
    run.agree(task)
    return run.go()


def _folder(path: Any, every: Any, meetings: Meetings, task: Task) -> RankCheckpoint | None:
    """The arguments `checkpoint` and `checkpoint_every`, and the run that is there. Collective."""
    ranks = meetings.ranks
    with ranks.all_or_none("minimize"):
        read_checkpoint(None, every if path is None else None, "minimize")
        made = None if path is None else RankCheckpoint(path, every, meetings)
    given = ranks.gather(np.array([path is not None], np.int64))[:, 0]
    if given.min() != given.max():
        raise ValueError("checkpoint: is given on some ranks only. Pass the same on all ranks.")
    if made is not None:
        made.agree()
        with ranks.all_or_none("minimize"):
            made.define(task, track_best=task.track_best)
    return made


def _masks(comm: Decomposition, optimizer: Optimizer) -> list[Any] | None:
    """Whether each element counts, where ghost cells do not."""
    if comm.owned is None:
        return None
    tree, _, backend, _ = parts_of(optimizer)
    masks = leaf_masks(comm.owned, tree, backend.params, tree.names("params"))
    return masks if backend.is_host else backend.from_host(masks)


def _is_ours(schedule: Any) -> bool:
    pieces = filter(callable, getattr(schedule, "values", ()))
    return type(schedule).__module__.startswith("numadam.") and all(map(_is_ours, pieces))
