"""Minimisation of one objective in Python: evaluate, run the stop tests, step."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from numadam._core.hyper import LR
from numadam._minimize.arguments import check_interval, copy_tree
from numadam._minimize.checkpoint import Best, RunState, Task
from numadam._minimize.objective import Objective
from numadam._minimize.observers import Observers
from numadam._minimize.run import Memory, Run
from numadam._minimize.stopping import BAD_F, GTOL, MAXITER, RUNNING, UNSEEN
from numadam._optimizer.optimizer import Optimizer

#: A line of the history: a list of tuples would take 0.3 us a line, most of it at the end.
_pack_line = struct.Struct("=4d").pack


class PythonRun(Run):
    """One minimisation with an objective in Python."""

    def __init__(
        self,
        objective: Objective,
        optimizer: Optimizer,
        stop_tests: Any,
        observers: Observers,
        task: Task,
    ) -> None:
        super().__init__(optimizer, observers, task, getattr(optimizer, "eps", 0.0))
        self._memory = Memory()
        self._objective, self._stop_tests, tests = objective, stop_tests, task.tolerances
        self._check = check_interval(task.check_every, self._backend.is_host)
        self._wants_f = observers.wants_f or tests.ftol > 0.0 or task.track_best is True
        #: whether the gradient of the last iterate would be for nobody
        self._unseen = objective.apart and not (tests.any or observers.wants_gradient)
        self._keeps_x = tests.xtol > 0.0
        if isinstance(self._settings.lr, float):
            self._memory.lr = self._settings.lr
        # f is compared where it is known
        self._tracks = task.track_best is not False
        #: of each iteration to keep four numbers: nit, f, gradient, lr
        self._table = bytearray()
        #: evaluations before x, where that at x has raised
        self._counted: tuple[int, int] | None = None
        self._has_tested = False
        self._start(objective.value)

    @property
    def _tested(self) -> bool:
        return self._has_tested and self._counted is None

    @property
    def _iterate(self) -> tuple[float | None, float, float]:
        memory = self._memory
        return memory.f, memory.grad_norm, memory.lr

    @property
    def _evaluations(self) -> tuple[int, int]:
        return self._objective.nfev, self._objective.njev

    @property
    def _firsts(self) -> Sequence[Any]:
        firsts: Sequence[Any] = self._stop_tests.firsts
        return firsts

    @property
    def _lines(self) -> np.ndarray:
        return np.frombuffer(bytes(self._table)).reshape(-1, 4)

    def _advance(self) -> Iterator[tuple[int, int]]:
        """Step, evaluate and test, to an iterate for the observers or the file, or the end.

        One long function with locals: a call for each part would take 1 us of an iteration.
        """
        memory, objective, tree, settings = (
            self._memory, self._objective, self._tree, self._settings,
        )  # fmt: skip
        tests, file, lines, observed = (
            self._stop_tests, self._file, self._table, self._observers.active,
        )  # fmt: skip
        evaluate, test, backend = objective.evaluate, tests.test, self._backend
        code: int
        nan, isfinite = math.nan, math.isfinite
        tracks, sizes = self._tracks, tests.sizes
        lr, one, scheduled = settings.lr, tree.is_leaf, bool(settings.schedules)
        step, step_one = backend.step, backend.step_one
        begin, check, every, k = self._begin, self._check, self._task.every, backend.t
        end, changes = max(begin + self._task.maxiter, k), callable(lr)
        if changes and math.isnan(memory.lr):  # at x0: that of the first step
            memory.lr = LR.check(lr(k))
        g = memory.gradient
        grads = () if g is None else tree.flatten(g, "jac")
        while True:
            if g is not None:
                if self._keeps_x and ((k + 1 - begin) % check == 0 or k + 1 == end):
                    tests.keep_x()
                if changes:
                    memory.lr = LR.check(lr(k))
                if scheduled:
                    settings.refresh(k)
                memory.f = memory.gradient = g = None
                memory.grad_norm = nan
                # not optimizer.step, 0.4 us more: no other thread has this optimiser
                if one:
                    step_one(grads[0], memory.lr)
                else:
                    step(grads, memory.lr)
                k += 1
            last = k == end
            tested = check == 1 or last or (k - begin) % check == 0
            counted = objective.nfev, objective.njev
            try:
                if last and self._unseen:
                    f = objective.value()
                else:
                    f, g = evaluate(self._wants_f and tested)
            except BaseException:
                self._counted = counted
                raise
            memory.f, memory.gradient = f, g
            if g is not None:
                grads = (g,) if one else tree.flatten(g, "jac")
            if not tested:
                continue
            if f is None and last:
                f = objective.value()
            if f is not None:
                memory.f = f = float(f)
            if g is not None:
                code = test(grads, f or 0.0, k <= check)
                memory.grad_norm = sizes[0]
            else:  # of the last iterate, whose gradient is for nobody
                code = RUNNING if isfinite(f) else BAD_F
            if last and code == RUNNING:
                code = MAXITER
            if observed:
                code = self._notify(k, code)
                f = memory.f
            if tracks and f is not None and f < memory.lowest and isfinite(f):
                self._keep_best(f)
            if every and (code != RUNNING or (k - begin) % every == 0):
                lines += _pack_line(k, nan if f is None else f, memory.grad_norm, memory.lr)
            if code != RUNNING or (file is not None and file.due(k - begin)):
                self._has_tested = True
                yield k - begin, code

    def _ask_again(self) -> int:
        code = super()._ask_again()
        self._memory.f = self._observers.f
        return code

    def _notify(self, nit: int, code: int) -> int:
        memory, observers = self._memory, self._observers
        try:
            code = super()._notify(nit, code)
        finally:
            memory.f = observers.f  # known if somebody has read it
        if code in (RUNNING, MAXITER) and memory.f is not None and not math.isfinite(memory.f):
            code = BAD_F
        return code

    def _keep_best(self, f: float) -> None:
        """Keep the last iterate, where the objective is f, as the best one."""
        memory, g = self._memory, self._memory.gradient
        best_g = memory.best_gradient
        if g is not None and best_g is not None and self._tree.is_leaf:
            memory.best_x[...] = self._x
            best_g[...] = g
        else:
            memory.best_x, memory.best_gradient = self._copy(), copy_tree(g)
        memory.lowest, memory.best_grad_norm = f, memory.grad_norm

    def _complete(self, code: int) -> int:
        if self._memory.f is None:
            self._memory.f = float(self._objective.value())
            return code if math.isfinite(self._memory.f) else BAD_F
        return code

    def _confirm(self, code: int) -> int:
        f, firsts, gtol = self._memory.f, self._firsts, self._task.tolerances.gtol
        if code != GTOL or f is None:
            return code
        return code if self._objective.is_at_rest(f, firsts, gtol) else UNSEEN

    def _is_whole(self) -> bool:
        return self._counted is not None

    def _remember(self) -> Memory:
        memory, tests = self._memory, self._stop_tests
        memory.first_grad_norm, memory.f_before, _ = tests.state
        memory.before = () if self._counted is None else tests.before
        if memory.f is not None:
            f = memory.f = float(memory.f)
            if self._tracks and f < memory.lowest and math.isfinite(f):
                self._keep_best(f)  # the last iterate may not have been compared yet
        return memory

    def _run_state(self, code: int) -> tuple[int, dict[str, Any], dict[str, Any]]:
        done, numbers, arrays = super()._run_state(code)
        numbers["nfev"], numbers["njev"] = self._counted or self._evaluations
        _, _, numbers["later"] = self._stop_tests.state
        return done, numbers, arrays

    def _resume(self, saved: RunState, memory: Memory, lines: np.ndarray) -> None:
        objective, number = self._objective, saved.number
        self._memory, self._has_tested = memory, number("tested")
        objective.nfev, objective.njev = number("nfev"), number("njev")
        self._stop_tests.restore(
            memory.first_grad_norm, memory.f_before, number("later"), memory.before
        )
        if memory.gradient is None:  # this iterate comes again
            lines = lines[lines[:, 0] < self._backend.t]
        self._table += lines.tobytes()

    def _evaluate_at(self, leaves: Sequence[Any]) -> tuple[float, Sequence[Any]]:
        objective, params, jac = self._objective, self._backend.params, self._task.jac
        kept, counted = [leaf.copy() for leaf in params], self._evaluations
        try:
            for own, leaf in zip(params, leaves, strict=True):
                own[...] = leaf
            if jac is not True and not callable(jac):
                return float(objective.value()), ()
            f, g = objective.evaluate(True)
            return float(f), self._tree.flatten(g, "jac")
        finally:
            for own, leaf in zip(params, kept, strict=True):
                own[...] = leaf
            objective.nfev, objective.njev = counted

    def _set_best(self, best: Best) -> None:
        memory = self._memory
        memory.best_x, memory.lowest, memory.best_gradient, memory.best_grad_norm = best

    def _state(self) -> dict[str, Any]:
        state = self._optimizer.state.copy()
        return {**state, "t": int(state["t"])}
