"""The minimisation of an objective in Python: look, step, evaluate."""

from __future__ import annotations

import math
from typing import Any

from scipy.optimize import OptimizeResult

from numadam._core.hyper import LR
from numadam._minimize.arguments import map_leaves
from numadam._minimize.objective import Objective
from numadam._minimize.observers import Watch
from numadam._minimize.result import attach, finish, load_state, make_history, save_state
from numadam._minimize.stopping import (
    BAD_F,
    MAXITER,
    RUNNING,
    Tolerances,
)
from numadam._optimizer.optimizer import Optimizer


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
        watch.start(self._begin, state is not None, optimizer._backend.params, self._copy)
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
        backend, settings, tree = optimizer._backend, optimizer._settings, optimizer._tree
        evaluate, one, scheduled = self._objective.evaluate, tree.is_leaf, bool(settings.schedules)
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
            backend.step(grads, self._rate)
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
        if "average" in optimizer._backend.state:
            entries["averaged"] = optimizer.averaged
        return finish(code, self._watch.message, **entries)


def map_copy(tree: Any) -> Any:
    """The same containers with a copy of each array."""
    return map_leaves(lambda leaf: leaf.copy(), tree)


def _plain(lr: Any) -> float:
    return lr if isinstance(lr, float) else float("nan")
