"""The minimisation of an objective in Python: look, step, evaluate."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from scipy.optimize import OptimizeResult

from numadam._core.rule import LR
from numadam._minimize.arguments import map_leaves
from numadam._minimize.objective import Objective
from numadam._minimize.observers import Bar
from numadam._minimize.result import attach, finish, load_state, make_history, save_state
from numadam._minimize.stopping import (
    BAD_F,
    CALLBACK,
    FTOL,
    GTOL,
    MAXITER,
    RUNNING,
    XTOL,
    Tolerances,
)
from numadam._optimizer.optimizer import Optimizer
from numadam.history.history import History


def read_callback(callback: Any) -> Callable[[OptimizeResult], Any] | None:
    """SciPy's two protocols as one: ``callback(intermediate_result)`` and ``callback(x)``."""
    if callback is None:
        return None
    if not callable(callback):
        raise TypeError(f"callback: expected a function, got {type(callback).__name__}.")
    try:
        names = set(inspect.signature(callback).parameters)
    except ValueError:  # list.append and others in C do not say
        names = set()
    if names == {"intermediate_result"}:
        return lambda result: callback(intermediate_result=result)
    return lambda result: callback(result.x)


def _asks_to_stop(returned: Any) -> bool:
    try:
        return bool(returned)
    except ValueError:
        raise TypeError(
            f"callback: returned {type(returned).__name__}, which is neither true nor false; "
            "return True to stop, or None."
        ) from None


def observing(optimizer: Optimizer) -> list[Any]:
    """The schedules that want to be told f."""
    schedules = [optimizer.lr, *(one[3] for one in optimizer._settings._schedules)]
    unlike = {id(one): one for one in schedules if hasattr(one, "observe")}
    return list(unlike.values())


class Watch:
    """Who is told of an iterate: the callback, the progress bar, schedules that observe f."""

    def __init__(self, callback: Any, progress: bool, maxiter: int, optimizer: Optimizer) -> None:
        self._callback = read_callback(callback)
        self._schedules = observing(optimizer)
        self._history = callback if isinstance(callback, History) else None
        self._bar, self._progress = Bar(progress, maxiter), progress
        self._begin, self._resumed = 0, False
        self._leaves: Sequence[Any] = ()
        self._make_x: Callable[[], Any] = list
        #: whether f is asked for at every iterate
        self.wants_f = callback is not None or progress or bool(self._schedules)
        #: whether it has to be told of every single one
        self.each = callback is not None or bool(self._schedules)
        self.message: str | None = None

    def start(
        self, nit: int, resumed: bool, leaves: Sequence[Any], make_x: Callable[[], Any]
    ) -> None:
        """The run begins at this iteration; that of a resumed one has been told of before.

        `leaves` are the arrays of x that every iterate is in, `make_x` copies x.
        """
        self._begin, self._resumed = nit, resumed
        self._leaves, self._make_x = leaves, make_x

    def gap(self, done: int, check: int | None) -> int:
        """Iterations until somebody has to be told; `check` is what the user said."""
        if check is not None:
            return check - done % check
        if self._history is None or self._schedules:
            return 1
        return self._history.gap(self._begin + done)

    def tell(self, nit: int, f: float, largest: float, rate: float, end: bool) -> int:
        """Tell them; `CALLBACK` where the callback asks to stop."""
        if nit > self._begin or not self._resumed:
            for schedule in self._schedules:
                schedule.observe(f)
        if self._progress:
            self._bar.tell(nit - self._begin, f"f={f:.6g}, |g|={largest:.2g}")
        if self._history is not None:
            if end or self._history.wants(nit):
                self._history.see(nit, f, largest, rate, self._leaves, end)
            return RUNNING
        if self._callback is None or nit == self._begin:
            return RUNNING
        result = OptimizeResult(x=self._make_x(), fun=f, nit=nit, grad_norm=largest, lr=rate)
        try:
            if _asks_to_stop(self._callback(result)):
                self.message = "`callback` returned a true value."
                return CALLBACK
        except StopIteration:
            self.message = "`callback` raised `StopIteration`."
            return CALLBACK
        return RUNNING

    def close(self, code: int) -> None:
        """Take the bar down at the end of a run."""
        self._bar.close(whole=code in (GTOL, FTOL, XTOL, MAXITER, CALLBACK))


