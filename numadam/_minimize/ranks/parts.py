"""Parts of a loop by several processes: objective, stop tests, observers and schedules."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from numadam._arrays.tree import Active
from numadam._core.hyper import LR
from numadam._minimize.objective import Objective
from numadam._minimize.observers import STOPPED, Observers
from numadam._minimize.python.stop_tests import DeviceStopTests, HostStopTests, StopTests, joined
from numadam._minimize.ranks.meetings import Meetings, Pace, RankCheckpoint
from numadam._minimize.stopping import CALLBACK, RUNNING, Tolerances

#: Difference of f between two ranks, relative to the largest |f|, that is no rounding.
_UNLIKE = 0.01


class RankStopTests(StopTests):
    """Stop tests of all blocks together: norms of the blocks are joined in the order of ranks."""

    def __init__(
        self, local: HostStopTests | DeviceStopTests, tolerances: Tolerances, first: float
    ) -> None:
        super().__init__(tolerances, first)
        self._local = local
        self._sizes: Sequence[float] = (0.0, 0.0, 0.0)
        self.measure, self.keep_x = local.measure, local.keep_x

    @property
    def size(self) -> float:
        """Norm of the projected gradient at the last test."""
        return self._sizes[0]

    @property
    def before(self) -> Sequence[Any]:
        """X before the last step, where a test asks for it."""
        return self._local.before

    def restore(self, first: float, f_before: float, later: bool, before: Sequence[Any]) -> None:
        """Go on from a file; `before` is x before the last step, where that is still asked for."""
        super().restore(first, f_before, later, before)
        self._local.restore(first, f_before, later, before)

    def join(self, rows: Sequence[Sequence[float]]) -> None:
        """Take the norms of the blocks."""
        self._sizes = [joined([row[k] for row in rows], self._tolerances.norm) for k in (2, 3, 4)]

    def test(self, grads: Sequence[Any], f: float) -> int:
        """Return the test that holds at the iterate at which the ranks have met."""
        return self._check(f, self._sizes)


class RankObjective:
    """The objective of all ranks: `evaluate` is where they meet at a tested iterate.

    Attributes
    ----------
    nfev, njev, apart
        As of `Objective`.
    """

    def __init__(
        self,
        local: Objective,
        tree: Active,
        shares: bool,
        tests: RankStopTests,
        meetings: Meetings,
        pace: Pace,
        file: RankCheckpoint | None = None,
    ) -> None:
        self._local, self._shares, self._file = local, shares, file
        self._tests, self._meetings, self._pace = tests, meetings, pace
        self._tree, self._largest = tree, 0.0
        self.apart = local.apart

    @property
    def nfev(self) -> int:
        """Evaluations of f on this rank."""
        return self._local.nfev

    @nfev.setter
    def nfev(self, count: int) -> None:
        self._local.nfev = count

    @property
    def njev(self) -> int:
        """Evaluations of the gradient on this rank."""
        return self._local.njev

    @njev.setter
    def njev(self, count: int) -> None:
        self._local.njev = count

    def evaluate(self, need_f: bool) -> tuple[float | None, Any]:
        """F of all ranks, or None where it is not asked for, and the gradient of this one."""
        pace, file = self._pace, self._file
        pace.started = True
        if not pace.tests():
            return None, self._local.evaluate(need_f)[1]
        with self._evaluation():
            f, g = self._local.evaluate(need_f)
            own = math.nan if f is None else float(f)
            sizes = self._tests.measure(self._tree.flatten(g, "jac"))
            due = file is not None and file.due_here(pace.done)
        pace.begins("test")
        rows = self._meetings.gather(own, *sizes, due)
        self._tests.join(rows)
        if file is not None:
            file.is_due = bool(rows[0][5])
        f = None if f is None else self._joined(rows)
        self._meetings.evaluates = False
        return f, g

    def value(self) -> float:
        """F of all ranks alone. Collective."""
        with self._evaluation():
            own = float(self._local.value())
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
