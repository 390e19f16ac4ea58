"""Minimisation of one objective in Python: evaluate, run the stop tests, step."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
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

#: A line of the history: a list of tuples would take 0.3 us a line, most of it at the end.
_pack_line = struct.Struct("=4d").pack


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
        self._x, self._keeps_x = optimizer.params, task.tolerances.xtol > 0.0
        self._best_x: Any = None
        self._lowest = math.inf  # inf as long as there is no best x
        resumed = task.state is not None
        if resumed:
            best = load_state(optimizer, task.state)
            if best is not None and self._tracks:
                self._best_x, self._lowest = best
        self._begin = optimizer.t
        observers.start(self._begin, resumed, self._backend.params, self._copy)
        self._f: Any = None
        self._g: Any = None
        #: of each iteration to keep four numbers: nit, f, gradient, lr
        self._lines = bytearray()

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
        """Evaluate, test, step; returns the test that holds.

        One long function with locals: methods and attributes would take 1 us of an iteration.
        """
        tests, observers = self._stop_tests, self._observers
        tree, settings = self._tree, self._settings
        evaluate, test, backend = self._objective.evaluate, tests.test, self._backend
        step, step_one = backend.step, backend.step_one
        wants_f, tracks, lowest, every = self._wants_f, self._tracks, self._lowest, self._every
        lr, lines, one = settings.lr, self._lines, tree.is_leaf
        changes, scheduled, observed = callable(lr), bool(settings.schedules), observers.wants_f
        begin, check = self._begin, self._check
        k, end = begin, begin + self._maxiter
        rate = LR.check(lr(k)) if changes else _plain(lr)
        f: Any = None
        g: Any = None
        try:
            while True:
                last = k == end
                testing = check == 1 or last or (k - begin) % check == 0
                f, g = evaluate(wants_f and testing)
                grads = (g,) if one else tree.flatten(g, "jac")
                if testing:
                    if f is None and last:
                        f = self._objective.value()
                    if f is not None:
                        f = float(f)
                    code: int = test(grads, f or 0.0)
                    if tracks and f < lowest and code != BAD_F:
                        lowest = self._keep_best(f)
                    end_of_run = last or code != RUNNING
                    if every and (end_of_run or (k - begin) % every == 0):
                        lines += _pack_line(k, math.nan if f is None else f, tests.largest, rate)
                    if observed:
                        asked = observers.notify(k, f, tests.largest, rate, end_of_run)
                        code = asked if asked != RUNNING else code
                    if code != RUNNING:
                        return code
                if last:
                    return MAXITER
                if self._keeps_x and ((k + 1 - begin) % check == 0 or k + 1 == end):
                    tests.keep_x()
                if changes:
                    rate = LR.check(lr(k))
                if scheduled:
                    settings.refresh(k)
                f = g = None
                # not optimizer.step, 0.4 us more: no other thread has this optimiser
                if one:
                    step_one(grads[0], rate)
                else:
                    step(grads, rate)
                k += 1
        finally:
            self._f, self._g = f, g

    def _copy(self) -> Any:
        return copy_tree(self._x)

    def _keep_best(self, f: float) -> float:
        if hasattr(self._best_x, "dtype"):
            self._best_x[...] = self._x
        else:
            self._best_x = self._copy()
        self._lowest = f
        return f

    def _result(self, code: int) -> OptimizeResult:
        optimizer, objective = self._optimizer, self._objective
        f = float("nan") if self._f is None else float(self._f)
        kept = (self._best_x, self._lowest) if self._lowest < math.inf else None
        best = kept or (self._copy(), f)
        entries = {
            "x": self._x,
            "fun": f,
            "jac": None if self._g is None else copy_tree(self._g),
            "nit": optimizer.t,
            "nfev": objective.nfev,
            "njev": objective.njev,
            "x_best": best[0],
            "fun_best": best[1],
            "grad_norm": self._stop_tests.largest,
            "history": make_history(np.frombuffer(self._lines)),
            "state": save_state(optimizer, kept and (copy_tree(kept[0]), kept[1])),
        }
        if "average" in self._backend.state:
            entries["averaged"] = optimizer.averaged
        return finish(code, self._observers.message, **entries)


def _plain(lr: Any) -> float:
    return lr if isinstance(lr, float) else float("nan")
