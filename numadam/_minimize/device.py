"""`minimize_many` on a GPU: the last axis is that of the problems, one problem a thread.

The kernel takes many iterations a launch. It shares the element update, the rule's formula and the
stop tests with the CPU. Element i of problem b is at ``i * problems + b``, so that neighbouring
threads read neighbouring numbers. A thread runs its problem to the end of the launch without a
barrier: problems stop at different iterations, and threads of a warp whose problems have stopped
wait for the others. Loops over the elements of a problem are `while` loops: a `range` with a step
divides to find its length.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import cuda, errors, types

from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.parts import parts_of
from numadam._core.plan import Plan
from numadam._core.text import Text, indented, scope_of
from numadam._cuda.kernel import THREADS
from numadam._cuda.scalars import compiled_fill
from numadam._minimize.batches import Batch, run_batch
from numadam._minimize.checkpoint import RunState, Task
from numadam._minimize.compiled.first_call import FirstCall
from numadam._minimize.compiled.objective import INDEXED, RETURNS, WRITES, form_of
from numadam._minimize.compiled.problem import StepTables
from numadam._minimize.observers import refuse_observers
from numadam._minimize.result import ManyResult
from numadam._minimize.stopping import (
    RUNNING,
    check_convergence,
    gradient_limit,
    itself,
    moved,
    projected,
    released,
    share_of_own,
)
from numadam._settings.bounds import Box

# --- the kernel ----------------------------------------------------------------------------------


def _itself(a):
    return a


def _make_step(plan: Plan, wrap: Any) -> Any:
    """``step(b, problems, size, arrays, row)``: a step of problem b, whose scalars are in a row."""
    text = Text(plan)
    views = ", ".join(text.views[name] for name in text.arrays)
    each = ["while i < size:", *indented([*text.element(), "i += problems"])]
    body = [f"{views} = arrays", *text.head(), "i = b", *each]
    lines = ["def step(b, problems, size, arrays, row):", *indented(body)]
    scope = {"__name__": __name__, **scope_of(plan, wrap)}
    exec(compile("\n".join(lines), "<numadam: step of a problem>", "exec"), scope)
    return wrap(scope["step"])


def _make_bounds_of(plan: Plan) -> Any:
    """``bounds_of(arrays)``: the arrays of the bounds, or None for each."""
    if plan.bounds != "array":
        return lambda arrays: (None, None)
    low, high = map(Text(plan).arrays.index, ("low", "high"))
    return lambda arrays: (arrays[low], arrays[high])


def _calling(fun: Any, form: str) -> Any:
    """``call(x, g, b, args) -> f`` of problem b, whatever the form of `fun`."""

    def writes(x, g, b, args):
        return fun(x, g, *args)

    def indexed(x, g, b, args):
        return fun(x, g, b, *args)

    def returns(x, g, b, args):
        f, given = fun(x, *args)  # the gradient is a tuple: no array can be made here
        for i in range(x.size):
            g[i] = given[i]
        return f

    return {WRITES: writes, INDEXED: indexed, RETURNS: returns}[form]


def _make_norm(element: Any, norm: float, real: np.dtype[Any], wrap: Any) -> Any:
    """``norm(b, problems, x, y, low, high, lo, hi)`` of problem b, as `stop_text.norm_lines`.

    The largest element has the dtype of the problem, in which it is exact: most GPUs have few units
    for float64. The 2-norm is a float64 as on the CPU, of squares that are exact where the problem
    is float32. With a shorter sum a problem could stop at another iteration.
    """
    component, zero = wrap(element), real.type(0)

    def largest(b, problems, x, y, low, high, lo, hi):
        top, i = zero, b
        while i < x.size:
            a = abs(component(i, x, y, low, high, lo, hi))
            top = a if a > top or a != a else top
            i += problems
        return top

    def one(b, problems, x, y, low, high, lo, hi):
        return 1.0

    in_range = norm != math.inf and real == np.float32  # its squares are, in float64
    unit = wrap(one if in_range else largest)

    def euclidean(b, problems, x, y, low, high, lo, hi):
        top = unit(b, problems, x, y, low, high, lo, hi)
        if top == 0.0 or not math.isfinite(top):
            return top
        total, i = 0.0, b
        while i < x.size:
            a = np.float64(component(i, x, y, low, high, lo, hi)) / top
            total += a * a
            i += problems
        return top * math.sqrt(total)

    return unit if norm == math.inf else wrap(euclidean)


def _round_down(limit):
    """Largest float32 that is not above it: the same float32 numbers are at most either."""
    return cuda.libdevice.double2float_rd(limit)


def _make_stop_tests(plan: Plan, norm: float, wrap: Any) -> tuple[Any, Any, Any]:
    """Device functions of the stop tests at the iterate of problem b.

    ``steepness(b, problems, x, g, low, high, ends)`` is the norm of the projected gradient,
    ``limit(first, gtol, gtol_rel)`` the norm at which a problem stops, in the same dtype, and
    ``test(b, problems, x, before, f, f_before, steep, later, limit, ftol, xtol)`` the code.
    """
    check, limit_of = wrap(check_convergence), wrap(gradient_limit)
    steep_of, far, large = (
        _make_norm(element, norm, plan.real, wrap) for element in (projected, moved, itself)
    )
    scalar = plan.bounds == "scalar"
    is_short = norm == math.inf and plan.real == np.float32
    rounded = wrap(_round_down if is_short else _itself)

    def steepness(b, problems, x, g, low, high, ends):
        if scalar:
            return steep_of(b, problems, x, g, None, None, ends[0], ends[1])
        return steep_of(b, problems, x, g, low, high, None, None)

    def limit(first, gtol, gtol_rel):
        return rounded(limit_of(gtol, gtol_rel, np.float64(first)))

    def test(b, problems, x, before, f, f_before, steep, later, limit, ftol, xtol):
        way = size = 0.0
        if xtol > 0.0 and later:
            way = far(b, problems, x, before, None, None, None, None)
            size = large(b, problems, x, before, None, None, None, None)
        return check(f, f_before, steep, way, size, later, (limit, ftol, xtol))

    return wrap(steepness), wrap(limit), wrap(test)


def _make_own(plan: Plan, wrap: Any) -> tuple[Any, Any]:
    """``learn`` and ``remains`` of problem b: what `stop_text.test_lines` does with `firsts`."""
    one, scalar = wrap(released), plan.bounds == "scalar"

    def size(i, x, g, low, high, ends):
        if scalar:
            return abs(one(i, x, g, None, None, ends[0], ends[1]))
        return abs(one(i, x, g, low, high, None, None))

    size_of = wrap(size)

    def learn(b, problems, x, g, low, high, ends, firsts):
        i = b
        while i < x.size:
            a = size_of(i, x, g, low, high, ends)
            if a > firsts[i]:
                firsts[i] = a
            i += problems

    def remains(b, problems, x, g, low, high, ends, firsts, share):
        i = b
        while i < x.size:
            a = np.float64(size_of(i, x, g, low, high, ends))
            if a > share * firsts[i] and firsts[i] > 0:
                return True
            i += problems
        return False

    return wrap(learn), wrap(remains)


def make_solve(plan: Plan, fun: Any, form: str, norm: float) -> Callable[..., None]:
    """The kernel: some iterations of every problem that still runs, one problem a thread.

    ``solve(arrays, shaped, rows, table, counts, moves, ends, tolerances, numbers, args)``: `rows`
    are the scalars of the coming iterations; `table` has for each problem f, the best f, the
    gradient's norm there, at x and at the start; `counts` the status and the iterations. `moves`
    are x before the step, empty where no test asks for it, the best x and its gradient, and the
    first gradient of each number.
    `numbers` are problems, steps, and the iterations done, -1 where x0 alone is to be tested.

    During a launch the numbers of a problem are in registers. Of a float32 problem f alone is
    compared in float64, which fun may return. More is calculated in float64 where `ftol`, `xtol` or
    ``norm=2`` ask for it. The function has more than 60 lines, as all of it is one kernel.
    """
    wrap = functools.cache(cuda.jit(device=True))
    take, bounds_of = _make_step(plan, wrap), wrap(_make_bounds_of(plan))
    call = wrap(_calling(wrap(fun.py_func), form))
    steepness, limit_of, test = _make_stop_tests(plan, norm, wrap)
    learn, remains = _make_own(plan, wrap)
    as_norm = np.float64 if norm != math.inf else plan.real.type

    def solve(arrays, shaped, rows, table, counts, moves, ends, tolerances, numbers, args):
        problems, steps, done = numbers
        gtol, ftol, xtol, gtol_rel, share = tolerances
        before, best, best_g, firsts = moves
        p, g = arrays[0], arrays[1]
        low, high = bounds_of(arrays)
        later = done >= 0
        for b in range(cuda.grid(1), problems, cuda.gridsize(1)):
            it, code = 0, counts[0, b]
            if code != RUNNING:
                continue
            f, best_f, best_steep = table[0, b], table[1, b], as_norm(table[2, b])
            steep, first = as_norm(table[3, b]), as_norm(table[4, b])
            limit = limit_of(first, gtol, gtol_rel)
            while code == RUNNING and it < steps:
                if later:
                    i = b
                    while xtol > 0.0 and i < p.size:
                        before[i] = p[i]
                        i += problems
                    take(b, problems, p.size, arrays, rows[it])
                it += 1
                i = b
                while i < p.size:
                    g[i] = 0
                    i += problems
                x_b, g_b = shaped[0][..., b], shaped[1][..., b]
                f_before, f = f, float(call(x_b, g_b, b, args))
                steep = steepness(b, problems, p, g, low, high, ends)
                if not later:
                    first, limit = steep, limit_of(steep, gtol, gtol_rel)
                if done + it <= 1 and steep <= first:
                    learn(b, problems, p, g, low, high, ends, firsts)
                top = limit
                near = gtol < steep <= limit
                if near and remains(b, problems, p, g, low, high, ends, firsts, share):
                    top = limit_of(first, gtol, 0.0)
                code = test(b, problems, p, before, f, f_before, steep, later, top, ftol, xtol)
                if not later or (f < best_f and math.isfinite(f)):
                    best_f, best_steep = f, steep
                    i = b
                    while i < p.size:
                        best[i], best_g[i] = p[i], g[i]
                        i += problems
            counts[0, b], counts[1, b] = code, done + it
            table[0, b], table[1, b], table[2, b] = f, best_f, best_steep
            table[3, b], table[4, b] = steep, first

    return solve


# --- launches by numba-cuda, of kernels over its arrays ------------------------------------------


#: Least blocks of a kernel that numba-cuda launches: with fewer it warns. Idle ones end at once.
MIN_BLOCKS = 128
#: Most of them: with more items of work each thread takes several.
MAX_BLOCKS = 65_536
#: Threads that a GPU schedules together.
WARP = 32


@functools.lru_cache(maxsize=64)
def _numba_stream(pointer: int) -> Any:
    return cuda.external_stream(pointer)


def numba_view(flat: Any) -> Any:
    """A CuPy array as numba-cuda takes it, without the default wait for CuPy's stream.

    The launch is on that stream, and so after all that CuPy has put there.
    """
    return cuda.as_cuda_array(flat, sync=False)


def threads_for(items: int, multiprocessors: int) -> int:
    """Threads of a block for a loop over so many items: few where there are few items.

    A block runs on one multiprocessor. With 32 threads a block, 4,000 items keep all of an H100
    busy; with 256 they would keep an eighth.
    """
    return min(THREADS, WARP * max(1, -(-items // (WARP * multiprocessors))))


def launch(kernel: Any, items: int, arguments: Sequence[Any]) -> None:
    """Run a loop over so many items on CuPy's current stream."""
    import cupy

    if items:
        threads = threads_for(items, _multiprocessors(cupy.cuda.runtime.getDevice()))
        blocks = max(min(-(-items // threads), MAX_BLOCKS), MIN_BLOCKS)
        stream = _numba_stream(cupy.cuda.get_current_stream().ptr)
        kernel[blocks, threads, stream](*arguments)


@functools.cache
def _multiprocessors(device: int) -> int:
    import cupy

    return int(cupy.cuda.Device(device).attributes["MultiProcessorCount"])


# --- problems on a GPU ---------------------------------------------------------------------------


#: Iterations of a launch; the host waits once for each.
_STEPS = 128
#: Arrays of a result, as a file has them.
_OF_RESULT = (
    *("x", "best_x", "best_gradient", "f", "lowest", "best_grad_norm"),
    *("grad_norm", "first_grad_norm", "state/average"),
)


_FILL_STEPS = """\
def fill(rows, control, products, rates, columns, changes, t):
    for it in range(len(rows)):
        for c in range(len(columns)):
            control[columns[c]] = changes[it, c]
        fill_row(rows[it], control, products, t + 1.0 + it, rates[it])
        for k in range({carried}):
            products[k] = products[{carried} + k]
"""


def fill_steps(plan: Plan) -> Any:
    """``fill(rows, control, products, rates, columns, changes, t)``: those of the steps after t.

    As many as there are rows, of one group, with lr and what `columns` of the control row hold at
    each. The products are moved on.
    """
    f8, text = types.float64, _FILL_STEPS.format(carried=len(plan.products))
    kinds = f8[::1], f8[::1], f8[::1], types.int64[::1], f8[:, ::1], f8
    return compiled_fill(plan, "steps", text, *kinds)


def _side_by_side(value: Any, x: Any) -> Any:
    """Bounds or step sizes for x, with the axis of the problems last."""
    if np.ndim(value) == 0:
        return value
    array = np.asarray(value.get() if hasattr(value, "get") else value)
    if array.ndim == x.ndim:
        return np.ascontiguousarray(np.moveaxis(array, 0, -1))
    return array[..., None]


def on_device(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments as numba-cuda takes them: arrays in the memory of the GPU."""
    import cupy

    def one(arg: Any) -> Any:
        if isinstance(arg, np.ndarray):
            arg = cupy.asarray(arg)
        return numba_view(arg) if hasattr(arg, "dtype") and arg.ndim else arg

    return tuple(map(one, args))


@functools.lru_cache(maxsize=32)
def _kernel_of(plan: Plan, fun: Any, form: str, norm: float) -> Any:
    """The kernel of an objective, compiled once: it takes seconds."""
    return cuda.jit(make_solve(plan, fun, form, norm))


class DeviceBatch(Batch):
    """Problems of one shape under one objective that is compiled for the GPU."""

    done, first, whole = 0, True, False
    asks = True  # whether the first call tells that the objective writes into g

    def __init__(self, task: Task, form: str, x: Any, optimizer: Any) -> None:
        import cupy

        super().__init__(task)
        self.optimizer, self._x, self._form = optimizer, x, form
        self._args, tolerances = on_device(task.args), task.tolerances
        backend: Any = parts_of(optimizer).backend
        self._backend, self._settings = backend, backend.settings
        self._plan = plan = backend.settings.plan
        self.problems = x.shape[-1]
        self.gradient = cupy.zeros(x.shape, x.dtype)
        used = {pl.P: x, pl.G: self.gradient}
        used |= {slot: arrays[0] for slot, arrays in backend.own.items()}
        own = {slot: numba_view(array.reshape(-1)) for slot, array in used.items()}
        self._arrays = tuple(own[slot] for slot in Text(plan).slots)
        self._shaped = numba_view(x), numba_view(self.gradient)
        moves = tolerances.xtol > 0.0
        self._best, self._best_g = x.copy(), cupy.zeros(x.shape, x.dtype)
        before = cupy.zeros(x.size if moves else 0, x.dtype)
        self._firsts = cupy.zeros(x.shape, x.dtype)
        arrays = self._best, self._best_g, self._firsts
        kept = (numba_view(one.reshape(-1)) for one in arrays)
        self._moves = numba_view(before), *kept
        self.table, self.counts = (
            cupy.full((5, self.problems), np.nan),
            cupy.zeros((2, self.problems), np.int64),
        )
        columns = [op.COLUMN.low, op.COLUMN.high]
        self._ends = tuple(map(plan.real.type, self._settings.control[self._row(), columns]))
        gtol_rel = tolerances.gtol_rel
        self._tolerances = *tolerances.limits, gtol_rel, share_of_own(gtol_rel)
        self._kernel = _kernel_of(plan, task.fun, form, tolerances.norm)
        self._fill = fill_steps(plan)
        self._products = np.ones(2 * len(plan.products))
        self._tables = StepTables(self._settings, _STEPS)
        lr = optimizer.lr
        self._tables.rates[:] = lr if isinstance(lr, float) else 0.0

    def _row(self) -> int:
        return int(self._settings.group_of_leaf[0])

    @property
    def live(self) -> int:
        """Problems that still run; waits for the GPU."""
        return int((self.counts[0] == RUNNING).sum())

    def _rows(self, steps: int) -> np.ndarray:
        """The scalars of the coming steps, which are in the tables, in the dtype of arithmetic."""
        tables, width = self._tables, len(Text(self._plan).scalars)
        rows = np.zeros((max(steps, 1), width), self._plan.real)
        control, t = self._settings.control[self._row()], self._backend.t
        given = tables.rates, tables.columns, tables.changes
        self._fill(rows[:steps], control, self._products, *given, t)
        return rows

    def _by_name(self) -> dict[str, Any]:
        """The arrays of a file by name, with the axis of the problems first."""
        state = {f"state/{name}": views[0] for name, views in self._backend.state.items()}
        names = ("f", "lowest", "best_grad_norm", "grad_norm", "first_grad_norm")
        of_problems = {
            "x": self._x,
            "gradient": self.gradient,
            "best_x": self._best,
            "best_gradient": self._best_g,
            "first_gradient": self._firsts,
            "codes": self.counts[0],
            "nit": self.counts[1],
            **dict(zip(names, self.table, strict=True)),
            **state,
        }
        found = {name: np.moveaxis(array, -1, 0) for name, array in of_problems.items()}
        return {**found, "products": self._products}

    def restore(self, saved: RunState) -> None:
        """Go on from a file."""
        super().restore(saved)
        done = saved.number("done")
        self._backend.count(done - self.done)
        self.done, self.first, self.whole = done, False, True

    def advance(self, most: int, gap: int) -> None:
        """Test x0 at the first call; later take at most so many iterations, `gap` or less."""
        import cupy

        self.whole, steps = False, 0 if self.first else min(most, gap, _STEPS)
        if steps:
            steps = self._tables.tabulate(self.optimizer.lr, self._backend.t, steps)
        rows = numba_view(cupy.asarray(self._rows(steps)))
        numbers = self.problems, max(steps, 1), -1 if self.first else self.done
        arguments = (
            self._arrays, self._shaped, rows, numba_view(self.table), numba_view(self.counts),
            self._moves, self._ends, self._tolerances, numbers, self._args,
        )  # fmt: skip
        try:
            asks = self.first and self.asks and self._form != RETURNS
            first_call = FirstCall(self._task.args) if asks else None
            launch(self._kernel, self.problems, arguments)
        except errors.NumbaError as error:  # the first launch compiles
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
        if first_call is not None:
            first_call.check(self.table[0], self.gradient, self._task.x, self._evaluate_at)
        self.done += steps
        self._backend.count(steps)
        self.whole = True

    def _evaluate_at(self, x: Any) -> tuple[Any, Any]:
        """F and gradient of each problem at another x."""
        there = _make_batch(self._task._replace(x=x))
        there.asks = False
        there.advance(0, 1)
        return there.table[0], there.gradient

    @property
    def evaluations(self) -> int:
        """Of f, of all problems together."""
        return int(self.counts[1].sum()) + (0 if self.first else self.problems)

    def memory(self) -> dict[str, Any]:
        """The last and the best iterates of all problems."""
        import cupy

        memory = {
            name: cupy.ascontiguousarray(array)
            for name, array in self._by_name().items()
            if name in _OF_RESULT  # the others would be copies that nobody reads
        }
        return memory | {"codes": self.counts[0].get(), "nit": self.counts[1].get()}


def minimizeon_device(task: Task) -> ManyResult:
    """A compiled objective on CuPy arrays."""
    from numadam._cuda.launch import on_gpu

    if task.x.dtype.kind == "c":
        raise TypeError("x0: complex problems are not offered on a GPU; use real and imaginary.")
    with on_gpu(task.x.device.id):
        return run_batch(_make_batch, task)


def _make_batch(task: Task) -> DeviceBatch:
    import cupy

    x, rates = task.x, task.rates
    form = form_of(task.fun, task.args, task.jac, many=True)
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
        raise ValueError("clip_norm: not offered for compiled problems on a GPU; clip_value is.")
    return DeviceBatch(task, form, beside, optimizer)
