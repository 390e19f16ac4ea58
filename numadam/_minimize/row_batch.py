"""Many problems under an objective in Python, which evaluates all of them, or those that run."""

from __future__ import annotations

import functools
import inspect
import math
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numba import boolean, float64, int64, types

from numadam._arrays.interop import is_cupy, to_host
from numadam._core.parts import parts_of
from numadam._jit.build import compiled
from numadam._minimize import checkpoint as ck
from numadam._minimize import stopping as st
from numadam._minimize.arguments import check_interval
from numadam._minimize.batches import Batch
from numadam._minimize.checkpoint import RunState, Task
from numadam._minimize.objective import cast, refuse_uncompiled, split_pair
from numadam._minimize.observers import refuse_observers
from numadam._minimize.stop_tests import projected, released
from numadam._minimize.stopping import RUNNING, check_convergence, gradient_limit

# --- the objective on rows -----------------------------------------------------------------------


def takes_rows(fun: Any, args: tuple[Any, ...]) -> bool:
    """Whether `fun` can be called with ``rows=rows``: it has `rows` by name or ``**kwargs``.

    Not where the caller has bound `rows` already, nor where a wrapper with ``**kwargs`` passes all
    on to a function that has none.
    """
    if isinstance(fun, functools.partial) and "rows" in fun.keywords:
        return False
    try:
        signature = inspect.signature(fun, follow_wrapped=False)
        signature.bind_partial(None, *args, rows=None)
    except (TypeError, ValueError):  # the last for functions in C that have no signature
        return False
    inside = getattr(fun, "__wrapped__", None)
    return "rows" in signature.parameters or inside is None or takes_rows(inside, args)


class RowObjective:
    """Evaluate f and gradient of the rows that run, and check what comes back.

    Attributes
    ----------
    evaluations : int
        Evaluations of f so far, one a row.
    """

    def __init__(self, fun: Any, args: tuple[Any, ...], jac: Any, x: Any) -> None:
        self._fun_by_rows = takes_rows(fun, args)
        if not self._fun_by_rows:
            refuse_uncompiled(fun, args, 0)
        if jac is not True and not callable(jac):
            raise ValueError(
                "jac: an objective in Python needs True (fun returns f and gradient) or a "
                f"function, got {jac!r}."
            )
        self._fun, self._args, self._jac, self._x = fun, args, jac, x
        self._xp, self._on_host = array_namespace(x), not is_cupy(x)
        self._of_f = self._xp.zeros(len(x), dtype=np.float64)
        self._jac_by_rows = jac is not True and takes_rows(jac, args)
        self.evaluations = 0

    def evaluate(self, running: np.ndarray) -> tuple[Any, Any]:
        """Evaluate f and gradient at x: of all rows, but zeros where stopped ones were left out."""
        # None: all of them
        rows = None if running.all() else self._xp.asarray(np.flatnonzero(running))
        given, of_f = self._call(self._fun, self._fun_by_rows, rows)
        self.evaluations += len(running) if of_f is None else len(of_f)
        if self._jac is True:
            (f, g), of_g, name = split_pair(given), of_f, "fun: its gradient"
        else:
            f, name = given, "jac: the gradient"
            g, of_g = self._call(self._jac, self._jac_by_rows, rows)
        return self._whole("fun: f", f, of_f, self._of_f), self._whole(name, g, of_g, self._x)

    def _call(self, function: Any, by_rows: bool, rows: Any) -> tuple[Any, Any]:
        """Call one of the user's functions; returns the rows that it got as well, None for all."""
        if not by_rows:
            return function(self._x.copy(), *self._args), None
        numbers = self._xp.arange(len(self._x), dtype=np.int64) if rows is None else rows.copy()
        x = self._x.copy() if rows is None else self._x[rows]
        try:
            return function(x, *self._args, rows=numbers), rows
        except TypeError as error:
            if "'rows'" in str(error):  # a wrapper with **kwargs, of a function without
                error.add_note(
                    "numadam: a fun or jac that takes **kwargs gets rows=..., the numbers of the "
                    "rows of X. Leave it out when you call others, or take X and args alone."
                )
            raise

    def _whole(self, name: str, given: Any, rows: Any, like: Any) -> Any:
        """Check an array of the user's, and bring it to the rows and the dtype of another one."""
        shape, dtype = (len(like) if rows is None else len(rows), *like.shape[1:]), like.dtype
        if getattr(given, "shape", None) != shape:
            raise ValueError(
                f"{name} has to be an array of shape {shape}, one entry for each "
                f"row of X, got {getattr(given, 'shape', type(given).__name__)}."
            )
        if is_cupy(given) == self._on_host:
            raise TypeError(f"{name} and x0 have to be arrays of one library.")
        given = cast(given, dtype, name)
        if rows is None:
            return given
        whole = self._xp.zeros_like(like)
        whole[rows] = given
        return whole


# --- objectives in Python, on all rows at once ---------------------------------------------------


