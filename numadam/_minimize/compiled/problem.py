"""Runs of the compiled loop: their memory, start, and result."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from numadam._arrays.interop import aligned_zeros
from numadam._backend import Backend, Leaves
from numadam._core import norms
from numadam._core import plan as pl
from numadam._core.hyper import LR
from numadam._core.options import freeze
from numadam._core.parts import parts_of
from numadam._cpu.state import CpuState
from numadam._jit.loops import compiled_loop
from numadam._jit.process import defer_interrupts
from numadam._minimize.checkpoint import (
    Best,
    RunState,
    Task,
    first_of,
    load_state,
    load_state_arrays,
    save_state,
    state_arrays,
)
from numadam._minimize.compiled.kernel import SINGLE, make_kernel
from numadam._minimize.compiled.objective import (
    KERNEL,
    RAISED_ONCE,
    ObjectiveAdapter,
    kernel_address,
)
from numadam._minimize.observers import Observers
from numadam._minimize.result import Result, attach, finish, make_history
from numadam._minimize.stopping import (
    CALLBACK,
    MAXITER,
    RAISED,
    RUNNING,
    gradient_limit,
    stop_message,
)
from numadam._optimizer.base import make_optimizer
from numadam._optimizer.optimizer import Optimizer
from numadam._settings.groups import is_plain
from numadam._settings.settings import Settings

# --- one problem under a compiled objective ------------------------------------------------------

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

    rate_array = staticmethod(Backend.rate_array)

    def __init__(self, settings: Settings, params: Leaves, names: Sequence[str]) -> None:
        super().__init__(settings, params, names)
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
#: The place of each field of SINGLE, all of 8 bytes: an element of an array is written and read
#: in a third of the time of a field.
_PLACE = {name: place for place, name in enumerate(SINGLE.names or ())}


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
            "rates": self._tables.rates,
            "columns": self._tables.columns,
            "changes": self._tables.changes,
            "partials": np.zeros(int(norms.words(numbers)) if plan.norm else 0, np.int64),
            "history": self._page,
        }
        record = np.zeros(1, SINGLE)
        fields = {"updates": x.size * plan.unit, "numbers": numbers, "group": group}
        fields |= {"changing": len(self._tables.columns), "capacity": _LINES, "at_start": 1}
        fields |= {name: array.ctypes.data for name, array in self._arrays.items()}
        fields |= {"f_before": math.nan, "size": math.nan, "f_best": math.inf}
        fields |= {"size_best": math.nan}
        for name, value in fields.items():
            record[name] = value
        self._whole, self._reals = record.view(np.int64), record.view(np.float64)
        self._fresh, self._record_at = self._whole.copy(), record.ctypes.data
        name = f"{plan.name}-single" + ("" if norm == math.inf else f"-norm-{norm:g}")
        loops = compiled_loop(name, lambda: (make_kernel(plan, norm, name),) * 2, KERNEL)
        self._kernel = kernel_address(loops.serial)

    def start(self, task: Task, adapter: ObjectiveAdapter) -> None:
        """Begin a run."""
        lr, history, tolerances = task.lr, task.every, task.tolerances
        settings, whole, reals = self.settings, self._whole, self._reals
        settings.control[...] = self._control
        if is_plain(lr):  # step sizes by element are in the back end's arrays
            settings.set_lr(LR.check_or_schedule(lr))
        self.backend.restart(task.x)
        self._adapter, self._args, self._seconds = adapter, task.args, 0.0
        self._before = 0
        self._lines: list[np.ndarray] = []
        self.history, self._f[0] = history, math.nan
        self._tables.rates[0] = settings.lr if isinstance(settings.lr, float) else math.nan
        whole[:] = self._fresh
        whole[_PLACE["fun"]], whole[_PLACE["every"]] = adapter.address, history
        reals[_PLACE["gtol"]], reals[_PLACE["ftol"]] = tolerances.gtol, tolerances.ftol
        reals[_PLACE["xtol"]], reals[_PLACE["gtol_rel"]] = tolerances.xtol, tolerances.gtol_rel
        reals[_PLACE["first"]] = first_of(task.state, tolerances)
        if tolerances.xtol == 0.0:
            whole[_PLACE["before"]] = 0
        if task.track_best is False:
            whole[_PLACE["best"]] = 0
        if callable(settings.lr):
            whole[_PLACE["rate_step"]] = 1

    def _int(self, field: str) -> int:
        return int(self._whole.item(_PLACE[field]))

    def _real(self, field: str) -> float:
        return float(self._reals.item(_PLACE[field]))

    def release(self) -> None:
        """Release what the caller has passed."""
        del self._adapter, self._args
        self._lines = []
        if callable(self.settings.lr):
            self.settings.set_lr(0.0)

    def set_best(self, best: Best) -> None:
        """Take the best iterate of an earlier run."""
        self.best_x[...] = best.x
        self.best_gradient[...] = math.nan if best.jac is None else best.jac
        self._reals[_PLACE["f_best"]] = best.fun
        self._reals[_PLACE["size_best"]] = best.grad_norm

    def advance(self, most: int) -> bool:
        """Evaluate x0 or go on, for at most so many iterations; False where `fun` raised."""
        # at x0 no step is taken, but its line of the history has the lr of the first
        steps = 0 if self.at_start else min(most, self._chunk())
        # an iterate of a file that is not yet evaluated has the lr of the step that led to it
        late = self.at_start and self.done > 0
        steps = self._tables.tabulate(self.settings.lr, self.backend.t - late, steps)
        self._before, self._whole[_PLACE["steps"]] = self.done, steps
        start = time.perf_counter()
        self._adapter.entry(self._args, self._kernel, self._meta_at, self._record_at)
        self._seconds = (time.perf_counter() - start) / max(steps, 1)
        return self.code != RAISED

    def _chunk(self) -> int:
        """Iterations of the next call: about as many as take `_SECONDS_A_CALL`."""
        most = min(
            _SECONDS_A_CALL / max(self._seconds, 1e-9), _MOST_STEPS if self.done else _FEW_STEPS
        )
        if self.history:
            room = _LINES - self._int("kept")
            if room < _LINES // 2:
                with defer_interrupts():  # a file may be written after Ctrl-C
                    self._lines.append(self._page[: _LINES - room].copy())
                    self._whole[_PLACE["kept"]], room = 0, _LINES
            most = min(most, (room - 2) * self.history)
        return max(1, int(most))

    @property
    def at_start(self) -> bool:
        """Whether nothing has been evaluated yet."""
        return self._int("at_start") != 0

    @property
    def code(self) -> int:
        """RUNNING, or the test that holds."""
        return self._int("code")

    @property
    def done(self) -> int:
        """Iterations of this run."""
        return self._int("done")

    @property
    def f(self) -> float:
        """The objective at x."""
        return float(self._f.item())

    @property
    def size(self) -> float:
        """The norm of the projected gradient at x."""
        return self._real("size")

    @property
    def first(self) -> float:
        """The norm of the first projected gradient of the run."""
        return self._real("first")

    @property
    def best(self) -> Best | None:
        """The iterate of the lowest f, its arrays copied; None where it was not tracked."""
        f = self._real("f_best")  # infinite where it was not tracked
        if f == math.inf:
            return None
        return Best(self.best_x.copy(), f, self.best_gradient.copy(), self._real("size_best"))

    @property
    def last_rate(self) -> float:
        """The learning rate of the last step."""
        taken = max(self.done - self._before - 1, 0)
        return float(self._tables.rates[taken * self._int("rate_step")])

    @property
    def lines(self) -> np.ndarray:
        """The history until now: iteration of this run, f, gradient, lr. To be copied."""
        rest = self._page[: self._int("kept")]
        return np.concatenate([*self._lines, rest]) if self._lines else rest

    def run_state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Numbers and arrays for a file: at an iterate that has been tested, or is new."""
        tested = not self.at_start and self.code != RAISED
        numbers = {
            "tested": tested,
            "f": self.f,
            "grad_norm": self.size,
            "lowest": self._real("f_best"),
            "best_grad_norm": self._real("size_best"),
            "first_grad_norm": self.first,
            "f_before": self._real("f_before"),
            "lr": self.last_rate,
        }
        arrays = {"x": self.x, "history": self.lines}
        if tested:
            arrays["gradient"] = self.gradient
        elif self._int("before"):
            arrays["before"] = self._arrays["before"]
        if numbers["lowest"] < math.inf:
            arrays |= {"best_x": self.best_x, "best_gradient": self.best_gradient}
        return numbers, arrays

    def restore(self, saved: RunState) -> None:
        """Go on from a file."""
        number, tested = saved.number, saved.number("tested")
        found = {
            name: saved.array(name, array.shape, array.dtype)
            for name, array in self._saved_arrays()
            if saved.has(name)
        }
        lines = saved.table("history", 4)
        load_state_arrays(self.optimizer, saved)
        for name, array in self._saved_arrays():
            if name in found:
                array[...] = found[name]
        self._lines, self._f[0] = [lines], number("f")
        self._tables.rates[0], self._before = number("lr"), number("done")
        self._seconds = _SECONDS_A_CALL  # unknown: one iteration to begin with
        whole, reals, first = self._whole, self._reals, number("first_grad_norm")
        whole[_PLACE["done"]], whole[_PLACE["at_start"]] = number("done"), not tested
        reals[_PLACE["f_before"]], reals[_PLACE["size"]] = number("f_before"), number("grad_norm")
        reals[_PLACE["f_best"]] = number("lowest")
        reals[_PLACE["size_best"]], reals[_PLACE["first"]] = number("best_grad_norm"), first
        limits = (self._real("gtol"), self._real("gtol_rel"), first)
        reals[_PLACE["limit"]] = gradient_limit(*limits)

    def _saved_arrays(self) -> list[tuple[str, np.ndarray]]:
        """Arrays of a file by name, besides state and history."""
        names = {"x": self.x, "gradient": self.gradient, "best_x": self.best_x}
        names |= {"best_gradient": self.best_gradient, "before": self._arrays["before"]}
        return list(names.items())

    def raise_again(self) -> None:
        """Raise the objective's exception, by calling it once more where it raised."""
        self._f[0] = math.nan
        self._adapter.call_again(self.x.copy(), 0, self._args)
        raise RuntimeError(RAISED_ONCE)


