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
from types import SimpleNamespace
from typing import Any

import numpy as np
from numba import cuda, errors

from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.parts import parts_of
from numadam._core.plan import Plan
from numadam._core.text import Text, function_text, indented, scope_of
from numadam._cuda.kernel import THREADS
from numadam._minimize import stopping as st
from numadam._minimize.batches import CompiledBatch, laid_out, run_batch
from numadam._minimize.checkpoint import RunState, Task
from numadam._minimize.compiled.objective import INDEXED, RETURNS, form_of
from numadam._minimize.observers import refuse_observers
from numadam._minimize.result import ManyResult
from numadam._minimize.step_rows import StepRows
from numadam._minimize.stop_text import projected, released

# --- the kernel ----------------------------------------------------------------------------------


def _texts(plan: Plan, form: str, norm: float, axes: int, count: int) -> dict[str, list[str]]:
    """Bodies of the functions of problem b by their heads; its x has `axes`, `fun` so many `args`.

    Norms are those of `stop_text.norm_lines`. The largest element has the dtype of the problem, in
    which it is exact: most GPUs have few units for float64. The 2-norm is a float64 as on the CPU,
    of squares that are exact where the problem is float32. With a shorter sum a problem could stop
    at another iteration.
    """
    text, is_float32 = Text(plan), plan.real == np.float32
    names = [f"{', '.join(text.views[name] for name in text.arrays)} = arrays"]
    ends = [*names, "low, high = ends"] if plan.bounds == "scalar" else names
    own = [*released(plan.bounds, "i"), "a = abs(d)"]

    def each(lines: list[str]) -> list[str]:
        return ["i = b", "while i < ps.size:", *indented([*lines, "i += problems"])]

    def norm_of(element: list[str]) -> list[str]:
        lines = ["top = zero"]
        lines += each([*element, "a = abs(d)", "top = a if a > top or a != a else top"])
        if norm == math.inf:
            return [*lines, "return top"]
        lines += ["if top == 0.0 or not math.isfinite(top):", "    return top"]
        lines = ["top = 1.0"] if is_float32 else lines  # its squares are in range, in float64
        squares = each([*element, "a = np.float64(d) / top", "total += a * a"])
        return [*lines, "total = 0.0", *squares, "return top * math.sqrt(total)"]

    given = ["x", *(["g"] if form != RETURNS else []), *(["b"] if form == INDEXED else [])]
    called = f"fun({', '.join([*given, *(f'args[{k}]' for k in range(count))])})"
    problem = ", ".join([*[":"] * axes, "b"])
    call, returned = [f"x, g = xs[{problem}], gs[{problem}]"], [f"return {called}"]
    if form == RETURNS:  # the gradient is a tuple: no array can be made here
        returned = [f"f, given = {called}", "for i in range(x.size):", "    g[i] = given[i]"]
        returned += ["return f"]
    # the largest float32 that is not above a limit: the same float32 numbers are at most either
    limit = "cuda.libdevice.double2float_rd(limit)" if is_float32 and norm == math.inf else "limit"
    learn = [*own, "if a > firsts[i]:", "    firsts[i] = a"]
    remains = [*own, "if np.float64(a) > share * firsts[i] and firsts[i] > 0:", "    return True"]
    return {
        "call(xs, gs, b, args)": [*call, *returned],
        "step(b, problems, arrays, row)": [*names, *text.head(), *each(text.element())],
        "steepness(b, problems, arrays, ends)": [*ends, *norm_of(projected(plan.bounds, "i"))],
        "far(b, problems, arrays, befores)": [*names, *norm_of(["d = ps[i] - befores[i]"])],
        "large(b, problems, arrays)": [*names, *norm_of(["d = ps[i]"])],
        "limit_of(first, gtol, gtol_rel)": [
            "limit = gradient_limit(gtol, gtol_rel, np.float64(first))",
            f"return {limit}",
        ],
        "learn(b, problems, arrays, ends, firsts)": [*ends, *each(learn)],
        "remains(b, problems, arrays, ends, firsts, share)": [
            *ends,
            *each(remains),
            "return False",
        ],
    }


