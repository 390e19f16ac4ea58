"""The loop of `minimize_many`, the same for all kinds of objectives, and its result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from numadam._arrays.interop import to_host
from numadam._core.parts import parts_of
from numadam._minimize import checkpoint as ck
from numadam._minimize import stopping as st
from numadam._minimize.checkpoint import RunState, Task
from numadam._minimize.compiled.objective import check_writes
from numadam._minimize.observers import ProgressBar
from numadam._minimize.result import ManyResult, attach
from numadam._minimize.step_rows import StepRows
from numadam._settings.bounds import Box

# --- results -------------------------------------------------------------------------------------


def _gradient_texts(task: Task, size: np.ndarray, first: np.ndarray) -> list[tuple[int, str]]:
    """Counts of the problems that the gradient's test has stopped, and its messages."""
    absolute, at_rest = size <= task.tolerances.gtol, first == 0.0
    fell = ~absolute & ~at_rest
    ratio = np.divide(size, first, out=np.zeros(len(size)), where=fell)
    found = []
    for those in (absolute, at_rest & ~absolute, fell):
        if those.any():  # the one whose gradient fell least stands for all
            most = int(np.argmax(np.where(those, ratio, -1.0)))
            text = task.tolerances.gradient_message(float(size[most]), float(first[most]))
            found.append((int(those.sum()), text))
    return found


def _many_message(
    codes: np.ndarray, task: Task, size: np.ndarray, first: np.ndarray, eps: Any
) -> str:
    found, total = [], len(codes)
    for code in np.unique(codes):
        those = codes == code
        if code == st.GTOL:
            found += _gradient_texts(task, size[those], first[those])
        else:
            found.append((int(those.sum()), st.MESSAGES[code]))
    if isinstance(eps, float):
        small = int((np.isin(codes, st.AT_REST) & (size > 0.0) & (size < eps)).sum())
        if small:
            found.append((small, f"The gradient is {st.below_eps(eps)}"))
    return " ".join(f"{number} of {total}: {text}" for number, text in found)


def _transposed(g: Any) -> str:
    """A sentence where as many elements have a gradient as there are problems, or ""."""
    problems, elements = len(g), g[0].size if len(g) else 0
    if problems >= elements:
        return ""
    used = int((g.reshape(problems, -1) != 0).any(axis=0).sum())
    if not 0 < used <= problems:
        return ""
    return (
        f" The gradient is 0 in {elements - used:,} of {elements:,} elements of every problem: is "
        "x0 (problems, elements)?"
    )


# --- the loop ------------------------------------------------------------------------------------


