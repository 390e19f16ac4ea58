"""Minimisation of one objective in Python: evaluate, run the stop tests, step.

Above 300 lines, for all of it is one class over one state.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from numadam._core.hyper import LR
from numadam._core.parts import parts_of
from numadam._minimize.arguments import check_interval, copy_tree
from numadam._minimize.checkpoint import (
    Best,
    RunState,
    Task,
    by_name,
    keys_of,
    load_state,
    load_state_arrays,
    save_state,
    state_arrays,
)
from numadam._minimize.objective import Objective
from numadam._minimize.observers import Observers
from numadam._minimize.result import Result, attach, finish, make_history
from numadam._minimize.stopping import BAD_F, CALLBACK, MAXITER, RUNNING, stop_message
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
        saved: RunState | None = None,
    ) -> None:
        self._objective, self._optimizer, self._stop_tests = objective, optimizer, stop_tests
        self._observers, self._maxiter, self._every = observers, task.maxiter, task.every
        self._tree, self._settings, self._backend, _ = parts_of(optimizer)
        self._check = check_interval(task.check_every, self._backend.is_host)
        self._tolerances = tests = task.tolerances
        self._wants_f = observers.wants_f or tests.ftol > 0.0 or task.track_best is True
        #: whether the gradient of the last iterate would be for nobody
        self._unseen = objective.apart and not (tests.any or observers.wants_gradient)
        self._x, self._keeps_x = optimizer.params, tests.xtol > 0.0
        # f is compared where it is known: inf as long as it never was
        self._tracks = task.track_best is not False
        one = self._tracks and self._tree.is_leaf
        #: the best iterate: memory for it, as long as `_lowest` is inf
        self._best_x: Any = self._x.copy() if one else None
        self._best_g: Any = self._x.copy() if one else None
        self._lowest, self._best_size = math.inf, math.nan
        resumed = task.state is not None
        if resumed:
            best = load_state(optimizer, task.state)
            if best is not None and self._tracks:
                self._best_x, self._lowest, self._best_g, self._best_size = best
        self._begin, self._resumed = optimizer.t, resumed
        self._f: Any = None
        self._g: Any = None
        self._size = math.nan  # norm of the projected gradient at x
        self._rate: float | None = None  # lr of the step to x
        #: of each iteration to keep four numbers: nit, f, gradient, lr
        self._lines = bytearray()
        self._code, self._file = RUNNING, task.checkpoint
        #: evaluations before x, where that at x has raised
        self._counted: tuple[int, int] | None = None
        self._tested = False
        last = self._begin
        if saved is not None:
            last = self._restore(saved)
        known = self._resumed or last > self._begin
        leaves, value = self._backend.params, objective.value
        observers.start(last, known, leaves, self._copy, value, self._begin)

    def go(self) -> Result:
        """Run until a stop test holds; an exception carries the result so far."""
        code = before = self._code
        try:
            if code == CALLBACK:
                code = self._ask_again()
            goes_on = code in (RUNNING, MAXITER) and not self._is_over()
            if goes_on:
                code = self._loop()
            elif code == RUNNING:
                code = MAXITER
            if self._f is None:
                self._f = float(self._objective.value())
                code = code if math.isfinite(self._f) else BAD_F
            if goes_on or code != before:
                self._save(code)
        except BaseException as error:
            attach(error, self._result(RUNNING))
            if self._file is not None and self._counted is not None:
                self._file.write_after(error, *self._run_state(RUNNING))
            raise
        finally:
            self._observers.close(code)
        return self._result(code)

    def _is_over(self) -> bool:
        """Whether the run of a file has all iterations that are asked for."""
        return self._tested and self._optimizer.t >= self._begin + self._maxiter

    def _ask_again(self) -> int:
        """Ask the callback that has ended the run of a file whether it still does."""
        observers = self._observers
        observers.f = self._f
        code = observers.ask(self._optimizer.t, self._size, self._rate or math.nan)
        self._f = observers.f
        return code

    def _loop(self) -> int:
        """Evaluate, test, step; returns the test that holds.

        One long function with locals: methods and attributes would take 1 us of an iteration.
        """
        tests, observers, file = self._stop_tests, self._observers, self._file
        objective, tree, settings = self._objective, self._tree, self._settings
        evaluate, test, backend = objective.evaluate, tests.test, self._backend
        step, step_one = backend.step, backend.step_one
        wants_f, tracks, lowest, every = self._wants_f, self._tracks, self._lowest, self._every
        lr, lines, one = settings.lr, self._lines, tree.is_leaf
        changes, scheduled, observed = callable(lr), bool(settings.schedules), observers.active
        begin, check = self._begin, self._check
        counted = objective.nfev, objective.njev
        x, best_x, best_g = self._x, self._best_x, self._best_g
        in_place = one and best_g is not None
        grads: Any = None
        k = self._optimizer.t
        end = max(begin + self._maxiter, k)
        rate = self._rate
        if rate is None:
            rate = LR.check(lr(k)) if changes else _plain(lr)
        f: Any = None
        g: Any = None
        size, best_size, nan = math.nan, self._best_size, math.nan
        testing = False
        if self._g is not None:  # the iterate of a file, which has been tested
            f, g, size, self._g = self._f, self._g, self._size, None
            grads = (g,) if one else tree.flatten(g, "jac")
        try:
            while True:
                if grads is not None:
                    if file is not None:
                        counted = objective.nfev, objective.njev
                        if testing and file.due(k - begin):
                            self._f, self._g, self._size, self._rate = f, g, size, rate
                            self._best_x, self._best_g = best_x, best_g
                            self._lowest, self._best_size = lowest, best_size
                            self._save(RUNNING)
                    if self._keeps_x and ((k + 1 - begin) % check == 0 or k + 1 == end):
                        tests.keep_x()
                    if changes:
                        rate = LR.check(lr(k))
                    if scheduled:
                        settings.refresh(k)
                    f = g = None
                    size = nan
                    # not optimizer.step, 0.4 us more: no other thread has this optimiser
                    if one:
                        step_one(grads[0], rate)
                    else:
                        step(grads, rate)
                    k += 1
                last = k == end
                testing = check == 1 or last or (k - begin) % check == 0
                try:
                    if last and self._unseen:
                        f = float(objective.value())
                    else:
                        f, g = evaluate(wants_f and testing)
                except BaseException:
                    self._counted = counted
                    raise
                if g is None:
                    code = RUNNING if math.isfinite(f) else BAD_F
                else:
                    grads = (g,) if one else tree.flatten(g, "jac")
                    if testing:
                        if f is None and last:
                            f = objective.value()
                        if f is not None:
                            f = float(f)
                        code = test(grads, f or 0.0)
                        size = tests.size
                if testing:
                    end_of_run = last or code != RUNNING
                    if observed:
                        try:
                            asked = observers.notify(k, f, size, rate, end_of_run)
                        finally:
                            f = observers.f  # known if somebody has read it
                        code = asked if asked != RUNNING else code
                        if f is not None and code == RUNNING and not math.isfinite(f):
                            code = BAD_F
                        end_of_run = last or code != RUNNING
                    if tracks and f is not None and f < lowest and math.isfinite(f):
                        if in_place and g is not None:
                            best_x[...] = x
                            best_g[...] = g
                        else:
                            best_x, best_g = self._copy(), _copied(g)
                        lowest, best_size = f, size
                    if every and (end_of_run or (k - begin) % every == 0):
                        lines += _pack_line(k, nan if f is None else f, size, rate)
                    if code != RUNNING:
                        return code
                if last:
                    return MAXITER
        finally:
            self._f, self._g, self._size, self._rate = f, g, size, rate
            self._best_x, self._best_g = best_x, best_g
            self._lowest, self._best_size = lowest, best_size

    def _save(self, code: int) -> None:
        if self._file is not None:
            self._file.write(*self._run_state(code))

    def _run_state(self, code: int) -> tuple[int, dict[str, Any], dict[str, Any]]:
        """Iterations done, numbers and arrays of the run at an iterate that has been tested.

        Or of one that is not evaluated, where that has raised.
        """
        objective, tests, counted = self._objective, self._stop_tests, self._counted
        keys = keys_of(self._x, self._tree)
        f = None if self._f is None else float(self._f)
        if f is not None:
            self._found(f)
        nfev, njev = counted or (objective.nfev, objective.njev)
        numbers = {
            "begin": self._begin,
            "resumed": self._resumed,
            "code": code,
            "tested": counted is None,
            "f": f,
            "grad_norm": self._size,
            "lr": self._rate,
            "lowest": self._lowest,
            "best_grad_norm": self._best_size,
            "nfev": nfev,
            "njev": njev,
            "first_grad_norm": tests.first,
            "f_before": tests.f_before,
            "later": tests.later,
        }
        arrays = {
            **by_name("x", self._backend.params, keys),
            **state_arrays(self._optimizer, keys),
            "history": np.frombuffer(self._lines).reshape(-1, 4).copy(),
        }
        trees = {"gradient": self._g}
        if self._lowest < math.inf:
            trees |= {"best_x": self._best_x, "best_gradient": self._best_g}
        for name, tree in trees.items():
            if tree is not None:
                arrays |= by_name(name, self._tree.flatten(tree, name), keys)
        if counted is not None and tests.before:
            arrays |= by_name("before", tests.before, keys)
        return self._optimizer.t - self._begin, numbers, arrays

    def _restore(self, saved: RunState) -> int:
        """Go on from a file; returns the last iteration that the observers have seen."""
        params, objective, number = self._backend.params, self._objective, saved.number
        keys = keys_of(self._x, self._tree)
        self._begin, self._resumed, self._code = map(number, ("begin", "resumed", "code"))
        self._tested, self._f, self._size = map(number, ("tested", "f", "grad_norm"))
        self._rate, self._lowest = number("lr"), number("lowest")
        self._best_size, objective.nfev = number("best_grad_norm"), number("nfev")
        objective.njev, first = number("njev"), number("first_grad_norm")
        trees = {
            name: self._tree.unflatten(saved.leaves(name, params, keys))
            for name in ("gradient", "best_x", "best_gradient")
            if saved.has(name, keys)
        }
        self._g = trees.get("gradient")
        if self._lowest < math.inf:
            self._best_x, self._best_g = trees.get("best_x"), trees.get("best_gradient")
        before = saved.leaves("before", params, keys) if saved.has("before", keys) else []
        self._stop_tests.restore(first, number("f_before"), number("later"), before)
        x = saved.leaves("x", params, keys)
        load_state_arrays(self._optimizer, saved, keys)
        for leaf, value in zip(params, x, strict=True):
            leaf[...] = value
        t, lines = self._optimizer.t, saved.table("history", 4)
        if self._g is None:  # this iterate comes again
            lines = lines[lines[:, 0] < t]
        self._lines += lines.tobytes()
        return t if self._tested else max(t - 1, self._begin)

    def _copy(self) -> Any:
        return copy_tree(self._x)

    def _found(self, f: float) -> Best | None:
        """The best iterate, of which `f` at the last one may not have been compared yet."""
        if self._tracks and math.isfinite(f) and f < self._lowest:
            self._best_x, self._best_g = self._copy(), _copied(self._g)
            self._lowest, self._best_size = f, self._size
        if self._lowest == math.inf:
            return None
        return Best(self._best_x, self._lowest, self._best_g, self._best_size)

    def _result(self, code: int) -> Result:
        optimizer, objective, first = self._optimizer, self._objective, self._stop_tests.first
        f = math.nan if self._f is None else float(self._f)
        found = self._found(f)
        best = found or Best(self._copy(), f, _copied(self._g), self._size)
        saved = found and Best(copy_tree(best.x), best.fun, _copied(best.jac), best.grad_norm)
        state = optimizer.state.copy()
        state["t"] = int(state["t"])
        norm = self._tolerances.norm
        entries = {
            "x": best.x,
            "fun": best.fun,
            "jac": best.jac,
            "nit": optimizer.t,
            "nfev": objective.nfev,
            "njev": objective.njev,
            "x_last": self._x,
            "fun_last": f,
            "grad_norm": best.grad_norm,
            "history": make_history(np.frombuffer(self._lines)),
            "state": save_state(state, self._copy(), saved, first, norm),
        }
        if "average" in self._backend.state:
            entries["averaged"] = optimizer.averaged
        message = self._observers.message or stop_message(
            code,
            self._tolerances,
            self._size,
            first,
            getattr(optimizer, "eps", 0.0),
            found is not None,
        )
        return finish(code, message, **entries)


def _copied(g: Any) -> Any:
    return None if g is None else copy_tree(g)


def _plain(lr: Any) -> float:
    return lr if isinstance(lr, float) else float("nan")
