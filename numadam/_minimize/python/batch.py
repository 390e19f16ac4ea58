"""Many problems under one objective in Python, which is called on all rows at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numba import boolean, float64, int64

from numadam._arrays.interop import is_cupy, to_host
from numadam._core.parts import parts_of
from numadam._jit.loops import compiled_loop
from numadam._minimize.arguments import check_interval
from numadam._minimize.objective import refuse_uncompiled, split_pair
from numadam._minimize.observers import refuse_observers
from numadam._minimize.result import ManyResult, make_result
from numadam._minimize.stopping import RUNNING, check_convergence
from numadam._minimize.tasks import ManyTask

_COLUMN = float64[::1]
_TESTS = int64(
    _COLUMN, _COLUMN, _COLUMN, _COLUMN, _COLUMN, boolean, float64, float64, float64, int64[::1]
)


def _test_problems(  # type: ignore[no-untyped-def]  # Numba types it
    f, f_before, largest, moved, size, later, gtol, ftol, xtol, codes
):
    """Write into `codes` the test that holds in each running problem; how many go on."""
    live = 0
    for row in range(len(codes)):
        if codes[row] == RUNNING:
            codes[row] = check_convergence(
                f[row],
                f_before[row],
                largest[row],
                moved[row],
                size[row],
                later,
                (gtol, ftol, xtol),
            )
            live += codes[row] == RUNNING
    return live


def _host(x: Any) -> np.ndarray:
    return np.array(to_host(x), dtype=np.float64)  # a copy: fun may write to its own again


class PythonBatch:
    """All problems in one array, one a row; a row that has stopped stays as it is."""

    def __init__(self, task: ManyTask) -> None:
        x, jac = task.x, task.jac
        lr = task.lr if task.rates is None else task.rates.reshape(-1, *[1] * (x.ndim - 1))
        self._optimizer = refuse_observers(task.rule(x, lr, **task.options))
        refuse_uncompiled(task.fun, task.args, 0)
        _, settings, backend, _ = parts_of(self._optimizer)
        if settings.options["ema"] is not None:
            raise ValueError("ema: the average of a row that has stopped would go on; compile fun.")
        if jac is not True and not callable(jac):
            raise ValueError(
                "jac: an objective in Python needs True (fun returns f and gradient) or a "
                f"function, got {jac!r}."
            )
        if settings.plan.norm:
            raise ValueError(
                "clip_norm: would mix the problems of an objective in Python; compile fun with "
                "Numba, or clip_value."
            )
        self._task, self._x, self._xp = task, x, array_namespace(x)
        self._check = check_interval(task.check_every, backend.is_host)
        self._on_host = backend.is_host
        boxes = settings.leaf_boxes()
        self._box = None if boxes is None else boxes[0]
        problems = len(x)
        self._codes, self._nit = np.zeros((2, problems), np.int64)
        loops = (_test_problems, _test_problems)
        self._test_problems = compiled_loop("problems", lambda: loops, _TESTS).serial
        zeros = np.zeros(problems)
        self._f_before, self._moves = zeros, (zeros, zeros)
        self._f, self._g, self._largest = np.full(problems, np.nan), self._xp.zeros_like(x), zeros
        self._best, self._f_best = x.copy(), np.full(problems, np.inf)
        self._x_before: Any = None
        self._stopped: Any = None
        self._evaluations, self.done, self.live = 0, 0, problems

    def advance(self, most: int) -> None:
        """Test x0 at the first call; later take steps until the next test, at most `most`."""
        if self._stopped is None:
            self._evaluate()
            self._test()
            return
        x = self._x
        for _ in range(min(most, self._check - self.done % self._check)):
            self._x_before = x.copy() if self._task.tolerances.xtol > 0.0 else None
            self._optimizer.step(self._g)
            self._nit[self._codes == RUNNING] = self.done + 1
            if self.live < len(self._codes):
                x[self._stopped] = self._kept[self._stopped]
            self.done += 1
            self._evaluate()
        self._test()

    def _evaluate(self) -> None:
        task, x = self._task, self._x
        given = task.fun(x.copy(), *task.args)
        self._evaluations += 1
        if task.jac is True:
            f, g = split_pair(given)
        else:
            f, g = given, task.jac(x.copy(), *task.args)
        for name, array, shape in (("f", f, x.shape[:1]), ("gradient", g, x.shape)):
            if getattr(array, "shape", None) != shape:
                raise ValueError(
                    f"fun: {name} has to be an array of shape {shape}, got "
                    f"{getattr(array, 'shape', type(array).__name__)}."
                )
            if is_cupy(array) == self._on_host:
                raise TypeError(f"fun: {name} and x0 have to be arrays of one library.")
        if g.dtype.kind == "c" and x.dtype.kind != "c":
            raise TypeError(f"fun: its gradient has dtype {g.dtype}, expected {x.dtype}.")
        self._f, self._g = f, g.astype(x.dtype, copy=False)

    def _top(self, x: Any) -> Any:
        """The largest absolute element of each row."""
        if x.dtype.kind == "c":
            return self._xp.maximum(self._top(x.real), self._top(x.imag))
        size = x[0].size if len(x) else 0
        if size == 0:
            return self._xp.zeros(len(x))
        return self._xp.abs(x).reshape(len(x), size).max(axis=1)

    def _test(self) -> None:
        """Run the stop tests of all rows."""
        xp, x, d = self._xp, self._x, self._g
        if self._box is not None:
            low, high = (xp.asarray(end, dtype=x.dtype) for end in self._box)
            d = xp.where(d > x - low, x - low, d)
            d = xp.where(d < x - high, x - high, d)
        self._largest, f = _host(self._top(d)), _host(self._f)
        if self._x_before is not None:
            self._moves = _host(self._top(x - self._x_before)), _host(self._top(x))
        running = self._codes == RUNNING
        self._keep_best(running & np.isfinite(f) & (f < self._f_best), f)
        tolerances = self._task.tolerances.limits
        self.live = int(
            self._test_problems(
                f,
                self._f_before,
                self._largest,
                *self._moves,
                self.done > 0,
                *tolerances,
                self._codes,
            )
        )
        self._f_before = f
        self._nit[running] = self.done
        if self._stopped is None or self.live < len(self._codes):
            self._kept, self._stopped = x.copy(), self._xp.asarray(self._codes != RUNNING)

    def _keep_best(self, better: np.ndarray, f: np.ndarray) -> None:
        if better.any():
            self._f_best[better] = f[better]
            rows = self._xp.asarray(better)
            self._best[rows] = self._x[rows]

    def result(self, interrupted: bool) -> ManyResult:
        """The result of all problems as they are now."""
        # where f was never finite, the best point is the last one
        self._keep_best(~np.isfinite(self._f_best), _host(self._f))
        return make_result(
            self._codes,
            self._nit,
            self._evaluations * len(self._codes),
            interrupted,
            x=self._x,
            fun=self._f.copy(),
            jac=self._g.copy(),
            x_best=self._best,
            fun_best=self._f_best,
            grad_norm=self._largest,
        )