def make_solve(
    plan: Plan, fun: Any, form: str, norm: float, axes: int, count: int
) -> Callable[..., None]:
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
    scope = {**scope_of(plan, wrap), "__name__": __name__, "cuda": cuda, "zero": plan.real.type(0)}
    scope |= {"fun": wrap(fun.py_func), "gradient_limit": wrap(st.gradient_limit)}
    texts = _texts(plan, form, norm, axes, count)
    lines = "\n".join(function_text(name, body, "") for name, body in texts.items())
    exec(compile(lines, "<numadam: functions of a problem>", "exec"), scope)
    call, take, steepness, far, large, limit_of, learn, remains = (
        wrap(scope[name.partition("(")[0]]) for name in texts
    )
    check, running = wrap(st.check_convergence), st.RUNNING
    as_norm = np.float64 if norm != math.inf else plan.real.type

    def solve(arrays, shaped, rows, table, counts, moves, ends, tolerances, numbers, args):
        problems, steps, done = numbers
        gtol, ftol, xtol, gtol_rel, share = tolerances
        before, best, best_g, firsts = moves
        p, g = arrays[0], arrays[1]
        later = done >= 0
        for b in range(cuda.grid(1), problems, cuda.gridsize(1)):
            it, code = 0, counts[0, b]
            if code != running:
                continue
            f, steep = table[0, b], as_norm(table[3, b])
            limit = limit_of(table[4, b], gtol, gtol_rel)
            while code == running and it < steps:
                if later:
                    i = b
                    while xtol > 0.0 and i < p.size:
                        before[i] = p[i]
                        i += problems
                    take(b, problems, arrays, rows[it])
                it += 1
                i = b
                while i < p.size:
                    g[i] = 0
                    i += problems
                f_before, f = f, float(call(shaped[0], shaped[1], b, args))
                steep = steepness(b, problems, arrays, ends)
                if not later:
                    table[4, b], limit = steep, limit_of(steep, gtol, gtol_rel)
                if done + it <= 1 and steep <= table[4, b]:
                    learn(b, problems, arrays, ends, firsts)
                top = limit
                near = gtol < steep <= limit
                if near and remains(b, problems, arrays, ends, firsts, share):
                    top = limit_of(table[4, b], gtol, 0.0)
                way = length = 0.0
                if xtol > 0.0 and later:
                    way = far(b, problems, arrays, before)
                    length = large(b, problems, arrays)
                code = check(f, f_before, steep, way, length, later, (top, ftol, xtol))
                if not later or (f < table[1, b] and math.isfinite(f)):
                    table[1, b], table[2, b] = f, steep
                    i = b
                    while i < p.size:
                        best[i], best_g[i] = p[i], g[i]
                        i += problems
            counts[0, b], counts[1, b] = code, done + it
            table[0, b], table[3, b] = f, steep

    return solve


def most_registers(plan: Plan, norm: float) -> int | None:
    """The limit of registers of a thread, or None.

    With the 66 that the compiler takes of itself there is room for 768 threads, with 64 for 1024.
    Of float32 it needs no memory for those; of float64, or with a norm in float64, it would.
    """
    return 64 if plan.real == np.float32 and norm == math.inf else None


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