# --- problems that are ready ---------------------------------------------------------------------


#: Free problems by what they fit. A run takes one and puts it back, so no two runs share memory,
#: in threads or in a callback. Those of the latest keys are kept; large x are not.
_free: dict[Any, list[Problem]] = {}
_KEPT_KEYS, _OF_A_KEY, _NUMBERS = 64, 8, 4_096


def key_for(rule: type[Any], x: np.ndarray, lr: Any, options: dict[str, Any], norm: float) -> Any:
    """The key of a problem; None where it can serve one run only.

    Arrays and functions among the options may change behind their identity.
    """
    frozen = freeze(options)
    if frozen is None or x.size > _NUMBERS or not is_plain(lr):
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


class CompiledRun:
    """One run of a problem that has been started."""

    def __init__(
        self, problem: Problem, observers: Observers, task: Task, saved: RunState | None = None
    ) -> None:
        self._problem, self._observers, self._maxiter = problem, observers, task.maxiter
        self._check, self._tolerances = task.check_every, task.tolerances
        self._file = task.checkpoint
        #: that of a file at which nothing has been added yet
        self._code: int | None = None
        self._resumed = task.state is not None
        if self._resumed:
            best = load_state(problem.optimizer, task.state)
            if best is not None and task.track_best is not False:
                problem.set_best(best)
        self._begin = last = problem.backend.t
        known = self._resumed
        if saved is not None:
            problem.restore(saved)
            self._begin, self._resumed, self._code = map(saved.number, ("begin", "resumed", "code"))
            # the last iteration that the observers have seen
            last = max(self._begin, problem.backend.t - problem.at_start)
            known = self._resumed or last > self._begin
        observers.start(last, known, (problem.x,), problem.x.copy, first=self._begin)

    def go(self) -> Result:
        """Run until a test holds; an exception carries the result so far."""
        problem, observers = self._problem, self._observers
        code = RUNNING
        try:
            code = self._loop(0) if self._code is None else self._go_on(self._code)
            if code != self._code and self._file is not None:
                self._save(code)
        except BaseException as error:
            attach(error, self._result(RUNNING))
            # else an observer may have seen this iterate, or not
            whole = problem.code == RAISED or (problem.code == RUNNING and not observers.each)
            if self._file is not None and whole:
                self._file.write_after(error, *self._run_state(RUNNING))
            raise
        finally:
            observers.close(code)
        return self._result(code)

    def _go_on(self, code: int) -> int:
        """Go on from a file, unless that run has ended and no more iterations are asked for."""
        problem = self._problem
        if code == CALLBACK:
            self._observers.f = problem.f
            code = self._observers.ask(problem.backend.t, problem.size, problem.last_rate)
        if code not in (RUNNING, MAXITER):
            return code
        if problem.at_start:
            return self._loop(0)
        if problem.done >= self._maxiter:
            return MAXITER
        self._code = None
        return self._loop(self._steps())

    def _save(self, code: int) -> None:
        if self._file is not None:
            self._file.write(*self._run_state(code))

    def _run_state(self, code: int) -> tuple[int, dict[str, Any], dict[str, Any]]:
        """Iterations done, numbers and arrays of the run."""
        problem = self._problem
        numbers, arrays = problem.run_state()
        numbers |= {"begin": self._begin, "resumed": self._resumed, "code": code}
        return problem.done, numbers, {**arrays, **state_arrays(problem.optimizer)}

    def _loop(self, steps: int) -> int:
        problem, observers, file = self._problem, self._observers, self._file
        while True:
            if not problem.advance(steps):
                problem.raise_again()
            done, code = problem.done, problem.code
            if code == RUNNING and done >= self._maxiter and not problem.at_start:
                code = MAXITER
            end = code != RUNNING
            # a call may have ended elsewhere: by time, or where the file was due
            if observers.active and (end or observers.sees(done, self._check)):
                k = self._begin + done
                told = observers.notify(k, problem.f, problem.size, problem.last_rate, end)
                code = told if told != RUNNING else code
            if code != RUNNING:
                return code
            if file is not None and file.due(done):
                self._save(RUNNING)
            steps = self._steps()

    def _steps(self) -> int:
        """Iterations until the run ends, an observer is to be told, or the file is due."""
        done = self._problem.done
        steps = self._maxiter - done
        if self._observers.each:
            steps = min(steps, self._observers.gap(done, self._check))
        return steps if self._file is None else min(steps, self._file.gap(done))

    def _result(self, code: int) -> Result:
        problem, backend, found = self._problem, self._problem.backend, self._problem.best
        f, size, first, x = problem.f, problem.size, problem.first, problem.x.copy()
        best = found or Best(x.copy(), f, problem.gradient.copy(), size)
        saved = found and Best(found.x.copy(), found.fun, found.jac.copy(), found.grad_norm)
        evaluations = problem.done + (not problem.at_start)
        entries = {
            "x": best.x,
            "fun": best.fun,
            "jac": best.jac,
            "nit": backend.t,
            "nfev": evaluations,
            "njev": evaluations,
            "x_last": x,
            "fun_last": f,
            "grad_norm": best.grad_norm,
            "history": self._history(f, size),
            "state": save_state(backend.copies(), x.copy(), saved, first, self._tolerances.norm),
        }
        if "average" in backend.state:
            entries["averaged"] = problem.optimizer.averaged
        message = self._observers.message or stop_message(
            code, self._tolerances, size, first, problem.eps, found is not None
        )
        return finish(code, message, **entries)

    def _history(self, f: float, size: float) -> dict[str, np.ndarray]:
        """The history with the last iterate; iterations count on where a run goes on."""
        problem, lines = self._problem, self._problem.lines
        seen = len(lines) > 0 and lines[-1, 0] == problem.done
        if problem.history and not seen and math.isfinite(f):
            lines = np.vstack([lines, [problem.done, f, size, problem.last_rate]])
        history = make_history(lines)
        history["nit"] += self._begin
        return history