class Run:
    """One minimisation with an objective in Python."""

    def __init__(
        self,
        objective: Objective,
        optimizer: Optimizer,
        glance: Any,
        watch: Watch,
        tolerances: Tolerances,
        *,
        maxiter: int,
        check_every: int,
        track_best: bool | None,
        every: int,
        state: Any,
    ) -> None:
        self._objective, self._optimizer, self._glance = objective, optimizer, glance
        self._watch, self._maxiter = watch, maxiter
        self._check, self._every = check_every, every
        self._wants_f = watch.wants_f or tolerances.ftol > 0.0 or track_best is True
        self._tracks = (objective.together or self._wants_f) if track_best is None else track_best
        self._best: tuple[Any, float] | None = None
        if state is not None:
            best = load_state(optimizer, state)
            self._best = best if self._tracks else None
        self._begin = optimizer.t
        watch.start(self._begin, state is not None, optimizer._engine.params, self._copy)
        self._f: Any = None
        self._g: Any = None
        self._f_before = 0.0
        self._lines: list[tuple[float, float, float, float]] = []
        self._rate = 0.0

    def go(self) -> OptimizeResult:
        """Run until a test holds; an exception carries what there is."""
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
            self._watch.close(code)
        return self._result(code)

    def _loop(self) -> int:
        optimizer, glance = self._optimizer, self._glance
        engine, settings, tree = optimizer._engine, optimizer._settings, optimizer._tree
        evaluate, one, scheduled = self._objective.evaluate, tree.is_leaf, settings.has_schedules
        lr, k, begin, check = optimizer.lr, optimizer.t, optimizer.t, self._check
        end = k + self._maxiter
        self._rate = LR.check(lr(k)) if callable(lr) else _plain(lr)
        while True:
            looking = (k - begin) % check == 0 or k == end
            self._f, self._g = evaluate(self._wants_f and looking)
            grads = (self._g,) if one else tree.flatten(self._g, "jac")
            if looking:
                code = self._look(grads, k, k == end)
                if code != RUNNING:
                    return code
            if k == end:
                return MAXITER
            if (k + 1 - begin) % check == 0 or k + 1 == end:
                glance.note()
            if callable(lr):
                self._rate = LR.check(lr(k))
            if scheduled:
                settings.refresh(k)
            self._f = self._g = None
            # not optimizer.step: nobody else has this optimiser (0.4 us)
            engine.step(grads, self._rate)
            k += 1

    def _look(self, grads: Any, k: int, last: bool) -> int:
        """Look at an iterate, tell of it, and say whether to go on."""
        later = k > self._begin
        if last and self._f is None:
            self._f = self._objective.value()
        f = 0.0 if self._f is None else float(self._f)
        code: int = self._glance(grads, f, self._f_before, later)
        if self._f is not None:
            self._f = self._f_before = f
            if self._tracks and math.isfinite(f) and (self._best is None or f < self._best[1]):
                self._keep_best(f)
        if self._every and ((k - self._begin) % self._every == 0 or last or code != RUNNING):
            seen = math.nan if self._f is None else f
            self._lines.append((k, seen, self._glance.largest, self._rate))
        if self._watch.wants_f:
            end = last or code != RUNNING
            told = self._watch.tell(k, f, self._glance.largest, self._rate, end)
            code = told if told != RUNNING else code
        return code

    def _copy(self) -> Any:
        return map_leaves(lambda leaf: leaf.copy(), self._optimizer.params)

    def _keep_best(self, f: float) -> None:
        if self._best is None or not hasattr(self._best[0], "dtype"):
            self._best = (self._copy(), f)
        else:
            self._best[0][...] = self._optimizer.params
            self._best = (self._best[0], f)

    def _result(self, code: int) -> OptimizeResult:
        optimizer, objective = self._optimizer, self._objective
        f = float("nan") if self._f is None else float(self._f)
        x, best = optimizer.params, self._best
        if best is None:
            best = (self._copy(), f)
        entries = {
            "x": x,
            "fun": f,
            "jac": self._g if self._g is None else map_copy(self._g),
            "nit": optimizer.t,
            "nfev": objective.nfev,
            "njev": objective.njev,
            "x_best": best[0],
            "fun_best": best[1],
            "grad_norm": self._glance.largest,
            "history": make_history(self._lines),
            "state": save_state(optimizer, self._best and (map_copy(best[0]), best[1])),
        }
        if "average" in optimizer._engine.state:
            entries["averaged"] = optimizer.averaged
        return finish(code, self._watch.message, **entries)


def map_copy(tree: Any) -> Any:
    """The same containers with a copy of each array."""
    return map_leaves(lambda leaf: leaf.copy(), tree)


def _plain(lr: Any) -> float:
    return lr if isinstance(lr, float) else float("nan")
