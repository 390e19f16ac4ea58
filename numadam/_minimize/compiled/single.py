"""The minimisation of one compiled objective: a batch of one, observed between its chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from numadam._core.parts import parts_of
from numadam._minimize.compiled.records import F_BEST, LARGEST, F
from numadam._minimize.compiled.state import Batch, raise_again
from numadam._minimize.observers import Observers
from numadam._minimize.result import attach, finish, load_state, make_history, save_state
from numadam._minimize.stopping import MAXITER, RUNNING


def _with_row(saved: Any) -> Any:
    """A saved run of one problem, as one of a batch."""
    if not hasattr(saved, "items"):
        return saved
    return {key: one[None] if np.ndim(one) else one for key, one in saved.items()}


def _without_row(saved: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `_with_row`."""
    return {key: one[0] if np.ndim(one) else one for key, one in saved.items()}


class CompiledRun:
    """One minimisation with a compiled objective."""

    def __init__(
        self,
        batch: Batch,
        observers: Observers,
        *,
        maxiter: int,
        check_every: int | None,
        state: Any,
    ) -> None:
        self._batch, self._observers, self._maxiter = batch, observers, maxiter
        self._check, self._begin = check_every, 0
        if state is not None:
            best = load_state(batch.optimizer, self._shaped(state))
            if best is not None and batch.best is not None:
                batch.best[...], batch.values[F_BEST] = best
        self._begin = batch.optimizer.t
        x = batch.x[0]
        observers.start(self._begin, state is not None, (x,), x.copy)

    def _shaped(self, state: Any) -> Any:
        """The saved run for a batch of one; running products have rows of their own already."""
        products = set(self._batch.plan.products)
        if not hasattr(state, "items"):
            return state
        rows = {key: one for key, one in state.items() if key in products}
        return {**_with_row(state), **rows}

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
        batch, observers = self._batch, self._observers
        steps = 0
        while True:
            if not batch.advance(steps):
                raise_again(batch)
            if batch.live == 0:
                code = int(batch.codes[0])
            else:
                code = MAXITER if batch.done >= self._maxiter else RUNNING
            if observers.wants_f:
                f, largest = batch.values[F, 0], batch.values[LARGEST, 0]
                k = self._begin + batch.done
                told = observers.notify(
                    k, float(f), float(largest), batch.last_rate, code != RUNNING
                )
                code = told if told != RUNNING else code
            if code != RUNNING:
                return code
            steps = self._maxiter - batch.done
            if observers.each:
                steps = min(steps, observers.gap(batch.done, self._check))

    def _result(self, code: int) -> OptimizeResult:
        batch, optimizer = self._batch, self._batch.optimizer
        f, largest = (float(batch.values[row, 0]) for row in (F, LARGEST))
        x, tracked = batch.x[0], batch.best is not None
        f_best = float(batch.values[F_BEST, 0])
        best = (batch.best[0].copy(), f_best) if batch.best is not None else (x.copy(), f)
        if tracked and not np.isfinite(f_best):
            best = (x.copy(), f)
        saved = save_state(optimizer, None)
        products = {key: saved[key] for key in batch.plan.products}
        state = {**_without_row(saved), **products}
        if tracked:
            state |= {"x_best": best[0].copy(), "fun_best": best[1]}
        entries = {
            "x": x.copy(),
            "fun": f,
            "jac": batch.gradient[0].copy(),
            "nit": optimizer.t,
            "nfev": batch.done + (not batch.first),
            "njev": batch.done + (not batch.first),
            "x_best": best[0],
            "fun_best": best[1],
            "grad_norm": largest,
            "history": make_history(self._lines(f, largest)),
            "state": state,
        }
        if "average" in parts_of(optimizer).backend.state:
            entries["averaged"] = optimizer.averaged[0]
        return finish(code, self._observers.message, **entries)

    def _lines(self, f: float, largest: float) -> np.ndarray:
        """The history with the last iterate; iterations count on where a run goes on."""
        lines = self._batch.kept.copy()
        lines[:, 0] += self._begin
        last = self._begin + self._batch.done
        seen = len(lines) > 0 and lines[-1, 0] == last
        if self._batch.keeps and not seen and np.isfinite(f):
            lines = np.vstack([lines, [last, f, largest, self._batch.last_rate]])
        return lines
