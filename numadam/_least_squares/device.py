"""`least_squares_many` on a GPU: the text of the CPU, one problem a thread.

The functions of the loop are compiled again, for the GPU, but for two of them: the sum of products
and the call of the residuals. A launch fits many problems to their ends; between launches the host
waits, and Ctrl-C ends the run. Residuals and J of neighbouring threads are neighbours in memory.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

import functools
from types import FunctionType
from typing import Any

import numpy as np
from numba import cuda, errors, float64, from_dtype
from numba.extending import is_jitted

from numadam._core.rule import named
from numadam._cuda.launch import on_gpu
from numadam._jit.calls import read_only
from numadam._jit.private import dot
from numadam._least_squares import kernel as kn
from numadam._least_squares.batch import FitTask, outputs, result_of, run_fits, text_of
from numadam._least_squares.differences import differentiate
from numadam._least_squares.guards import (
    CHECKED_PROBLEMS,
    FINE,
    MARKS,
    RAISED,
    check,
    check_size,
    evaluate,
)
from numadam._least_squares.objective import DIFFERENCES, FORMS
from numadam._minimize.compiled.objective import derivatives
from numadam._minimize.device import launch, numba_view, on_device
from numadam._minimize.result import ManyResult

#: Problems of a launch at most, as many as a large GPU runs at once; and at least, if that takes
#: more bytes for their r and J.
_MOST_PROBLEMS, _LEAST_PROBLEMS, _MOST_BYTES = 2**18, 2**10, 2**30
#: Results that stay on the GPU.
_ON_GPU = "x", "cost", "optimality", "cov", "stderr", "residuals", "jacobian"
#: What the text of the loop reads.
_NUMBERS = "n", "m", "jac", "max_nfev", "absolute_sigma", "need"
_Settings: Any = named("Settings", (*_NUMBERS, *kn.FLOATS))

# --- the kernel ----------------------------------------------------------------------------------


def _sum_of_products(a, b):
    """Sum of a * b in float64, as `numadam._jit.private.dot` of a whole array."""
    total = 0.0
    for k in range(len(a)):
        total += float64(a[k]) * float64(b[k])
    return total


def _no_differences(
    s, i, norm, x, low, high, r, J, spare_slope, trial, spare, args, steps, changes, units
):
    """Stand for `differences.differentiate` where residuals derive: it would be compiled."""
    return 0


_EVALUATE = """
def evaluate(s, i, x, r, J, m, args):
    if m > 0:
        for k in range(len(r)):
            r[k] = 0
            {clear}
    fun({given})
    return 0
