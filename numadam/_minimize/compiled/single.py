"""The minimisation of one compiled objective, observed between the calls of its kernel."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import OptimizeResult

from numadam._minimize.compiled.problem import Problem
from numadam._minimize.observers import Observers
from numadam._minimize.result import attach, finish, load_state, make_history
from numadam._minimize.stopping import MAXITER, RUNNING
from numadam._minimize.tasks import Task


class CompiledRun:
    """One run of a problem that has been started."""

    def __init__(self, problem: Problem, observers: Observers, task: Task) -> None:
        self._problem, self._observers, self._maxiter = problem, observers, task.maxiter
        self._check, self._tracked = task.check_every, task.track_best is not False
        resumed = task.state is not None
        if resumed:
            best = load_state(problem.optimizer, task.state)
            if best is not None and self._tracked:
                problem.set_best(*best)
        self._begin = problem.backend.t
        observers.start(self._begin, resumed, (problem.x,), problem.x.copy)

    def go(self) -> OptimizeResult:
        """Run until a test holds; an exception carries the result so far."""
        code = RUNNING
        try:
            code = self._loop()
        except BaseException as error:
            attach(error, self._result(RUNNING))
            raise
        finally:
            self._observers.close(code)
        return self._result(code)

    def _loop(self) -> int:
        problem, observers = self._problem, self._observers
        steps = 0
        while True:
            if not problem.advance(steps):
                problem.raise_again()
            done, code = problem.done, problem.code
            if code == RUNNING and done >= self._maxiter and not problem.at_start:
                code = MAXITER
            if observers.wants_f:
                k, end = self._begin + done, code != RUNNING
                told = observers.notify(k, problem.f, problem.largest, problem.last_rate, end)
                code = told if told != RUNNING else code
            if code != RUNNING:
                return code
            steps = self._maxiter - done
            if observers.each:
                steps = min(steps, observers.gap(done, self._check))

    def _result(self, code: int) -> OptimizeResult:
        problem, backend = self._problem, self._problem.backend
        f, largest, f_best = problem.f, problem.largest, problem.f_best
        x, state = problem.x.copy(), backend.copies()
        if self._tracked and math.isfinite(f_best):
            x_best = problem.best.copy()
        else:
            x_best, f_best = x.copy(), f
        if self._tracked:
            state |= {"x_best": x_best.copy(), "fun_best": f_best}
        evaluations = problem.done + (not problem.at_start)
        entries = {
            "x": x,
            "fun": f,
            "jac": problem.gradient.copy(),
            "nit": backend.t,
            "nfev": evaluations,
            "njev": evaluations,
            "x_best": x_best,
            "fun_best": f_best,
            "grad_norm": largest,
            "history": self._history(f, largest),
            "state": state,
        }
        if "average" in backend.state:
            entries["averaged"] = problem.optimizer.averaged
        return finish(code, self._observers.message, **entries)

    def _history(self, f: float, largest: float) -> dict[str, np.ndarray]:
        """The history with the last iterate; iterations count on where a run goes on."""
        problem, lines = self._problem, self._problem.lines
        seen = len(lines) > 0 and lines[-1, 0] == problem.done
        if problem.history and not seen and math.isfinite(f):
            lines = np.vstack([lines, [problem.done, f, largest, problem.last_rate]])
        history = make_history(lines)
        history["nit"] += self._begin
        return history
