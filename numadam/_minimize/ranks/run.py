"""One minimisation by several processes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from numadam._checkpoint.collective import on_all
from numadam._core.parts import parts_of
from numadam._minimize.checkpoint import Task, first_of, read_checkpoint
from numadam._minimize.python.loop import PythonRun
from numadam._minimize.python.stop_tests import DeviceStopTests, HostStopTests
from numadam._minimize.ranks.meetings import (
    Meetings,
    Pace,
    RankCheckpoint,
    RankObjective,
    RankObservers,
    RankSchedules,
    all_or_none,
)
from numadam._minimize.result import Result
from numadam._mpi.ranks import Decomposition, RankError, decomposition
from numadam._mpi.ranks import ranks as ranks_in
from numadam._optimizer.optimizer import Optimizer
from numadam._settings.groups import leaf_masks

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
        with all_or_none(self._meetings.ranks):
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
    with all_or_none(ranks_in(block)):
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
    with all_or_none(ranks):
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
    with all_or_none(ranks):
        objective.join(task.shares, tests, meetings, pace, file)
        run = RankRun(meetings, pace, objective, optimizer, tests, observers, task)
    run.agree(task)
    return run.go()


def _folder(path: Any, every: Any, meetings: Meetings, task: Task) -> RankCheckpoint | None:
    """The arguments `checkpoint` and `checkpoint_every`, and the run that is there. Collective."""
    ranks = meetings.ranks
    with all_or_none(ranks):
        read_checkpoint(None, every if path is None else None, "minimize")
        made = None if path is None else RankCheckpoint(path, every, meetings)
    given = ranks.gather(np.array([path is not None], np.int64))[:, 0]
    if given.min() != given.max():
        raise ValueError("checkpoint: is given on some ranks only. Pass the same on all ranks.")
    if made is not None:
        made.agree()
        with all_or_none(ranks):
            made.define(task, task.state is not None, track_best=task.track_best)
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
