"""The memory of the compiled loop, and problems that are ready for a run."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from numadam._arrays.interop import aligned_zeros
from numadam._backend import Leaves
from numadam._core.hyper import LR
from numadam._core.options import freeze
from numadam._core.parts import parts_of
from numadam._core.plan import Plan
from numadam._cpu.state import CpuState
from numadam._minimize.checkpoint import Task, first_of
from numadam._minimize.compiled.loop import CELL, loop_of
from numadam._minimize.stop_text import LANES, begin
from numadam._minimize.stop_text import NUMBER_AT as NUMBER
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
                for place, (_, hyper, schedule) in enumerate(self._scheduled):
                    self.changes[k, place] = hyper.check(schedule(t + k))
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

    def count(self, steps: int) -> None:
        """Count steps that have been taken."""
        self.memory.counters[0] += steps


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
_MOST_SETTINGS, _MOST_ROWS = 8, 65_536


def rows_for(plan: Plan, control: np.ndarray, lr: float, width: int) -> StepScalars:
    """The scalars of the steps under these settings, which all runs share."""
    key = plan, control.tobytes(), lr
    rows = _rows.pop(key, None) or StepScalars(plan, width, _MOST_ROWS)
    _rows[key] = rows  # as the last one
    for old in list(_rows)[:-_MOST_SETTINGS]:
        _rows.pop(old, None)
    return rows


# --- a problem -----------------------------------------------------------------------------------


#: Iterations of a call at most where x0 alone has been timed, or where schedules have to be
#: tabulated.
FEW_STEPS = 4_096
#: Lines of the history between two times that they are copied.
LINES = 4_096


class Problem:
    """One problem: its optimiser, and all memory that the loop reads and writes.

    It serves several runs, one after another: `start` resets all numbers.

    Parameters
    ----------
    optimizer : Optimizer
        On a `StateOnly` back end, over one C-ordered array.
    norm : float
        The norm of the stop tests, inf or 2.
    key : hashable
        What else a run of the same problem has; None where it can serve one run only.

    Attributes
    ----------
    x, gradient : array
    best_x, best_gradient : array
        Those of the lowest f, where it is tracked.
    firsts : array
        The first gradient of each number, see `share_of_own`.
    before : array
        x before the last step, where a test asks for it.
    numbers, table : array
        State of the stop tests, and of the loop at ``loop.address``.
    page : float64 array (LINES, 4)
        Lines of the history.
    """

    def __init__(self, optimizer: Optimizer, norm: float, key: Any) -> None:
        self.eps = getattr(optimizer, "eps", 0.0)  # asking takes 0.7 us
        backend: Any = parts_of(optimizer).backend
        self.optimizer, self.key, self._backend = optimizer, key, backend
        self.settings = settings = backend.settings
        self._plan = plan = settings.plan
        self.loop = loop = loop_of(plan, norm)
        self.x = x = backend.params[0]
        self.gradient = aligned_zeros(x.nbytes).view(x.dtype).reshape(x.shape)
        self.best_x, self.best_gradient = np.empty_like(x), np.empty_like(x)
        self.firsts, self.before = np.zeros_like(x), np.empty_like(x)
        self.tables = tables = StepTables(settings, FEW_STEPS)
        self.page, self.numbers = np.empty((LINES, 4)), np.zeros(len(NUMBER))
        self.no_rows = StepScalars(plan, loop.width, 0)
        self._row, self._control = (
            settings.control[settings.group_of_leaf[0]],
            settings.control.copy(),
        )
        blocks = backend.memory.cuts.blocks
        #: the arrays that the loop finds by words of its table
        self._arrays = {
            CELL.COUNTERS: backend.memory.counters,
            CELL.NUMBERS: self.numbers,
            CELL.CONTROL: self._row,
            CELL.PRODUCTS: backend.products[settings.group_of_leaf[0]],
            CELL.OWN_ROW: np.zeros(loop.width, plan.real),
            CELL.RATES: tables.rates,
            CELL.COLUMNS: tables.columns,
            CELL.CHANGES: tables.changes,
            CELL.HISTORY: self.page,
            CELL.TOPS: np.zeros(LANES),
            CELL.BLOCKS: blocks,
            CELL.SUMS: np.zeros(len(blocks)),
            CELL.TOTALS: backend.memory.totals,
            CELL.BEFORE: self.before,
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
        fresh[CELL.BLOCK_COUNT] = len(blocks)
        fresh[CELL.UPDATES], fresh[CELL.COUNT] = x.size * plan.unit, x.size * plan.numbers
        fresh[CELL.CHANGING], fresh[CELL.MOST_LINES] = len(tables.columns), LINES
        self.table = fresh.copy()
        self.table_at = self.table.ctypes.data

    def start(self, task: Task) -> StepScalars:
        """Begin a run; returns the scalars of its steps as far as they are known."""
        lr, tolerances, settings, table = task.lr, task.tolerances, self.settings, self.table
        settings.control[...] = self._control
        # step sizes by element are in the back end's arrays; to set the same again takes 4 us
        if is_plain(lr) and not (type(lr) is float and lr == settings.lr):
            settings.set_lr(LR.check_or_schedule(lr))
        self.x[...] = task.x
        self._backend.reset()
        self.firsts[...] = 0
        lr, rows = settings.lr, self.no_rows
        self.tables.rates[0] = lr if isinstance(lr, float) else math.nan
        is_shared = isinstance(lr, float) and not len(self.tables.columns)
        if is_shared and not self._plan.products and not self._plan.clip_norm:
            rows = rows_for(self._plan, self._row, lr, self.loop.width)
        table[:] = self._fresh
        table[CELL.ROWS], table[CELL.MOST_ROWS] = rows.address, rows.most
        table[CELL.EVERY], table[CELL.RATE_STEP] = task.every, callable(lr)
        if tolerances.xtol == 0.0:
            table[CELL.BEFORE] = 0
        if task.track_best is False:
            table[CELL.BEST] = 0
        begin(self.numbers, tolerances, first_of(task.state, tolerances))
        return rows


# --- problems that are ready ---------------------------------------------------------------------


#: Free problems by what they fit. A run takes one and puts it back, so no two runs share memory,
#: in threads or in a callback. Those of the latest keys are kept; large x are not.
_free: dict[Any, list[Problem]] = {}
_KEPT_KEYS, _OF_A_KEY, _MOST_NUMBERS = 64, 8, 4_096


def take(task: Task) -> Problem:
    """A problem for a run, not yet started: a free one, or a new one over x itself.

    Arrays and functions among the options may change behind their identity: then there is no key.
    """
    x, options, norm, key = task.x, freeze(task.options), task.tolerances.norm, None
    if options is not None and x.size <= _MOST_NUMBERS and is_plain(task.lr):
        key = task.rule, norm, x.dtype, x.shape, options
        if free := _free.get(key):
            with contextlib.suppress(IndexError):  # another thread took the last one
                return free.pop()
    optimizer = make_optimizer(task.rule, x, task.lr, backend=StateOnly, **task.options)
    return Problem(optimizer, norm, key)


def put_back(problem: Problem) -> None:
    """Keep a problem for the next run."""
    if callable(problem.settings.lr):
        problem.settings.set_lr(0.0)  # a schedule is the user's
    if problem.key is None:
        return
    free = _free.setdefault(problem.key, [])
    if len(free) < _OF_A_KEY:
        free.append(problem)
    if len(_free) > _KEPT_KEYS:
        for old in list(_free)[:-_KEPT_KEYS]:
            _free.pop(old, None)