"""


def _make_evaluate(fun: Any, form: tuple[bool, bool], derives: bool) -> Any:
    """As `guards.evaluate`; strides of r and J are not known, so `fun` is compiled once."""
    r, J = "r[::1]", "(J.T if m > 0 else J[:, : s.n])"
    given = ["read_only(x)", r, *[J] * derives, *["i"] * form[1], "*args"]
    clear = "for j in range(s.n): J[j, k] = 0" if derives else "pass"
    scope = {"__name__": __name__, "fun": fun, "read_only": read_only}
    exec(_EVALUATE.format(given=", ".join(given), clear=clear), scope)
    return cuda.jit(device=True)(scope["evaluate"])


def _ported(function: Any, known: dict[Any, Any]) -> Any:
    """A function of the CPU for the GPU, with those that it calls; `known` has some already."""
    if function not in known:
        plain = function.py_func
        names = plain.__globals__.keys() & plain.__code__.co_names
        callees = {name: plain.__globals__[name] for name in names}
        scope = {name: _ported(x, known) for name, x in callees.items() if x is dot or is_jitted(x)}
        copy = FunctionType(plain.__code__, plain.__globals__ | scope, plain.__name__)
        known[function] = cuda.jit(device=True)(copy)
    return known[function]


@functools.lru_cache(maxsize=32)
def kernel_for(
    fun: Any, form: tuple[bool, bool], exact: int, n: int, dtype: np.dtype[Any], checks: bool
) -> Any:
    """The kernel of residuals: it fits problems, or checks what the residuals write of the first.

    ``fits(numbers, tolerances, inputs, results, memory, args)``; `numbers` are the first problem,
    the end, the problems without their starts, and what `_NUMBERS` names after n.
    """
    derives, real, rows = form[0] or exact > 0, from_dtype(dtype), kn.VECTORS + 2 * n
    called = derivatives().with_jacobian(fun, exact) if exact else fun
    known = {
        dot: cuda.jit(device=True)(_sum_of_products),
        evaluate: _make_evaluate(called, form, derives),
    }
    if derives:
        known[differentiate] = cuda.jit(device=True)(_no_differences)

    Problem, Memory = kn.Problem, kn.Memory

    def problem(i, problems, inputs, results):
        x, low, high, points = inputs
        counts, numbers, cov, residuals, jacobian = results
        k, box = i % problems, i % len(low)
        row = residuals[i], jacobian[i]
        ends = low[box], high[box]
        return Problem(k, points[k], x[i], *ends, counts[i], numbers[i], cov[i], *row)

    problem = cuda.jit(device=True)(problem)
    if checks:
        check_one = _ported(check, known)

        def checked(numbers, tolerances, inputs, results, memory, args):
            i, _, problems, m, jac, most, absolute, need = numbers
            marked, found = memory
            if cuda.grid(1) == 0:
                s = _Settings(n, m, jac, most, absolute, need, *tolerances)
                trial = cuda.local.array(n, real)
                of = problem(i, problems, inputs, results)
                found[4] = 1 if check_one(s, of, marked, trial, found, args) else 0

        return cuda.jit(checked)
    fit_one = _ported(kn.fit, known)

    def fits(numbers, tolerances, inputs, results, memory, args):
        first, end, problems, m, jac, most, absolute, need = numbers
        of_points, of_slopes = memory
        w = cuda.grid(1)
        if first + w < end:  # a thread takes one problem
            s = _Settings(n, m, jac, most, absolute, need, *tolerances)
            small = cuda.local.array((rows, n), float64)
            trial = cuda.local.array(n, real)
            r, r2 = of_points[0, :, w], of_points[1, :, w]
            J, J2 = of_slopes[0, :, :, w], of_slopes[1, :, :, w]
            of = problem(first + w, problems, inputs, results)
            fit_one(s, of, Memory(small, trial, r, r2, J, J2), args)

    return cuda.jit(fits)


# --- the run -------------------------------------------------------------------------------------


class DeviceFits:
    """Fits that are run in chunks on the current GPU, in the order of their numbers."""

    _kernel_of: Any

    def __init__(self, task: FitTask) -> None:
        import cupy

        self.task, self.done = task, 0
        problems, n = task.x.shape
        self._chunk = min(problems, _MOST_PROBLEMS, room_for(n, task.m, task.x.itemsize))
        self._x, low, high = map(cupy.asarray, (task.x, task.low, task.high))
        points = np.full(task.problems, task.m) if task.points is None else task.points
        inputs = self._x, low, high, cupy.asarray(points)
        self._out = {name: cupy.asarray(array) for name, array in outputs(task).items()}
        self._given = tuple(map(numba_view, inputs)), tuple(map(numba_view, self._out.values()))
        self._tolerances = *task.tolerances, float(np.finfo(task.x.dtype).eps)
        self._args = on_device(task.args)
        absolute = task.absolute_sigma or task.sigma is not None
        self._numbers = task.m, int(task.derives), task.max_nfev, int(absolute), task.need

    def _launch(self, checks: bool, first: int, end: int, memory: Any) -> None:
        numbers = first, end, self.task.problems, *self._numbers
        arguments = numbers, self._tolerances, *self._given, memory, self._args
        launch(self._kernel_of(checks), end - first, arguments)

    def check(self, kernel_of: Any) -> None:
        """Call the residuals on marks between guards, and refuse what they write elsewhere."""
        import cupy

        self._kernel_of, task = kernel_of, self.task
        real, size = task.x.dtype, check_size(task.x.shape[1], task.m, task.derives)
        marked = cupy.full(size, MARKS[real.type], real)
        said, ended, number = [RAISED], False, 0
        found = cupy.asarray([RAISED, 0, 0, 0, 0])
        while not ended and number < min(task.problems, CHECKED_PROBLEMS):
            self._launch(True, number, number + 1, (numba_view(marked), numba_view(found)))
            *said, ended = found.get().tolist()
            number += 1
            if said[0] == RAISED:
                raise RuntimeError(_RAISED.format(number - 1))
        if said[0] != FINE:
            raise ValueError(text_of(said, task))

    @functools.cached_property
    def _memory(self) -> tuple[Any, Any]:
        """Residuals and J of the problems of a launch."""
        import cupy

        n, real, m = self.task.x.shape[1], self.task.x.dtype, self.task.m
        shapes = (2, m, self._chunk), (2, n, m, self._chunk)
        of_points, of_slopes = (numba_view(cupy.zeros(shape, real)) for shape in shapes)
        return of_points, of_slopes

    def advance(self) -> None:
        """Fit the problems of the next launch, and wait for them."""
        end = min(len(self.task.x), self.done + self._chunk)
        self._launch(False, self.done, end, self._memory)
        status = self._out["counts"][self.done : end, 0].get()
        if (status == kn.UNFINISHED).any():
            number = (self.done + int(np.argmin(status))) % self.task.problems
            raise RuntimeError(_RAISED.format(number))
        self.done = end

    def result(self) -> ManyResult:
        """The result of all problems as they are now; its numbers of float are on the GPU."""
        import cupy

        out = {name: array.get() for name, array in self._out.items()}
        result = result_of(self.task, {**out, "x": self._x.get()})
        for name in result.keys() & set(_ON_GPU):
            result[name] = cupy.asarray(result[name])
        return result


_RAISED = (
    "fun: raised an exception on the GPU in problem {}, which does not say more. Fit this problem "
    "on the CPU, with arrays of NumPy: there it is raised."
)


def room_for(n: int, m: int, item: int) -> int:
    """Problems whose residuals and J have room in the memory of a launch; at least a few."""
    return max(_LEAST_PROBLEMS, _MOST_BYTES // (2 * (n + 1) * m * item))


def fit_on_device(task: FitTask, fun: Any, form: tuple[bool, bool], x0: Any) -> ManyResult:
    """Fit problems on the GPU that has the starts."""
    n, dtype = task.x.shape[1], task.x.dtype
    exact = n if task.derives and not form[0] else 0
    kernel_of = functools.partial(kernel_for, fun, form, exact, n, dtype)
    with on_gpu(x0.device.id):
        try:
            return run_fits(DeviceFits(task), lambda: kernel_of)
        except errors.NumbaError as error:  # the first launch compiles
            if exact and (reason := derivatives().reason(error)):
                raise TypeError(
                    f"fun: {reason} Or pass jac={DIFFERENCES!r}, or write J, with jac=True."
                ) from error
            raise TypeError(
                f"fun: does not compile for a GPU as {FORMS[form]}, where no array can be made and "
                f"functions are those of math. Numba says: {str(error).strip()[:1500]}"
            ) from error