_COLUMN = float64[::1]
#: f, f before; norms of gradient, move, x and the first gradient; whether there is an iterate
#: before; gtol, gtol_rel, ftol, xtol; the codes.
_TESTS = int64(*[_COLUMN] * 6, boolean, types.UniTuple(float64, 4), int64[::1])


#: Writes into `codes` the test that holds in each running problem; returns how many go on.
_TEST_PROBLEMS = """\
def test_problems(f, f_before, steep, moved, size, first, later, tolerances, codes):
    gtol, gtol_rel, ftol, xtol = tolerances
    live = 0
    for row in range(len(codes)):
        if codes[row] == RUNNING:
            limits = gradient_limit(gtol, gtol_rel, first[row]), ftol, xtol
            codes[row] = check_convergence(
                f[row], f_before[row], steep[row], moved[row], size[row], later, limits
            )
            live += codes[row] == RUNNING
    return live
"""
_SCOPE = {
    "RUNNING": RUNNING,
    "check_convergence": check_convergence,
    "gradient_limit": gradient_limit,
}


def _host(x: Any) -> np.ndarray:
    return np.array(to_host(x), dtype=np.float64)  # a copy: fun may write to its own again


def _sizes(xp: Any, x: Any) -> Any:
    """The absolute real numbers of each row, as float64."""
    if x.dtype.kind == "c":
        x = xp.ascontiguousarray(x).view(x.real.dtype)
    a = xp.abs(x).astype(np.float64, copy=False)
    return a.reshape(len(a), math.prod(a.shape[1:]))


@np.errstate(all="ignore")
def _norms(xp: Any, a: Any, norm: float) -> np.ndarray:
    """The norm of each row of sizes, with the bits of `stop_text.norm_lines` on NumPy arrays."""
    if a.size == 0:
        return np.zeros(len(a))
    top = a.max(axis=1)
    if norm == np.inf:
        return _host(top)
    scaled = (top > 0.0) & (top < np.inf)  # False for NaN
    a = a / xp.where(scaled, top, 1.0)[:, None]
    a *= a
    # in the order of the elements, unlike NumPy's sum; CuPy's cumsum has another order, too
    total = np.cumsum(a, axis=1)[:, -1] if isinstance(a, np.ndarray) else a.sum(axis=1)
    return _host(xp.where(scaled, top * xp.sqrt(total), top))