class Batch(ABC):
    """Problems that are advanced together."""

    def __init__(self, task: Task) -> None:
        self._task = task
        #: the optimiser of all problems; the subclass sets it
        self.optimizer: Any = None
        #: the beginning of the message: what was found in a file
        self.prefix = ""

    @property
    @abstractmethod
    def done(self) -> int:
        """Iterations of this run."""

    @property
    @abstractmethod
    def live(self) -> int:
        """Problems that have not stopped; on a GPU this waits for it."""

    @property
    @abstractmethod
    def whole(self) -> bool:
        """Whether all problems that run are at one iterate that has been tested."""

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """Evaluations of f, of all problems together."""

    @abstractmethod
    def advance(self, most: int, gap: int) -> Any:
        """Test x0 at the first call; later take at most so many iterations, and test.

        The file of the run is due after `gap` iterations, or at the next test after them.
        """

    @abstractmethod
    def memory(self) -> dict[str, Any]:
        """The last and the best iterates of all problems, by the names that a file has for them.

        Their first axis is that of the problems.
        """

    @abstractmethod
    def _by_name(self) -> dict[str, Any]:
        """The arrays of a file by name; the first axis is that of the problems."""

    def run_state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Numbers and arrays for a file."""
        return {}, {name: to_host(array) for name, array in self._by_name().items()}

    def restore(self, saved: RunState) -> None:
        """Go on from a file."""
        for name, array in self._by_name().items():
            (array[...],) = saved.leaves(name, [array])

    def result(self, interrupted: bool) -> ManyResult:
        """The result of all problems as they are now."""
        memory = self.memory()
        codes = memory["codes"]
        size, first = to_host(memory["grad_norm"]), to_host(memory["first_grad_norm"])
        if not interrupted:
            codes = np.where(codes == st.RUNNING, st.MAXITER, codes)
        status = np.array([st.STATUS[code] for code in range(st.RAISED + 1)])[codes]
        held = np.isin(np.arange(st.RAISED + 1), (st.GTOL, st.FTOL, st.XTOL))
        eps, averaged = getattr(self.optimizer, "eps", None), {}
        if "state/average" in memory:
            averaged["averaged"] = memory["state/average"]
        return ManyResult(
            success=held[codes],
            status=status,
            message=self.prefix
            + _many_message(codes, self._task, size, first, eps)
            + _transposed(memory["best_gradient"]),
            nit=memory["nit"],
            nfev=self.evaluations,
            x=memory["best_x"],
            fun=memory["lowest"],
            jac=memory["best_gradient"],
            grad_norm=memory["best_grad_norm"],
            x_last=memory["x"],
            fun_last=memory["f"],
            **averaged,
        )


def laid_out(task: Task, lay: Callable[[Any], Any]) -> tuple[Any, dict[str, Any]]:
    """Step sizes and options of a rule for an x whose axis of the problems is not the first.

    ``lay(rows)`` lays out an array that has a row for each problem; others get a last axis.
    """

    def over_problems(values: Any) -> Any:
        if np.ndim(values) == 0:
            return values
        array = np.asarray(to_host(values))
        if array.ndim == task.x.ndim and len(array) > 1:
            return lay(array)
        return (array[0] if array.ndim == task.x.ndim else array)[..., None]

    bounds = task.options["bounds"]
    if bounds is not None:
        bounds = Box(*map(over_problems, bounds))
    return over_problems(task.lr), {**task.options, "bounds": bounds}


class CompiledBatch(Batch):
    """Problems under a compiled objective: the same loop takes many iterations in a call."""

    done, whole = 0, False
    #: whether the first call tells that the objective writes into g, and whether there was one
    asks, _has_begun = True, False
    #: scalars of the steps of a call
    _rows: StepRows
    #: what is compiled for the objective; `writes`: it is known to give a gradient
    _objective: Any

    @abstractmethod
    def _run(self, steps: int) -> None:
        """Take at most so many steps and test, or test x0.

        `whole` is False from the first write to `_advanced`.
        """

    @abstractmethod
    def first_iterate(self) -> tuple[Any, Any]:
        """F and gradient of each problem, before any has moved."""

    def advance(self, most: int, gap: int) -> None:
        """Test x0 at the first call; later take at most so many iterations, `gap` or less."""
        objective = self._objective
        asks = self.asks and not self._has_begun and not objective.writes
        self._run(min(most, gap) if self._has_begun else 0)
        if asks:
            self.whole, first = False, self.first_iterate()
            objective.writes = check_writes(*first, self._task.x, self._evaluate_at)
            self.whole = True

    def _advanced(self, steps: int) -> None:
        """Note that all problems have taken so many steps."""
        self._rows.advance(steps)
        self.done += steps
        self._has_begun = self.whole = True

    def _evaluate_at(self, x: Any) -> tuple[Any, Any]:
        """F and gradient of each problem at another x."""
        there = type(self)(self._task._replace(x=x))
        there.asks = False
        there.advance(0, 1)
        return there.first_iterate()

    def _resume(self, saved: RunState) -> None:
        """Take the number of iterations from a file."""
        self.done, self._has_begun, self.whole = saved.number("done"), True, True


def run_batch(make: Callable[[Task], Batch], task: Task) -> ManyResult:
    """Run until every problem has stopped; an exception carries the result so far."""
    batch, file, over = make(task), task.checkpoint, False
    bar = ProgressBar(task.progress, task.maxiter)
    if file is not None:
        # bounds as the user gave them: those of the optimiser are laid out as its x
        options = {**parts_of(batch.optimizer).settings.options, "bounds": task.options["bounds"]}
        saved = file.load(task.lr, options)
        if saved is not None:
            batch.restore(saved)
            if task.checkpoint_check:
                _check_objective(make, task, batch, saved)
            over = batch.live == 0 or batch.done >= task.maxiter
            batch.prefix = file.go_on(batch.done, over)
    try:
        while not over:
            batch.advance(task.maxiter - batch.done, file.gap(batch.done) if file else ck.NEVER)
            live = batch.live
            bar.update(batch.done, f"{live} running")
            over = live == 0 or batch.done >= task.maxiter
            if file is not None and (over or file.due(batch.done)):
                file.write(batch.done, *batch.run_state())
    except BaseException as error:
        attach(error, batch.result(interrupted=True))
        if file is not None and batch.whole:
            file.write_after(error, batch.done, *batch.run_state())
        raise
    finally:
        bar.close(over)
    return batch.result(interrupted=False)


def _check_objective(
    make: Callable[[Task], Batch], task: Task, batch: Batch, saved: RunState
) -> None:
    """Compare f and gradients with those of the file, by a run of no iteration from the best x."""
    (x,) = saved.leaves("best_x", [task.x])
    there = make(task._replace(x=x))
    try:
        there.advance(0, ck.NEVER)
    except BaseException as error:
        attach(error, batch.result(interrupted=True))
        raise
    each = (len(x),)
    f, first = (saved.array(name, each, np.float64) for name in ("lowest", "first_grad_norm"))
    largest = np.abs(to_host(x)).reshape(len(x), -1).max(axis=1, initial=0.0)
    now, where = there.memory(), "in problem {k}"
    ck.check_objective(f, to_host(now["lowest"]), first * largest, x.dtype, where, saved.path)
    g, mine = saved.array("best_gradient", x.shape, x.dtype), to_host(now["best_gradient"])
    ck.check_gradient(g, mine, first, where, saved.path)
