"""Runs of the compiled loop: their memory, start, and result."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from numadam._arrays.interop import aligned_zeros
from numadam._backend import Leaves
from numadam._core.hyper import LR
from numadam._core.options import freeze
from numadam._core.parts import parts_of
from numadam._core.plan import Plan
from numadam._cpu.state import CpuState
from numadam._jit.process import defer_interrupts
from numadam._minimize.checkpoint import Best, RunState, Task, first_of
from numadam._minimize.compiled.first_call import FirstCall
from numadam._minimize.compiled.loop import CELL, EVALUATED, FRESH, TESTED, loop_of
from numadam._minimize.compiled.objective import FAILED, CompiledObjective
from numadam._minimize.observers import Observers
from numadam._minimize.result import make_history
from numadam._minimize.run import Memory, Run
from numadam._minimize.stop_text import LANES, begin
from numadam._minimize.stop_text import NUMBER_AT as NUMBER
from numadam._minimize.stopping import MAXITER, RUNNING, gradient_limit
from numadam._optimizer.base import make_optimizer
from numadam._optimizer.optimizer import Optimizer
from numadam._settings.settings import Settings, is_plain

# --- schedules -----------------------------------------------------------------------------------


class StepTables:
    """Tables of all that differs from step to step in a call of the kernel.

    Attributes
    ----------
    rates : float64 array (most + 1,)
        lr of each step; the first one alone where it is constant.
    columns : int64 array (changing,)
        Columns of the control block that have a schedule.
    changes : float64 array (most, changing)
        What these columns hold at each step.
    """

    def __init__(self, settings: Settings, most: int) -> None:
        group = settings.group_of_leaf[0]
        self._scheduled = [
            (column, hyper, one) for k, column, hyper, one in settings.schedules if k == group
        ]
        self.rates = np.zeros(most + 1)
        self.columns = np.array([column for column, _, _ in self._scheduled], np.int64)
        self.changes = np.zeros((most, len(self._scheduled)))

    def tabulate(self, lr: Any, t: int, steps: int) -> int:
        """Fill the tables from step t + 1 on; returns the number of steps that they hold.

        A schedule that raises does so when its step comes, not before.
        """
        if not callable(lr) and not self._scheduled:
            return steps
        steps, k = min(steps, len(self.changes)), 0
        try:
            for k in range(max(steps, 1)):
                if callable(lr):
                    self.rates[k] = LR.check(lr(t + k))
                for place, (_, hyper, one) in enumerate(self._scheduled):
                    self.changes[k, place] = hyper.check(one(t + k))
        except Exception:  # a user's function may raise anything
            if k == 0 and steps > 0:
                raise
            return k
        return steps


# --- state -------------------------------------------------------------------------


class StateOnly(CpuState):
    """State of one array, whose loop has a step of its own."""

    def __init__(self, settings: Settings, params: Leaves, names: Sequence[str]) -> None:
        super().__init__(settings, params, names)
        self.begin()

    def restart(self, x: Any) -> None:
        """Begin anew at x: state, counters and products as they were at first."""
        self.params[0][...] = x
        self.reset()

    def count(self, steps: int) -> None:
        """Count steps that have been taken."""
        self.memory.counters[0] += steps

    def copies(self) -> dict[str, Any]:
        """Copies of counters and state of the one array, by name."""
        found: dict[str, Any] = {"t": self.t}
        for k, name in enumerate(self.settings.plan.products):
            found[name] = self.products[:, k].copy()
        for name, (view,) in self.state.items():
            found[name] = np.array(view)
        return found


# --- scalars of the steps ------------------------------------------------------------------------


class StepScalars:
    """Scalars of the steps from the first one on, as far as a run has come.

    Runs in several threads may share them: each writes the same numbers.
    """

    def __init__(self, plan: Plan, width: int, most: int) -> None:
        self.array, self.known, self.most = np.zeros((most, width), plan.real), 0, most
        self.address = self.array.ctypes.data


#: Those of the last settings: the powers in them take as long as the rest of an iteration. So many
#: settings, and steps of each: later ones are computed as they come.
_rows: dict[Any, StepScalars] = {}
_MOST_SETTINGS, _MOST_ROWS = 16, 16_384


def rows_for(plan: Plan, control: np.ndarray, lr: float, width: int) -> StepScalars:
    """The scalars of the steps under these settings, which all runs share."""
    key = plan, control.tobytes(), lr
    rows = _rows.pop(key, None) or StepScalars(plan, width, _MOST_ROWS)
    _rows[key] = rows  # as the last one
    for old in list(_rows)[:-_MOST_SETTINGS]:
        _rows.pop(old, None)
    return rows


# --- a problem -----------------------------------------------------------------------------------


#: Seconds that a call of the loop should take: so long Ctrl-C and callbacks may have to wait.
_SECONDS_A_CALL = 0.03
#: Iterations of a call at most: a fast objective may become slow. And at most where x0 alone has
#: been timed, or where schedules have to be tabulated.
_MOST_STEPS, _FEW_STEPS = 65_536, 4_096
#: Lines of the history between two times that they are copied.
_LINES = 4_096


class Problem:
    """One problem: x, gradient and state, and all that the loop reads and writes.

    It serves several runs, one after another: `start` resets all numbers.

    Parameters
    ----------
    optimizer : Optimizer
        On a `StateOnly` back end, over one C-ordered array.
    norm : float
        The norm of the stop tests, inf or 2.

    Attributes
    ----------
    x, gradient : array
    best_x, best_gradient : array
        Those of the lowest f, where it is tracked.
    firsts : array
        The first gradient of each number, see `share_of_own`.
    history : int
        Keep every so many iterations; 0: none.
    """

    def __init__(self, optimizer: Optimizer, norm: float) -> None:
        self.eps = getattr(optimizer, "eps", 0.0)  # asking takes 0.7 us
        backend: Any = parts_of(optimizer).backend
        self.optimizer, self.backend, self.settings = optimizer, backend, backend.settings
        self.plan = plan = self.settings.plan
        self._loop = loop = loop_of(plan, norm)
        self.x = x = backend.params[0]
        self.gradient = aligned_zeros(x.nbytes).view(x.dtype).reshape(x.shape)
        self._flat = self.gradient.reshape(-1)
        self.best_x, self.best_gradient = np.empty_like(x), np.empty_like(x)
        self.firsts, self._before_step = np.zeros_like(x), np.empty_like(x)
        self._tables = tables = StepTables(self.settings, _FEW_STEPS)
        self._page, self._own_row = np.empty((_LINES, 4)), np.zeros(loop.width, plan.real)
        self._none_kept = StepScalars(plan, loop.width, 0)
        self._numbers = np.zeros(len(NUMBER))
        self._group = self.settings.group_of_leaf[0]
        self._control = self.settings.control.copy()
        #: the arrays that the loop finds by words of its table
        self._arrays = {
            CELL.COUNTERS: backend.memory.counters,
            CELL.NUMBERS: self._numbers,
            CELL.CONTROL: self.settings.control[self._group],
            CELL.PRODUCTS: backend.products[self._group],
            CELL.OWN_ROW: self._own_row,
            CELL.RATES: tables.rates,
            CELL.COLUMNS: tables.columns,
            CELL.CHANGES: tables.changes,
            CELL.HISTORY: self._page,
            CELL.TOPS: np.zeros(LANES),
            CELL.BLOCKS: backend.memory.cuts.blocks,
            CELL.SUMS: np.zeros(len(backend.memory.cuts.blocks)),
            CELL.TOTALS: backend.memory.totals,
            CELL.BEFORE: self._before_step,
            CELL.BEST: self.best_x,
            CELL.BEST_GRADIENT: self.best_gradient,
            CELL.FIRSTS: self.firsts,
        }
        #: the table at the begin of a run
        self._fresh = fresh = np.zeros(CELL.ARRAYS + loop.arrays, np.int64)
        for place, array in self._arrays.items():
            fresh[place] = array.ctypes.data
        fresh[CELL.ARRAYS :] = backend.memory.table[0, : loop.arrays]
        fresh[CELL.ARRAYS : CELL.ARRAYS + 2] = x.ctypes.data, self.gradient.ctypes.data
        fresh[CELL.BLOCK_COUNT] = len(backend.memory.cuts.blocks)
        fresh[CELL.UPDATES], fresh[CELL.COUNT] = x.size * plan.unit, x.size * plan.numbers
        fresh[CELL.CHANGING], fresh[CELL.MOST_LINES] = len(tables.columns), _LINES
        self._table = fresh.copy()
        self._table_at = self._table.ctypes.data

    def start(self, task: Task, objective: CompiledObjective) -> None:
        """Begin a run."""
        lr, tolerances, settings = task.lr, task.tolerances, self.settings
        self._task, self.asks = task, True
        settings.control[...] = self._control
        if is_plain(lr):  # step sizes by element are in the back end's arrays
            settings.set_lr(LR.check_or_schedule(lr))
        self.backend.restart(task.x)
        self._objective, self._seconds, self._before = objective, 0.0, 0
        self._started = False
        self._lines: list[np.ndarray] = []
        self.history = task.every
        self.firsts[...] = 0
        self._tables.rates[0] = settings.lr if isinstance(settings.lr, float) else math.nan
        rows, table = self._none_kept, self._table
        is_shared = isinstance(settings.lr, float) and not len(self._tables.columns)
        if is_shared and not self.plan.products and not self.plan.clip_norm:
            row = settings.control[self._group]
            rows = rows_for(self.plan, row, settings.lr, self._loop.width)
        self._rows = rows
        table[:] = self._fresh
        table[CELL.ROWS], table[CELL.MOST_ROWS] = rows.address, rows.most
        table[CELL.EVERY], table[CELL.RATE_STEP] = task.every, callable(settings.lr)
        if tolerances.xtol == 0.0:
            table[CELL.BEFORE] = 0
        if task.track_best is False:
            table[CELL.BEST] = 0
        begin(self._numbers, tolerances, first_of(task.state, tolerances))

    def evaluate_at(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """F and gradient at another x, which another problem of the same kind evaluates."""
        task = self._task
        lr, options, norm = task.lr, task.options, task.tolerances.norm
        key = key_for(task.rule, x, lr, options, norm)
        other = take(key, task.rule, x.copy(), lr, options, norm)
        other.start(task._replace(x=x, state=None), self._objective)
        other.asks = False
        other.advance(0)
        f, g = other.iterate[0], other.gradient.copy()
        put_back(key, other)
        return f, g

    def release(self) -> None:
        """Release what the caller has passed."""
        del self._objective, self._task
        self._lines = []
        if callable(self.settings.lr):
            self.settings.set_lr(0.0)

    def set_best(self, best: Best) -> None:
        """Take the best iterate of an earlier run."""
        self.best_x[...] = best.x
        self.best_gradient[...] = math.nan if best.jac is None else best.jac
        self._numbers[[NUMBER.F_BEST, NUMBER.SIZE_BEST]] = best.fun, best.grad_norm

    def advance(self, most: int) -> int:
        """Evaluate x0 or go on, for at most so many iterations; returns the test that holds."""
        table, numbers, args = self._table, self._numbers, self._task.args
        at_start, self._before = not self.tested, self.done
        # at x0 no step is taken, but its line of the history has the lr of the first
        steps = 0 if at_start else min(most, self._chunk())
        # an iterate of a file that is not yet evaluated has the lr of the step that led to it
        late = at_start and self._before > 0
        steps = self._tables.tabulate(self.settings.lr, self.backend.t - late, steps)
        asks = at_start and self.asks and not self._objective.writes
        first, start = FirstCall(args) if asks else None, time.perf_counter()
        table[CELL.LEFT], table[CELL.STEP], table[CELL.KNOWN_ROWS] = steps, 0, self._rows.known
        if at_start:
            table[CELL.STATE] = FRESH
        self._started = True
        given = self.x, self.gradient, self._flat, numbers, args
        found = self._objective.drive(self._loop.address, self._table_at, given)
        self._seconds = (time.perf_counter() - start) / max(steps, 1)
        self._rows.known = max(self._rows.known, int(table[CELL.KNOWN_ROWS]))
        if found == FAILED:
            self._objective.call_again(self.x.copy(), 0, args)
        if first is not None:
            there = self.gradient, self.x, self.evaluate_at
            self._objective.writes = first.check(self.iterate[0], *there)
        return self.code

    def _chunk(self) -> int:
        """Iterations of the next call: about as many as take `_SECONDS_A_CALL`."""
        most = min(
            _SECONDS_A_CALL / max(self._seconds, 1e-9), _MOST_STEPS if self.done else _FEW_STEPS
        )
        if self.history:
            room = _LINES - self._table[CELL.LINES]
            if room < _LINES // 2:
                with defer_interrupts():  # a file may be written after Ctrl-C
                    self._lines.append(self._page[: _LINES - room].copy())
                    self._table[CELL.LINES], room = 0, _LINES
            most = min(most, (room - 2) * self.history)
        return max(1, int(most))

    @property
    def started(self) -> bool:
        """Whether anything has been evaluated."""
        return self._started

    @property
    def code(self) -> int:
        """RUNNING, or the test that holds."""
        return int(self._table[CELL.CODE])

    @property
    def done(self) -> int:
        """Iterations of this run."""
        return int(self._table[CELL.DONE])

    @property
    def tested(self) -> bool:
        """Whether the iterate at hand has been evaluated and tested."""
        return bool(self._table[CELL.STATE] == TESTED)

    @property
    def raised(self) -> bool:
        """Whether the objective has raised at the iterate at hand."""
        return bool(self._table[CELL.STATE] == EVALUATED)

    @property
    def iterate(self) -> tuple[float, float, float]:
        """F and the norm of the projected gradient at x, and the learning rate of the last step."""
        taken = max(self.done - self._before - 1, 0)
        rate = self._tables.rates[taken * self._table[CELL.RATE_STEP]]
        f = math.nan if self.raised else self._numbers.item(NUMBER.F)
        return f, self._numbers.item(NUMBER.SIZE), float(rate)

    @property
    def lines(self) -> np.ndarray:
        """The history until now: iteration of this run, f, gradient, lr. To be copied."""
        rest = self._page[: self._table[CELL.LINES]]
        return np.concatenate([*self._lines, rest]) if self._lines else rest

    def remember(self) -> Memory:
        """The last and the best iterate; the arrays are those of the problem."""
        value = self._numbers.item
        # the best f is infinite where it was not tracked
        best = value(NUMBER.F_BEST), value(NUMBER.SIZE_BEST)
        memory = Memory(*self.iterate, *best, value(NUMBER.FIRST), value(NUMBER.F_BEFORE))
        if self.tested:
            memory.gradient = self.gradient
        elif self._table[CELL.BEFORE]:
            memory.before = [self._before_step]
        if memory.lowest < math.inf:
            memory.best_x, memory.best_gradient = self.best_x, self.best_gradient
        return memory

    def restore(self, memory: Memory, done: int, tested: bool, lines: np.ndarray) -> None:
        """Go on from a file; x and state have been loaded."""
        for array, saved in (
            (self.gradient, memory.gradient),
            (self.best_x, memory.best_x),
            (self.best_gradient, memory.best_gradient),
            *((self._before_step, saved) for saved in memory.before),
        ):
            if saved is not None:
                array[...] = saved
        self._lines, self._tables.rates[0], self._before = [lines], memory.lr, done
        self._seconds = _SECONDS_A_CALL  # unknown: one iteration to begin with
        self._table[CELL.DONE], self._table[CELL.STATE] = done, TESTED if tested else FRESH
        self._started = tested
        numbers, first = self._numbers, memory.first_grad_norm
        numbers[NUMBER.F], numbers[NUMBER.SIZE] = memory.f, memory.grad_norm
        numbers[NUMBER.F_BEFORE], numbers[NUMBER.FIRST] = memory.f_before, first
        numbers[[NUMBER.F_BEST, NUMBER.SIZE_BEST]] = memory.lowest, memory.best_grad_norm
        limits = numbers[NUMBER.GTOL], numbers[NUMBER.GTOL_REL], first
        numbers[NUMBER.LIMIT] = gradient_limit(*map(float, limits))


# --- problems that are ready ---------------------------------------------------------------------


#: Free problems by what they fit. A run takes one and puts it back, so no two runs share memory,
#: in threads or in a callback. Those of the latest keys are kept; large x are not.
_free: dict[Any, list[Problem]] = {}
_KEPT_KEYS, _OF_A_KEY, _MOST_NUMBERS = 64, 8, 4_096


def key_for(rule: type[Any], x: np.ndarray, lr: Any, options: dict[str, Any], norm: float) -> Any:
    """The key of a problem; None where it can serve one run only.

    Arrays and functions among the options may change behind their identity.
    """
    frozen = freeze(options)
    if frozen is None or x.size > _MOST_NUMBERS or not is_plain(lr):
        return None
    return rule, norm, x.dtype, x.shape, frozen


def take(
    key: Any, rule: type[Any], x: np.ndarray, lr: Any, options: dict[str, Any], norm: float
) -> Problem:
    """A problem of that key, not yet started: a free one, or a new one over x itself."""
    try:
        return _free[key].pop()
    except (KeyError, IndexError):
        return Problem(make_optimizer(rule, x, lr, backend=StateOnly, **options), norm)


def put_back(key: Any, problem: Problem) -> None:
    """Keep a problem for the next run."""
    problem.release()
    if key is None:
        return
    free = _free.setdefault(key, [])
    if len(free) < _OF_A_KEY:
        free.append(problem)
    if len(_free) > _KEPT_KEYS:
        for old in list(_free)[:-_KEPT_KEYS]:
            _free.pop(old, None)


# --- the minimisation of one compiled objective --------------------------------------------------


class CompiledRun(Run):
    """One run of a problem that has been started."""

    shares_arrays = True

    def __init__(self, problem: Problem, observers: Observers, task: Task) -> None:
        super().__init__(problem.optimizer, observers, task, problem.eps)
        self._problem = problem
        self._start(None)

    @property
    def _tested(self) -> bool:
        return self._problem.tested

    @property
    def _iterate(self) -> tuple[float, float, float]:
        return self._problem.iterate

    @property
    def _evaluations(self) -> tuple[int, int]:
        evaluations = self._problem.done + self._problem.started
        return evaluations, evaluations

    @property
    def _lines(self) -> np.ndarray:
        return self._problem.lines

    @property
    def _firsts(self) -> Sequence[np.ndarray]:
        return [self._problem.firsts]

    def _advance(self) -> Iterator[tuple[int, int]]:
        problem, observers, maxiter = self._problem, self._observers, self._task.maxiter
        check, file = self._task.check_every, self._file
        done = problem.done
        while True:
            steps = maxiter - done
            if observers.each:
                steps = min(steps, observers.gap(done, check))
            if file is not None:
                steps = min(steps, file.gap(done))
            code, done = problem.advance(steps), problem.done
            if code == RUNNING and done >= maxiter:
                code = MAXITER
            # a call may have ended elsewhere: by time, or where the file was due
            if observers.active and (code != RUNNING or observers.sees(done, check)):
                code = self._notify(self._begin + done, code)
            yield done, code

    def _is_whole(self) -> bool:
        # else an observer may have seen this iterate, or not
        running = self._problem.code == RUNNING
        return self._problem.raised or (running and not self._observers.each)

    def _remember(self) -> Memory:
        return self._problem.remember()

    def _resume(self, saved: RunState, memory: Memory, lines: np.ndarray) -> None:
        done, tested, params = saved.number("done"), saved.number("tested"), self._backend.params
        memory.f = math.nan if memory.f is None else memory.f
        if tested:
            saved.leaves("gradient", params)
        elif done > 0 and self._task.tolerances.xtol > 0.0:
            saved.leaves("before", params)
        self._problem.restore(memory, done, tested, lines)

    def _evaluate_at(self, leaves: Sequence[Any]) -> tuple[float, Sequence[Any]]:
        f, g = self._problem.evaluate_at(leaves[0])
        return f, [g]

    def _set_best(self, best: Best) -> None:
        self._problem.set_best(best)

    def _state(self) -> dict[str, Any]:
        copies: dict[str, Any] = self._problem.backend.copies()
        return copies

    def _history(self, memory: Memory) -> dict[str, np.ndarray]:
        """The history with the last iterate; iterations count on where a run goes on."""
        lines, done, f = self._lines, self._problem.done, memory.f
        seen = len(lines) > 0 and lines[-1, 0] == done
        if self._problem.history and not seen and f is not None and math.isfinite(f):
            lines = np.vstack([lines, [done, f, memory.grad_norm, memory.lr]])
        history = make_history(lines)
        if self._begin:
            history["nit"] += self._begin
        return history