def on_device(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments as numba-cuda takes them: arrays in the memory of the GPU."""
    import cupy

    def one(arg: Any) -> Any:
        if isinstance(arg, np.ndarray):
            arg = cupy.asarray(arg)
        return numba_view(arg) if hasattr(arg, "dtype") and arg.ndim else arg

    return tuple(map(one, args))


@functools.lru_cache(maxsize=32)
def _objective(plan: Plan, fun: Any, form: str, norm: float, axes: int, count: int) -> Any:
    """The kernel of an objective, compiled once: it takes seconds; whether it `writes` into g."""
    compiled = cuda.jit(max_registers=most_registers(plan, norm))
    kernel = compiled(make_solve(plan, fun, form, norm, axes, count))
    return SimpleNamespace(kernel=kernel, writes=form == RETURNS)


class DeviceBatch(CompiledBatch):
    """Problems of one shape under one objective that is compiled for the GPU."""

    def __init__(self, task: Task) -> None:
        import cupy

        super().__init__(task)
        form = form_of(task.fun, task.args, task.jac, many=True, derives=False)
        x = cupy.ascontiguousarray(cupy.asarray(np.moveaxis(task.x, 0, -1)))
        self.optimizer = _make_optimizer(task, x)
        backend: Any = parts_of(self.optimizer).backend
        plan, tolerances = backend.settings.plan, task.tolerances
        problems, gtol_rel = x.shape[-1], tolerances.gtol_rel
        gradient, best, best_g, firsts = (cupy.zeros(x.shape, x.dtype) for _ in range(4))
        best[...] = x
        table, counts = cupy.full((5, problems), np.nan), cupy.zeros((2, problems), np.int64)
        names = ("f", "lowest", "best_grad_norm", "grad_norm", "first_grad_norm")
        #: the arrays of a file by name, with the axis of the problems last
        self._of_problems = {
            "x": x,
            "gradient": gradient,
            "best_x": best,
            "best_gradient": best_g,
            "first_gradient": firsts,
            "codes": counts[0],
            "nit": counts[1],
            **dict(zip(names, table, strict=True)),
            **{f"state/{name}": views[0] for name, views in backend.state.items()},
        }
        used = {pl.P: x, pl.G: gradient}
        used |= {slot: arrays[0] for slot, arrays in backend.own.items()}
        flat = {slot: numba_view(array.reshape(-1)) for slot, array in used.items()}
        before = cupy.zeros(x.size if tolerances.xtol > 0.0 else 0, x.dtype)
        moves = (before, best.reshape(-1), best_g.reshape(-1), firsts.reshape(-1))
        products = np.ones(2 * len(plan.products))
        self._rows = StepRows(backend, self.optimizer.lr, products, _STEPS)
        ends = self._rows.control[[op.COLUMN.low, op.COLUMN.high]]
        shaped = numba_view(x), numba_view(gradient)
        self._arrays = tuple(flat[slot] for slot in Text(plan).slots), shaped
        self._tables = numba_view(table), numba_view(counts), tuple(map(numba_view, moves))
        limits = *tolerances.limits, gtol_rel, st.share_of_own(gtol_rel)
        self._limits = tuple(map(plan.real.type, ends)), limits
        self._args = on_device(task.args)
        axes, count = x.ndim - 1, len(task.args)
        self._objective = _objective(plan, task.fun, form, tolerances.norm, axes, count)

    @property
    def live(self) -> int:
        """Problems that still run; waits for the GPU."""
        return int((self._of_problems["codes"] == st.RUNNING).sum())

    def _by_name(self) -> dict[str, Any]:
        arrays = self._of_problems.items()
        rows = {name: np.moveaxis(array, -1, 0) for name, array in arrays}
        return {**rows, "products": self._rows.products}

    def restore(self, saved: RunState) -> None:
        """Go on from a file."""
        super().restore(saved)
        self._resume(saved)
        backend: Any = parts_of(self.optimizer).backend
        backend.count(self.done)

    def _run(self, steps: int) -> None:
        import cupy

        steps = self._rows.fill(min(steps, _STEPS))
        rows = numba_view(cupy.asarray(self._rows.rows[: max(steps, 1)]))
        problems = len(self._task.x)
        numbers = problems, max(steps, 1), self.done if self._has_begun else -1
        given = *self._arrays, rows, *self._tables, *self._limits, numbers, self._args
        self.whole = False
        try:
            launch(self._objective.kernel, problems, given)
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
        self._advanced(steps)

    def first_iterate(self) -> tuple[Any, Any]:
        """F and gradient of each problem, before any has moved."""
        return self._of_problems["f"], self._of_problems["gradient"]

    @property
    def evaluations(self) -> int:
        """Of f, of all problems together."""
        count = int(self._of_problems["nit"].sum())
        return count + (len(self._task.x) if self._has_begun else 0)

    def memory(self) -> dict[str, Any]:
        """The last and the best iterates of all problems."""
        import cupy

        memory = {
            name: cupy.ascontiguousarray(array)
            for name, array in self._by_name().items()
            if name in _OF_RESULT  # the others would be copies that nobody reads
        }
        return memory | {name: self._of_problems[name].get() for name in ("codes", "nit")}


def minimize_on_device(task: Task) -> ManyResult:
    """A compiled objective on CuPy arrays."""
    from numadam._cuda.launch import on_gpu

    if task.x.dtype.kind == "c":
        raise TypeError("x0: complex problems are not offered on a GPU; use real and imaginary.")
    with on_gpu(task.x.device.id):
        return run_batch(DeviceBatch, task)


def _make_optimizer(task: Task, x: Any) -> Any:
    """The optimiser of all problems, whose axis is the last one of x."""
    lr, options = laid_out(task, lambda rows: np.ascontiguousarray(np.moveaxis(rows, 0, -1)))
    if task.rates is not None:
        lr = task.rates.reshape(*[1] * (x.ndim - 1), -1)
    optimizer = refuse_observers(task.rule(x, lr, **options))
    if parts_of(optimizer).settings.plan.norm:
        raise ValueError("clip_norm: not offered for compiled problems on a GPU; clip_value is.")
    return optimizer
