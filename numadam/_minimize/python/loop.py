"""Minimisation of one objective in Python: evaluate, run the stop tests, step."""

from __future__ import annotations

import math
from typing import Any

from scipy.optimize import OptimizeResult

from numadam._core.hyper import LR
from numadam._core.parts import parts_of
from numadam._minimize.arguments import check_interval, copy_tree
from numadam._minimize.objective import Objective
from numadam._minimize.observers import Observers
from numadam._minimize.result import attach, finish, load_state, make_history, save_state
from numadam._minimize.stopping import BAD_F, MAXITER, RUNNING
from numadam._minimize.tasks import Task
from numadam._optimizer.optimizer import Optimizer


class PythonRun:
    """One minimisation with an objective in Python."""

    def __init__(
        self,
        objective: Objective,
        optimizer: Optimizer,
        stop_tests: Any,
        observers: Observers,
        task: Task,
    ) -> None:
        self._objective, self._optimizer, self._stop_tests = objective, optimizer, stop_tests
        self._observers, self._maxiter, self._every = observers, task.maxiter, task.every
        self._tree, self._settings, self._backend, _ = parts_of(optimizer)
        self._check = check_interval(task.check_every, self._backend.is_host)
        track = task.track_best
        self._wants_f = observers.wants_f or task.tolerances.ftol > 0.0 or track is True
        self._tracks = (objective.together or self._wants_f) if track is None else track
        self._best: tuple[Any, float] | None = None
        resumed = task.state is not None
        if resumed:
            best = load_state(optimizer, task.state)
            self._best = best if self._tracks else None
        self._begin = optimizer.t
        observers.start(self._begin, resumed, self._backend.params, self._copy)
        self._f: Any = None
        self._g: Any = None
        self._f_before = 0.0
        self._lines: list[tuple[float, float, float, float]] = []
        self._rate = 0.0

    def go(self) -> OptimizeResult:
        """Run until a stop test holds; an exception carries the result so far."""
        code = RUNNING
        try:
            code = self._loop()
            if self._f is None:
                self._f = float(self._objective.value())
                code = code if math.isfinite(self._f) else BAD_F
        except BaseException as error:
            attach(error, self._result(RUNNING))
            raise
        finally:
            self._observers.close(code)
        return self._result(code)

    def _loop(self) -> int:
        tree, settings, step = self._tree, self._settings, self._backend.step
        evaluate, one, scheduled = self._objective.evaluate, tree.is_leaf, bool(settings.schedules)
        lr, k, begin, check = settings.lr, self._begin, self._begin, self._check
        end = k + self._maxiter
        self._rate = LR.check(lr(k)) if callable(lr) else _plain(lr)
        while True:
            testing = (k - begin) % check == 0 or k == end
            self._f, self._g = evaluate(self._wants_f and testing)
            grads = (self._g,) if one else tree.flatten(self._g, "jac")
            if testing:
                code = self._test(grads, k, k == end)
                if code != RUNNING:
                    return code
            if k == end:
                return MAXITER
            if (k + 1 - begin) % check == 0 or k + 1 == end:
                self._stop_tests.keep_x()
            if callable(lr):
                self._rate = LR.check(lr(k))
            if scheduled:
                settings.refresh(k)
            self._f = self._g = None
            # not optimizer.step, 0.4 us more: no other thread has this optimiser
            step(grads, self._rate)
            k += 1

    def _test(self, grads: Any, k: int, last: bool) -> int:
        """Run the stop tests of an iterate and notify observers; returns the test that holds."""
        later = k > self._begin
        if last and self._f is None:
            self._f = self._objective.value()
        f = 0.0 if self._f is None else float(self._f)
        code: int = self._stop_tests.test(grads, f, self._f_before, later)
        if self._f is not None:
            self._f = self._f_before = f
            if self._tracks and math.isfinite(f) and (self._best is None or f < self._best[1]):
                self._keep_best(f)
        if self._every and ((k - self._begin) % self._every == 0 or last or code != RUNNING):
            recorded = math.nan if self._f is None else f
            self._lines.append((k, recorded, self._stop_tests.largest, self._rate))
        if self._observers.wants_f:
            end = last or code != RUNNING
            asked = self._observers.notify(k, f, self._stop_tests.largest, self._rate, end)
            code = asked if asked != RUNNING else code
        return code

    def _copy(self) -> Any:
        return copy_tree(self._optimizer.params)

    def _keep_best(self, f: float) -> None:
        if self._best is None or not hasattr(self._best[0], "dtype"):
            self._best = (self._copy(), f)
        else:
            self._best[0][...] = self._optimizer.params
            self._best = (self._best[0], f)

    def _result(self, code: int) -> OptimizeResult:
        optimizer, objective = self._optimizer, self._objective
        f = float("nan") if self._f is None else float(self._f)
        best = self._best or (self._copy(), f)
        entries = {
            "x": optimizer.params,
            "fun": f,
            "jac": None if self._g is None else copy_tree(self._g),
            "nit": optimizer.t,
            "nfev": objective.nfev,
            "njev": objective.njev,
            "x_best": best[0],
            "fun_best": best[1],
            "grad_norm": self._stop_tests.largest,
            "history": make_history(self._lines),
            "state": save_state(optimizer, self._best and (copy_tree(best[0]), best[1])),
        }
        if "average" in self._backend.state:
            entries["averaged"] = optimizer.averaged
        return finish(code, self._observers.message, **entries)


def _plain(lr: Any) -> float:
    return lr if isinstance(lr, float) else float("nan")
