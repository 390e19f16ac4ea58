"""`minimize_many` on a GPU: the last axis is that of the problems, one problem a thread."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import float64, int64
from numba.core.errors import NumbaError

from numadam._arrays.interop import to_host
from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.hyper import LR
from numadam._core.parts import parts_of
from numadam._core.plan import Plan
from numadam._core.scalars import (
    make_advance_row,
    make_fill_row,
    make_products,
    start_products,
    width_of,
)
from numadam._jit.functions import jit_once
from numadam._jit.loops import compiled_loop, in_default_mode
from numadam._minimize.batches import make_result, run_batch
from numadam._minimize.checkpoint import ManyTask, RunState
from numadam._minimize.compiled.objective import form_of
from numadam._minimize.observers import refuse_observers
from numadam._minimize.result import ManyResult
from numadam._minimize.stopping import RUNNING
from numadam._settings.bounds import Box

#: Iterations of a launch; the host waits once for each.
_STEPS = 128


def _tabulate(plan: Plan) -> Any:
    """``fill(rows, values, columns, control, q, rates, t)``: the scalars of steps, on the host."""
    name = f"{plan.name}-rows"

    def make() -> Any:
        fill_row, advance_row = make_fill_row(plan), make_advance_row(plan, jit_once)
        find_products = make_products(plan)

        def fill(  # type: ignore[no-untyped-def]  # Numba types it
            rows, values, columns, control, q, rates, t
        ):
            for it in range(len(rates)):
                for c in range(len(columns)):
                    control[columns[c]] = values[it, c]
                find_products(q, control, float(t + 1 + it))
                fill_row(rows[it], control, q, rates[it], float(t + 1 + it), 1.0)
                advance_row(q)
            return 0

        exact = in_default_mode(jit_once(fill))

        def exact_fill(  # type: ignore[no-untyped-def]  # Numba types it
            rows, values, columns, control, q, rates, t
        ):
            return exact(rows, values, columns, control, q, rates, t)

        exact_fill.__qualname__ = f"{name}.fill"
        return exact_fill, exact_fill

    row, rows = float64[::1], float64[:, ::1]
    signature = int64(rows, rows, int64[::1], row, row, row, int64)
    return compiled_loop(name, make, signature).serial


def _side_by_side(value: Any, x: Any) -> Any:
    """Bounds or step sizes for x, with the axis of the problems last."""
    if np.ndim(value) == 0:
        return value
    array = np.asarray(value.get() if hasattr(value, "get") else value)
    if array.ndim == x.ndim:
        return np.ascontiguousarray(np.moveaxis(array, 0, -1))
    return array[..., None]


def _on_device(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments as numba-cuda takes them: arrays in the memory of the GPU."""
    import cupy

    from numadam._cuda.launch import numba_view

    def one(arg: Any) -> Any:
        if isinstance(arg, np.ndarray):
            arg = cupy.asarray(arg)
        return numba_view(arg) if hasattr(arg, "dtype") and arg.ndim else arg

    return tuple(map(one, args))


@functools.lru_cache(maxsize=32)
def _kernel_of(plan: Plan, fun: Any, form: str, norm: float) -> Any:
    """The kernel of an objective, compiled once: it takes seconds."""
    from numba import cuda

    from numadam._minimize.device.kernel import make_solve

    return cuda.jit(make_solve(plan, fun, form, norm))


