"""Runs of the compiled loop: their memory, start, and result."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from ctypes import addressof
from typing import Any

import numpy as np

from numadam._arrays.interop import aligned_zeros
from numadam._backend import Leaves
from numadam._core import norms
from numadam._core import plan as pl
from numadam._core.hyper import LR
from numadam._core.options import freeze
from numadam._core.parts import parts_of
from numadam._cpu.kernel import code_address
from numadam._cpu.state import CpuState
from numadam._jit.loops import compiled_loop
from numadam._jit.pointers import struct_of
from numadam._jit.process import defer_interrupts
from numadam._minimize.checkpoint import Best, RunState, Task, first_of
from numadam._minimize.compiled.first_call import FirstCall
from numadam._minimize.compiled.kernel import SINGLE, make_kernel
from numadam._minimize.compiled.objective import (
    KERNEL,
    RAISED_ONCE,
    ObjectiveAdapter,
    kernel_address,
)
from numadam._minimize.observers import Observers
from numadam._minimize.result import make_history
from numadam._minimize.run import Memory, Run
from numadam._minimize.stopping import MAXITER, RAISED, RUNNING, gradient_limit
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


# --- state and arguments -------------------------------------------------------------------------


class StateOnly(CpuState):
    """State and arguments of one array: the kernel of the minimisation has its own step."""

    def __init__(self, settings: Settings, params: Leaves, names: Sequence[str]) -> None:
        super().__init__(settings, params, names)
        self.arguments.meta["settle"] = code_address("settle")
        self.begin()

    def restart(self, x: Any) -> None:
        """Begin anew at x: state, counters and products as they were at first."""
        self.params[0][...] = x
        self.reset()

    def copies(self) -> dict[str, Any]:
        """Copies of counters and state of the one array, by name."""
        found: dict[str, Any] = {"t": self.t}
        for k, name in enumerate(self.settings.plan.products):
            found[name] = self.products[:, k].copy()
        for name, (view,) in self.state.items():
            found[name] = np.array(view)
        return found


# --- a problem -----------------------------------------------------------------------------------


#: Seconds that a call of the kernel should take: so long Ctrl-C and callbacks may have to wait.
_SECONDS_A_CALL = 0.03
#: Iterations of a call at most: a fast objective may become slow. And at most where x0 alone has
#: been timed, or where schedules have to be tabulated.
_MOST_STEPS, _FEW_STEPS = 65_536, 4_096
#: Lines of the history between two times that they are copied.
_LINES = 4_096
_Single = struct_of(SINGLE)


class Problem:
    """One problem: x, gradient and state, and all that the kernel reads and writes.

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
        self.x = x = backend.params[0]
        self.gradient = aligned_zeros(x.nbytes).view(x.dtype).reshape(x.shape)
        self.best_x, self.best_gradient = np.empty_like(x), np.empty_like(x)
        self.firsts = np.zeros_like(x)
        arguments, group = backend.arguments, self.settings.group_of_leaf[0]
        arguments.bind(pl.P, np.array([x.ctypes.data]))
        arguments.bind(pl.G, np.array([self.gradient.ctypes.data]))
        self._meta, self._meta_at = arguments.meta, arguments.meta_at
        self._f, self._tables = np.zeros(1), StepTables(self.settings, _FEW_STEPS)
        self._page = np.empty((_LINES, 4))
        self._control = self.settings.control.copy()
        numbers = x.size * plan.numbers
        #: the arrays that the kernel finds by fields of its record
        self._arrays = {
            "shape": np.array([*x.shape, 0], np.int64),
            "number": np.zeros(1, np.int64),
            "f": self._f,
            "before": np.empty_like(x),
            "best": self.best_x,
            "best_gradient": self.best_gradient,
            "firsts": self.firsts,
            "rates": self._tables.rates,
            "columns": self._tables.columns,
            "changes": self._tables.changes,
            "partials": np.zeros(int(norms.words(numbers)) if plan.norm else 0, np.int64),
            "history": self._page,
        }
        #: the record at the begin of a run
        self._fresh = _Single(
            updates=x.size * plan.unit,
            numbers=numbers,
            group=group,
            changing=len(self._tables.columns),
            capacity=_LINES,
            at_start=1,
            f_before=math.nan,
            size=math.nan,
            f_best=math.inf,
            size_best=math.nan,
            **{name: array.ctypes.data for name, array in self._arrays.items()},
        )
        name = f"{plan.name}-single" + ("" if norm == math.inf else f"-norm-{norm:g}")
        loops = compiled_loop(name, lambda: (make_kernel(plan, norm, name),), KERNEL)
        self._kernel = kernel_address(loops.serial)

    def start(self, task: Task, adapter: ObjectiveAdapter) -> None:
        """Begin a run."""
        lr, tolerances, settings = task.lr, task.tolerances, self.settings
        self._task, self.asks = task, True
        settings.control[...] = self._control
        if is_plain(lr):  # step sizes by element are in the back end's arrays
            settings.set_lr(LR.check_or_schedule(lr))
        self.backend.restart(task.x)
        self._adapter, self._args, self._seconds, self._before = adapter, task.args, 0.0, 0
        self._lines: list[np.ndarray] = []
        self.history, self._f[0] = task.every, math.nan
        self.firsts[...] = 0
        self._tables.rates[0] = settings.lr if isinstance(settings.lr, float) else math.nan
        record = self._record = _Single.from_buffer_copy(self._fresh)
        record.fun, record.every = adapter.address, task.every
        record.gtol, record.ftol, record.xtol = tolerances.limits
        record.gtol_rel, record.first = tolerances.gtol_rel, first_of(task.state, tolerances)
        record.rate_step = callable(settings.lr)
        if tolerances.xtol == 0.0:
            record.before = 0
        if task.track_best is False:
            record.best = 0

    def evaluate_at(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """F and gradient at another x, which another problem of the same kind evaluates."""
        task = self._task
        lr, options, norm = task.lr, task.options, task.tolerances.norm
        key = key_for(task.rule, x, lr, options, norm)
        other = take(key, task.rule, x.copy(), lr, options, norm)
        other.start(task._replace(x=x, state=None), self._adapter)
        other.asks = False
        other.advance(0)
        f, g = other.iterate[0], other.gradient.copy()
        put_back(key, other)
        return f, g

    def release(self) -> None:
        """Release what the caller has passed."""
        del self._adapter, self._args, self._task
        self._lines = []
        if callable(self.settings.lr):
            self.settings.set_lr(0.0)

    def set_best(self, best: Best) -> None:
        """Take the best iterate of an earlier run."""
        self.best_x[...] = best.x
        self.best_gradient[...] = math.nan if best.jac is None else best.jac
        self._record.f_best, self._record.size_best = best.fun, best.grad_norm

    def advance(self, most: int) -> int:
        """Evaluate x0 or go on, for at most so many iterations; returns the test that holds."""
        at_start, self._before = self.at_start, self.done
        # at x0 no step is taken, but its line of the history has the lr of the first
        steps = 0 if at_start else min(most, self._chunk())
        # an iterate of a file that is not yet evaluated has the lr of the step that led to it
        late = at_start and self._before > 0
        steps = self._tables.tabulate(self.settings.lr, self.backend.t - late, steps)
        self._record.steps, record_at = steps, addressof(self._record)
        asks = at_start and self.asks and not self._adapter.writes
        first = FirstCall(self._args) if asks else None
        start = time.perf_counter()
        self._adapter.entry(self._args, self._kernel, self._meta_at, record_at)
        self._seconds = (time.perf_counter() - start) / max(steps, 1)
        code = self.code
        if code == RAISED:  # called once more, it raises its exception here
            self._f[0] = math.nan
            self._adapter.call_again(self.x.copy(), 0, self._args)
            raise RuntimeError(RAISED_ONCE)
        if first is not None:
            there = self.gradient, self.x, self.evaluate_at
            self._adapter.writes = first.check(self.iterate[0], *there)
        return code

    def _chunk(self) -> int:
        """Iterations of the next call: about as many as take `_SECONDS_A_CALL`."""
        most = min(
            _SECONDS_A_CALL / max(self._seconds, 1e-9), _MOST_STEPS if self.done else _FEW_STEPS
        )
        if self.history:
            room = _LINES - self._record.kept
            if room < _LINES // 2:
                with defer_interrupts():  # a file may be written after Ctrl-C
                    self._lines.append(self._page[: _LINES - room].copy())
                    self._record.kept, room = 0, _LINES
            most = min(most, (room - 2) * self.history)
        return max(1, int(most))

    @property
    def at_start(self) -> bool:
        """Whether nothing has been evaluated yet."""
        return bool(self._record.at_start)

    @property
    def code(self) -> int:
        """RUNNING, or the test that holds."""
        code: int = self._record.code
        return code

    @property
    def done(self) -> int:
        """Iterations of this run."""
        done: int = self._record.done
        return done

    @property
    def tested(self) -> bool:
        """Whether the iterate at hand has been evaluated and tested."""
        return not self.at_start and self.code != RAISED

    @property
    def iterate(self) -> tuple[float, float, float]:
        """F and the norm of the projected gradient at x, and the learning rate of the last step."""
        taken = max(self.done - self._before - 1, 0)
        rate = self._tables.rates[taken * self._record.rate_step]
        return float(self._f.item()), self._record.size, float(rate)

    @property
    def lines(self) -> np.ndarray:
        """The history until now: iteration of this run, f, gradient, lr. To be copied."""
        rest = self._page[: self._record.kept]
        return np.concatenate([*self._lines, rest]) if self._lines else rest

    def remember(self) -> Memory:
        """The last and the best iterate; the arrays are those of the problem."""
        record = self._record
        # the best f is infinite where it was not tracked
        best = record.f_best, record.size_best
        memory = Memory(*self.iterate, *best, record.first, record.f_before)
        if self.tested:
            memory.gradient = self.gradient
        elif record.before:
            memory.before = [self._arrays["before"]]
        if memory.lowest < math.inf:
            memory.best_x, memory.best_gradient = self.best_x, self.best_gradient
        return memory

    def restore(self, memory: Memory, done: int, tested: bool, lines: np.ndarray) -> None:
        """Go on from a file; x and state have been loaded."""
        for array, saved in (
            (self.gradient, memory.gradient),
            (self.best_x, memory.best_x),
            (self.best_gradient, memory.best_gradient),
            *((self._arrays["before"], saved) for saved in memory.before),
        ):
            if saved is not None:
                array[...] = saved
        self._lines, self._f[0] = [lines], memory.f
        self._tables.rates[0], self._before = memory.lr, done
        self._seconds = _SECONDS_A_CALL  # unknown: one iteration to begin with
        record, first = self._record, memory.first_grad_norm
        record.done, record.at_start, record.f_before = done, not tested, memory.f_before
        record.size, record.size_best = memory.grad_norm, memory.best_grad_norm
        record.f_best, record.first = memory.lowest, first
        record.limit = gradient_limit(record.gtol, record.gtol_rel, first)


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
        evaluations = self._problem.done + (not self._problem.at_start)
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
        code = self._problem.code
        return code == RAISED or (code == RUNNING and not self._observers.each)

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
