"""Many problems under one objective in Python, which is called on all rows at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_cupy_array
from numba import boolean, float64, int64

from numadam._core import plan as pl
from numadam._jit.loops import compiled_loop
from numadam._minimize.objective import refuse_uncompiled
from numadam._minimize.observers import Bar
from numadam._minimize.result import ManyResult, attach
from numadam._minimize.stopping import RUNNING, Tolerances, verdict

_ROW = float64[::1]
_SIGNATURE = int64(_ROW, _ROW, _ROW, _ROW, _ROW, boolean, float64, float64, float64, int64[::1])


def _judge(  # type: ignore[no-untyped-def]  # Numba types it
    f, f_before, largest, way, size, later, gtol, ftol, xtol, codes
):
    """The test that holds in each row which still runs; how many go on."""
    live = 0
    for row in range(len(codes)):
        if codes[row] == RUNNING:
            codes[row] = verdict(
                f[row],
                f_before[row],
                largest[row],
                way[row],
                size[row],
                later,
                (gtol, ftol, xtol),
            )
            live += codes[row] == RUNNING
    return live


def _host(x: Any) -> np.ndarray:
    return np.array(x.get() if is_cupy_array(x) else x, dtype=np.float64)  # fun may reuse its own


class Rows:
    """One minimisation of all rows, with rows that have stopped held where they are."""

    def __init__(
        self,
        fun: Any,
        x: Any,
        args: tuple[Any, ...],
        jac: Any,
        optimizer: Any,
        *,
        tolerances: Tolerances,
        maxiter: int,
        progress: bool,
        check_every: int | None,
    ) -> None:
        refuse_uncompiled(fun, args, 0)
        if optimizer._options["ema"] is not None:
            raise ValueError("ema: the average of a row that has stopped would go on; compile fun.")
        if jac is not True and not callable(jac):
            raise ValueError(
                "jac: an objective in Python needs True (fun returns f and gradient) or a "
                f"function, got {jac!r}."
            )
        if optimizer._settings.plan.norm:
            raise ValueError(
                "clip_norm: would mix the problems of an objective in Python; compile fun with "
                "Numba, or clip_value."
            )
        self._fun, self._jac, self._args, self._x = fun, jac, args, x
        self._optimizer, self._tolerances, self._maxiter = optimizer, tolerances, maxiter
        self._check = check_every or (20 if is_cupy_array(x) else 1)
        self._progress, self._xp = progress, array_namespace(x)
        self._codes = np.zeros(len(x), np.int64)
        self._nit = np.zeros(len(x), np.int64)
        loops = (_judge, _judge)
        self._judge = compiled_loop("rows", lambda: loops, _SIGNATURE).serial
        zeros = np.zeros(len(x))
        self._f_before, self._far = zeros, (zeros, zeros)
        self._f, self._g, self._largest = np.full(len(x), np.nan), self._xp.zeros_like(x), zeros
        self._evaluations = 0
        self._box = self._read_box()

    def _read_box(self) -> Any:
        settings = self._optimizer._settings
        if settings.plan.bounds == "scalar":
            return settings.box(settings.group_of_leaf[0])
        if settings.plan.bounds == "array":
            return settings.per_element[pl.LOW][0], settings.per_element[pl.HIGH][0]
        return None

    def _evaluate(self) -> None:
        given = self._fun(self._x.copy(), *self._args)
        self._evaluations += 1
        if self._jac is True:
            try:
                f, g = given
            except (TypeError, ValueError):
                raise TypeError(
                    "fun: with jac=True it has to return (f, gradient), got "
                    f"{type(given).__name__}."
                ) from None
        else:
            f, g = given, self._jac(self._x.copy(), *self._args)
        for name, array, shape in (("f", f, self._x.shape[:1]), ("gradient", g, self._x.shape)):
            if getattr(array, "shape", None) != shape:
                raise ValueError(
                    f"fun: {name} has to be an array of shape {shape}, got "
                    f"{getattr(array, 'shape', type(array).__name__)}."
                )
            if is_cupy_array(array) != is_cupy_array(self._x):
                raise TypeError(f"fun: {name} and x0 have to be arrays of one library.")
        if g.dtype.kind == "c" and self._x.dtype.kind != "c":
            raise TypeError(f"fun: its gradient has dtype {g.dtype}, expected {self._x.dtype}.")
        self._f, self._g = f, g.astype(self._x.dtype, copy=False)

    def _top(self, x: Any) -> Any:
        """The largest absolute element of each row."""
        if x.dtype.kind == "c":
            return self._xp.maximum(self._top(x.real), self._top(x.imag))
        size = x[0].size if len(x) else 0
        if size == 0:
            return self._xp.zeros(len(x))
        return self._xp.abs(x).reshape(len(x), size).max(axis=1)

    def _look(self, done: int, before: Any) -> int:
        """Judge the rows; how many go on."""
        xp, x, d = self._xp, self._x, self._g
        if self._box is not None:
            low, high = (xp.asarray(end, dtype=x.dtype) for end in self._box)
            d = xp.where(d > x - low, x - low, d)
            d = xp.where(d < x - high, x - high, d)
        self._largest, f = _host(self._top(d)), _host(self._f)
        if before is not None:
            self._far = _host(self._top(x - before)), _host(self._top(x))
        running = self._codes == RUNNING
        tests = tuple(vars(self._tolerances).values())
        live = self._judge(
            f, self._f_before, self._largest, *self._far, done > 0, *tests, self._codes
        )
        self._f_before = f
        self._nit[running] = done
        return int(live)

    def go(self) -> ManyResult:
        """Run until every row has stopped."""
        bar, whole = Bar(self._progress, self._maxiter), False
        try:
            self._loop(bar)
            whole = True
        except BaseException as error:
            attach(error, self._result(interrupted=True))
            raise
        finally:
            bar.close(whole)
        return self._result()

    def _loop(self, bar: Bar) -> None:
        done, x = 0, self._x
        held: Any = None
        stopped = before = None
        while True:
            self._evaluate()
            if done % self._check == 0 or done == self._maxiter:
                live = self._look(done, before)
                if held is None or live < len(self._codes):
                    held, stopped = x.copy(), self._xp.asarray(self._codes != RUNNING)
                bar.tell(done, f"{live} running")
                if live == 0:
                    return
            if done == self._maxiter:
                return
            before = x.copy() if self._tolerances.xtol > 0.0 else None
            self._optimizer.step(self._g)
            self._nit[self._codes == RUNNING] = done + 1
            if live < len(self._codes):  # rows that have stopped stay
                x[stopped] = held[stopped]
            done += 1

    def _result(self, interrupted: bool = False) -> ManyResult:
        from numadam._minimize.result import make_result

        problems = len(self._codes)
        return make_result(
            self._codes,
            self._nit,
            self._evaluations * problems,
            interrupted,
            x=self._x,
            fun=self._f.copy(),
            jac=self._g.copy(),
            grad_norm=self._largest,
        )