class DeviceBatch:
    """Problems of one shape under one objective that is compiled for the GPU."""

    def __init__(self, task: ManyTask, form: str, x: Any, optimizer: Any) -> None:
        import cupy

        from numadam._cuda.arrays import flat_view
        from numadam._cuda.launch import numba_view

        self._task, self.optimizer, self._x = task, optimizer, x
        self._args, tolerances = _on_device(task.args), task.tolerances
        backend: Any = parts_of(optimizer).backend
        self._backend, self._settings = backend, backend.settings
        self._plan = plan = backend.settings.plan
        self.problems = x.shape[-1]
        self.gradient = cupy.zeros(x.shape, x.dtype)
        used = {pl.P: x, pl.G: self.gradient}
        used |= {slot: arrays[0] for slot, arrays in backend.own.items()}
        order = tuple(range(x.ndim))
        own = {slot: numba_view(flat_view(array, order)) for slot, array in used.items()}
        self._arrays = tuple(own[slot] for slot in sorted(own))
        self._shaped = numba_view(x), numba_view(self.gradient)
        moves = tolerances.xtol > 0.0
        self._best, self._best_g = x.copy(), cupy.zeros(x.shape, x.dtype)
        before = cupy.zeros(x.size if moves else 0, x.dtype)
        kept = (numba_view(flat_view(one, order)) for one in (self._best, self._best_g))
        self._moves = numba_view(before), *kept
        self.table, self.counts = (
            cupy.full((5, self.problems), np.nan),
            cupy.zeros((2, self.problems), np.int64),
        )
        columns = [op.COLUMN.low, op.COLUMN.high]
        self._ends = tuple(map(plan.real.type, self._settings.control[self._row(), columns]))
        self._tolerances = *tolerances.limits, tolerances.gtol_rel
        self._width = width_of(plan)
        self._kernel = _kernel_of(plan, task.fun, form, tolerances.norm)
        self._fill, self.done, self.first, self.whole = _tabulate(plan), 0, True, False
        self._products = start_products(plan, 1)[0]

    def _row(self) -> int:
        return int(self._settings.group_of_leaf[0])

    @property
    def live(self) -> int:
        """Problems that still run; waits for the GPU."""
        return int((self.counts[0] == RUNNING).sum())

    def _rows(self, steps: int) -> np.ndarray:
        """The scalars of the coming steps in the dtype of the arithmetic."""
        settings, lr, t = self._settings, self.optimizer.lr, self.optimizer.t
        found = [one for one in settings.schedules if one[0] == self._row()]
        plain = lr if isinstance(lr, float) else 0.0
        rates = np.array([LR.check(lr(t + k)) if callable(lr) else plain for k in range(steps)])
        values = np.zeros((steps, len(found)))
        for c, (_, _, hyper, one) in enumerate(found):
            values[:, c] = [hyper.check(one(t + k)) for k in range(steps)]
        columns = np.array([column for _, column, _, _ in found], np.int64)
        rows = np.zeros((steps, self._width))
        control = settings.control[self._row()]
        self._fill(rows, values, columns, control, self._products, rates, t)
        # the two factors of a clip by norm, which is not offered, and 0
        whole = np.concatenate([rows, np.tile([1.0, 1.0, 0.0], (steps, 1))], axis=1)
        with np.errstate(over="ignore"):
            return whole.astype(self._plan.real)

    def _by_name(self) -> dict[str, Any]:
        """Arrays of a file by name; the last axis is that of the problems."""
        state = {f"state/{name}": views[0] for name, views in self._backend.state.items()}
        names = ("f", "lowest", "best_grad_norm", "grad_norm", "first_grad_norm")
        return {
            "x": self._x,
            "gradient": self.gradient,
            "best_x": self._best,
            "best_gradient": self._best_g,
            "codes": self.counts[0],
            "nit": self.counts[1],
            **dict(zip(names, self.table, strict=True)),
            **state,
        }

    def run_state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Numbers and arrays for a file: the first axis is that of the problems."""
        found = {name: to_host(array) for name, array in self._by_name().items()}
        arrays = {name: np.moveaxis(array, -1, 0) for name, array in found.items()}
        return {}, {**arrays, "products": self._products}

    def restore(self, saved: RunState) -> None:
        """Go on from a file."""
        import cupy

        own, done = self._by_name(), saved.number("done")
        found = {
            name: saved.array(name, (self.problems, *array.shape[:-1]), array.dtype)
            for name, array in own.items()
        }
        self._products[...] = saved.array("products", self._products.shape, np.float64)
        for name, array in own.items():
            array[...] = cupy.asarray(np.ascontiguousarray(np.moveaxis(found[name], 0, -1)))
        self._backend.count(done - self.done)
        self.done, self.first, self.whole = done, False, True

    def advance(self, most: int, gap: int) -> None:
        """Test x0 at the first call; later take at most so many iterations, `gap` or less."""
        import cupy

        from numadam._cuda.launch import launch, numba_view

        self.whole, steps = False, 0 if self.first else min(most, gap, _STEPS)
        rows = self._rows(steps) if steps else np.zeros((1, self._width + 3), self._plan.real)
        numbers = self.problems, max(steps, 1), -1 if self.first else self.done
        arguments = (
            self._arrays, self._shaped, numba_view(cupy.asarray(rows)), numba_view(self.table),
            numba_view(self.counts), self._moves, self._ends, self._tolerances, numbers,
            self._args,
        )  # fmt: skip
        try:
            launch(self._kernel, self.problems, arguments)
        except NumbaError as error:  # the first launch compiles
            raise TypeError(
                "fun: does not compile for a GPU, where no array can be made: write the gradient "
                "into g, or with jac=True return it as a tuple. Numba says: "
                f"{str(error).strip()[:1500]}"
            ) from error
        except KeyError as error:
            if not isinstance(error.args[0], np.ufunc):
                raise
            raise TypeError(  # Numba's table of NumPy's functions for a GPU is short
                f"fun: does not compile for a GPU, where Numba knows no numpy."
                f"{error.args[0].__name__}. Use the functions of math, abs(x), x * x and x**y: "
                "they work on the CPU, too."
            ) from error
        self.first = False
        self.done += steps
        self._backend.count(steps)
        self.whole = True

    def result(self, interrupted: bool) -> ManyResult:
        """The result of all problems as they are now."""
        import cupy

        def rows(array: Any) -> Any:
            return cupy.ascontiguousarray(cupy.asarray(np.moveaxis(array, -1, 0)))

        codes, nit = self.counts.get()
        arrays = {"x": rows(self._best), "jac": rows(self._best_g), "x_last": rows(self._x)}
        if "average" in self._backend.state:
            arrays["averaged"] = rows(self.optimizer.averaged)
        return make_result(
            self._task,
            self.optimizer,
            codes,
            nit,
            int(nit.sum()) + (0 if self.first else self.problems),
            interrupted,
            (self.table[3].get(), self.table[4].get()),
            fun=self.table[1].copy(),
            grad_norm=self.table[2].copy(),
            fun_last=self.table[0].copy(),
            **arrays,
        )


def minimize_on_device(task: ManyTask) -> ManyResult:
    """A compiled objective on CuPy arrays."""
    import cupy

    from numadam._cuda.launch import on_gpu

    x, rates = task.x, task.rates
    form = form_of(task.fun, task.args, task.jac, many=True)
    if x.dtype.kind == "c":
        raise TypeError("x0: complex problems are not offered on a GPU; use real and imaginary.")
    with on_gpu(x.device.id):
        beside = cupy.ascontiguousarray(cupy.asarray(np.moveaxis(x, 0, -1)))
        bounds = task.options["bounds"]
        if bounds is not None:
            bounds = Box(*(_side_by_side(end, x) for end in bounds))
        lr = task.lr
        if rates is not None:
            lr = rates.reshape(*[1] * (x.ndim - 1), -1)
        elif not callable(lr):
            lr = _side_by_side(lr, x)
        optimizer = refuse_observers(task.rule(beside, lr, **{**task.options, "bounds": bounds}))
        if parts_of(optimizer).settings.plan.norm:
            raise ValueError(
                "clip_norm: not offered for compiled problems on a GPU; clip_value is."
            )
        batch = DeviceBatch(task, form, beside, optimizer)
        return run_batch(batch, task)
