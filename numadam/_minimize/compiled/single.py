"""The minimisation of one compiled objective, observed between the calls of its kernel."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import OptimizeResult

from numadam._minimize.compiled.problem import Problem
from numadam._minimize.observers import Observers
from numadam._minimize.result import attach, finish, make_history
from numadam._minimize.saved import Best, load_state, save_state
from numadam._minimize.stopping import MAXITER, RUNNING, stop_message
from numadam._minimize.tasks import Task


class CompiledRun:
    """One run of a problem that has been started."""

    def __init__(self, problem: Problem, observers: Observers, task: Task) -> None:
        self._problem, self._observers, self._maxiter = problem, observers, task.maxiter
        self._check, self._tolerances = task.check_every, task.tolerances
        resumed = task.state is not None
        if resumed:
            best = load_state(problem.optimizer, task.state)
            if best is not None and task.track_best is not False:
                problem.set_best(best)
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
            if observers.active:
                k, end = self._begin + done, code != RUNNING
                told = observers.notify(k, problem.f, problem.size, problem.last_rate, end)
                code = told if told != RUNNING else code
            if code != RUNNING:
                return code
            steps = self._maxiter - done
            if observers.each:
                steps = min(steps, observers.gap(done, self._check))

    def _result(self, code: int) -> OptimizeResult:
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