class PythonBatch(Batch):
    """All problems in one array, one a row; a row that has stopped stays as it is."""

    done, live, whole = 0, 0, False

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        x = task.x
        lr = task.lr if task.rates is None else task.rates.reshape(-1, *[1] * (x.ndim - 1))
        self.optimizer = refuse_observers(task.rule(x, lr, **task.options))
        self._objective = RowObjective(task.fun, task.args, task.jac, x)
        _, settings, backend, _ = parts_of(self.optimizer)
        if settings.options["ema"] is not None:
            raise ValueError("ema: the average of a row that has stopped would go on; compile fun.")
        options = settings.options
        clips = (name for name in ("clip_norm", "clip_array_norm") if options[name] is not None)
        if (clip := next(clips, None)) is not None:
            raise ValueError(
                f"{clip}: would mix the problems of an objective in Python; compile fun with "
                "Numba, or clip_value."
            )
        self._x, self._xp = x, array_namespace(x)
        self._check = check_interval(task.check_every, backend.is_host)
        boxes = settings.leaf_boxes()
        self._box = None if boxes is None else boxes[0]
        problems = len(x)
        self._codes, self._nit = np.zeros((2, problems), np.int64)
        name = "stop-tests-of-problems"
        self._test_problems = compiled(name, _TEST_PROBLEMS, _SCOPE, _TESTS, entry="test_problems")
        self._moves = np.zeros(problems), np.zeros(problems)
        self._f_last, self._f_best, self._steep_best = np.full((3, problems), np.nan)
        self._steep_first, self._steep_last = np.full((2, problems), np.nan)
        self._best, self._best_g = x.copy(), self._xp.zeros_like(x)
        #: the first gradient of each number, see `share_of_own`
        self._firsts = self._xp.zeros_like(_sizes(self._xp, x))
        #: what is being kept, for an interrupt between the arrays
        self._keeping: tuple[np.ndarray, Any, np.ndarray] | None = None
        self._f: Any = None
        self._g: Any = None
        self._x_before: Any = None
        self._running, self._started = np.ones(problems, bool), False
        self.done, self.live, self.whole = 0, problems, False

    def advance(self, most: int, gap: int) -> None:
        """Test x0 at the first call; later take steps until the next test, at most `most`.

        Where a file is due earlier it waits for the test.
        """
        self.whole = False
        if self._started:
            for _ in range(min(most, self._check - self.done % self._check)):
                self._x_before = self._x.copy() if self._task.tolerances.xtol > 0.0 else None
                self._f = None
                self.optimizer.step(self._g)
                self._restore()
                self.done += 1
                self._nit[self._running] = self.done
                self._evaluate()
        else:
            self._evaluate()
        self._test()
        self._started = self.whole = True

    def _by_name(self) -> dict[str, Any]:
        """The arrays of a file by name, besides the state."""
        return {
            "x": self._x,
            "gradient": self._g,
            "best_x": self._best,
            "best_gradient": self._best_g,
            "first_gradient": self._firsts,
            "codes": self._codes,
            "nit": self._nit,
            "f": self._f_last,
            "lowest": self._f_best,
            "best_grad_norm": self._steep_best,
            "grad_norm": self._steep_last,
            "first_grad_norm": self._steep_first,
        }

    def run_state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Numbers and arrays for a file."""
        _, arrays = super().run_state()
        return {"nfev": self._objective.evaluations}, {**arrays, **ck.state_arrays(self.optimizer)}

    def restore(self, saved: RunState) -> None:
        """Go on from a file."""
        done, self._g = saved.number("done"), self._xp.empty_like(self._x)
        super().restore(saved)
        ck.load_state_arrays(self.optimizer, saved)
        self._objective.evaluations = saved.number("nfev")
        self._kept, self._running = self._x.copy(), self._codes == RUNNING
        self._f = self._xp.asarray(self._f_last)
        self.done, self.live = done, int(self._running.sum())
        self._started = self.whole = True

    def _evaluate(self) -> None:
        self._f, self._g = self._objective.evaluate(self._running)

    def _restore(self) -> None:
        """Bring rows that have stopped back to where they were."""
        if not self._running.all():
            self._copy(self._x, self._kept, ~self._running)

    def _copy(self, to: Any, of: Any, rows: np.ndarray) -> None:
        """Copy some rows."""
        if rows.all():
            to[...] = of  # up to 30 times faster
        elif rows.any():
            where = self._xp.asarray(rows).reshape(-1, *[1] * (to.ndim - 1))
            self._xp.copyto(to, of, where=where)

    @np.errstate(all="ignore")
    def _test(self) -> None:
        """Run the stop tests of all rows that run."""
        xp, x, first = self._xp, self._x, not self._started
        its, running, f = self._task.tolerances, self._running, _host(self._f)
        steep = _norms(xp, _sizes(xp, projected(xp, x, self._g, self._box)), its.norm)
        sizes = _sizes(xp, released(xp, x, self._g, self._box))
        if first:
            self._steep_first = steep
        if self.done <= self._check:
            rows = steep <= self._steep_first
            self._copy(self._firsts, xp.maximum(self._firsts, sizes), rows)
        if self._x_before is not None:
            self._moves = (
                _norms(xp, _sizes(xp, x - self._x_before), its.norm),
                _norms(xp, _sizes(xp, x), its.norm),
            )
        self._keep_best(running & (first | np.isfinite(f) & (f < self._f_best)), f, steep)
        live = int(
            self._test_problems(
                f,
                self._f_last,
                steep,
                *self._moves,
                np.where(self._remains(running, steep, sizes), 0.0, self._steep_first),
                not first,
                (its.gtol, its.gtol_rel, its.ftol, its.xtol),
                self._codes,
            )
        )
        np.copyto(self._f_last, f, where=running)
        np.copyto(self._steep_last, steep, where=running)
        if live < running.sum():
            self._kept, self._running = x.copy(), self._codes == RUNNING
        self.live = live

    def _remains(self, running: np.ndarray, steep: np.ndarray, sizes: Any) -> np.ndarray:
        """The rows at which `gtol_rel` holds for the norm, but not for each component."""
        its, xp = self._task.tolerances, self._xp
        if its.gtol_rel == 0.0:
            return np.zeros(len(steep), bool)
        near = running & (steep > its.gtol) & (steep <= its.gtol_rel * self._steep_first)
        if near.any():
            rows = xp.asarray(np.flatnonzero(near))
            own = self._firsts[rows]
            above = (sizes[rows] > st.share_of_own(its.gtol_rel) * own) & (own > 0)
            near[near] = to_host(above.any(axis=1))
        return near

    def _keep_best(self, better: np.ndarray, f: np.ndarray, steep: np.ndarray) -> None:
        """Keep the rows at which f is lower than before: x, f, gradient and its norm."""
        self._keeping = better, f, steep
        np.copyto(self._f_best, f, where=better)
        np.copyto(self._steep_best, steep, where=better)
        self._copy(self._best, self._x, better)
        self._copy(self._best_g, self._g, better)
        self._keeping = None

    @property
    def evaluations(self) -> int:
        """Of f, of all problems together."""
        return self._objective.evaluations

    def memory(self) -> dict[str, Any]:
        """The last and the best iterates of all problems, brought to one moment."""
        if self._keeping is not None:
            self._keep_best(*self._keeping)
        self._restore()
        f = np.nan if self._f is None else _host(self._f)  # None: not evaluated at x
        memory = {**self._by_name(), "f": np.where(self._running, f, self._f_last)}
        for name in ("lowest", "f", "best_grad_norm"):
            memory[name] = self._xp.asarray(memory[name])
        return memory
