"""The minimisation of one compiled objective, observed between the calls of its kernel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numadam._minimize.checkpoint import Best, RunState, Task, load_state, save_state, state_arrays
from numadam._minimize.compiled.problem import Problem
from numadam._minimize.observers import Observers
from numadam._minimize.result import Result, attach, finish, make_history
from numadam._minimize.stopping import CALLBACK, MAXITER, RAISED, RUNNING, stop_message


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
