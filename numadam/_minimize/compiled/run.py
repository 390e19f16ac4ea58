"""The run of one problem under a compiled objective."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from numadam._jit.process import defer_interrupts
from numadam._minimize.checkpoint import Best, RunState, Task
from numadam._minimize.compiled import objective as ob
from numadam._minimize.compiled import problem as pr
from numadam._minimize.compiled.loop import CELL, EVALUATED, FRESH, TESTED
from numadam._minimize.observers import Observers
from numadam._minimize.result import Result, make_history
from numadam._minimize.run import Memory, Run
from numadam._minimize.stop_text import NUMBER_AT as NUMBER
from numadam._minimize.stopping import MAXITER, RUNNING, gradient_limit

#: Seconds that a call of the loop should take: so long Ctrl-C and callbacks may have to wait.
_SECONDS_A_CALL = 0.03
#: Iterations of a call at most: a fast objective may become slow.
_MOST_STEPS = 65_536


class CompiledRun(Run):
    """One run of a problem: no Python between the iterations of a call."""

    shares_arrays = True

    def __init__(self, problem: pr.Problem, objective: ob.CompiledObjective, task: Task) -> None:
        self._rows = problem.start(task)
        observers = Observers(task.callback, task.progress, task.maxiter, problem.settings)
        super().__init__(problem.optimizer, observers, task, problem.eps, [problem.firsts])
        self._problem, self._objective = problem, objective
        self._table, self._numbers, self._page = problem.table, problem.numbers, problem.page
        self._operands = (
            *(problem.x, problem.gradient, problem.gradient.reshape(-1)),
            *(problem.numbers, task.args),
        )
        #: seconds of an iteration in the last call, and the iterations before it
        self._seconds, self._before = 0.0, 0
        #: lines of the history, of full pages
        self._kept: list[np.ndarray] = []
        self._start(None)

    @property
    def _done(self) -> int:
        """Iterations of this run."""
        return self._table.item(CELL.DONE)

    @property
    def _tested(self) -> bool:
        return self._table.item(CELL.STATE) == TESTED

    @property
    def _raised(self) -> bool:
        """Whether the objective has raised at the iterate at hand."""
        return self._table.item(CELL.STATE) == EVALUATED

    @property
    def _iterate(self) -> tuple[float, float, float]:
        taken = max(self._done - self._before - 1, 0)
        rate = self._problem.tables.rates.item(taken * self._table.item(CELL.RATE_STEP))
        f = math.nan if self._raised else self._numbers.item(NUMBER.F)
        return f, self._numbers.item(NUMBER.SIZE), rate

    @property
    def _evaluations(self) -> tuple[int, int]:
        evaluations = self._done + (self._table.item(CELL.STATE) != FRESH)
        return evaluations, evaluations

    @property
    def _lines(self) -> np.ndarray:
        rest = self._page[: self._table[CELL.LINES]]
        return np.concatenate([*self._kept, rest]) if self._kept else rest

    def _advance(self) -> Iterator[tuple[int, int]]:
        observers, maxiter, done = self._observers, self._task.maxiter, self._done
        check, file = self._task.check_every, self._file
        while True:
            steps = maxiter - done
            if observers.each:
                steps = min(steps, observers.gap(done, check))
            if file is not None:
                steps = min(steps, file.gap(done))
            code, done = self._call(steps), self._done
            if code == RUNNING and done >= maxiter:
                code = MAXITER
            # a call may have ended elsewhere: by time, or where the file was due
            if observers.active and (code != RUNNING or observers.sees(done, check)):
                code = self._notify(self._begin + done, code)
            yield done, code

    def _call(self, most: int) -> int:
        """Evaluate x0 or go on, for at most so many iterations; returns the test that holds."""
        table, objective, problem = self._table, self._objective, self._problem
        at_start, self._before = not self._tested, self._done
        # at x0 no step is taken, but its line of the history has the lr of the first
        steps = 0 if at_start else min(most, self._chunk())
        # an iterate of a file that is not yet evaluated has the lr of the step that led to it
        late = at_start and self._before > 0
        steps = problem.tables.tabulate(self._settings.lr, self._backend.t - late, steps)
        table[CELL.LEFT], table[CELL.STEP], table[CELL.KNOWN_ROWS] = steps, 0, self._rows.known
        if at_start:
            table[CELL.STATE] = FRESH
        start = time.perf_counter()
        code = objective.drive(problem.loop.address, problem.table_at, self._operands)
        self._seconds = (time.perf_counter() - start) / max(steps, 1)
        self._rows.known = max(self._rows.known, table.item(CELL.KNOWN_ROWS))
        if code == ob.FAILED:
            objective.call_again(problem.x.copy(), 0, self._task.args)
        if at_start and not objective.writes:
            f, g, x = self._numbers[NUMBER.F], problem.gradient, problem.x
            evaluate = functools.partial(objective.evaluate, self._task.args)
            objective.writes = ob.check_writes(f, g, x, evaluate)
        return table.item(CELL.CODE)

    def _chunk(self) -> int:
        """Iterations of the next call: about as many as take `_SECONDS_A_CALL`."""
        most = _SECONDS_A_CALL / max(self._seconds, 1e-9)
        most = min(most, _MOST_STEPS if self._done else pr.FEW_STEPS)
        if every := self._task.every:
            room = pr.LINES - self._table.item(CELL.LINES)
            if room < pr.LINES // 2:
                with defer_interrupts():  # a file may be written after Ctrl-C
                    self._kept.append(self._page[: pr.LINES - room].copy())
                    self._table[CELL.LINES], room = 0, pr.LINES
            most = min(most, (room - 2) * every)
        return max(1, int(most))

    def _is_whole(self) -> bool:
        # else an observer may have seen this iterate, or not
        running = self._table.item(CELL.CODE) == RUNNING
        return self._raised or (running and not self._observers.each)

    def _remember(self) -> Memory:
        value, problem = self._numbers.item, self._problem
        # the best f is infinite where it was not tracked
        best = value(NUMBER.F_BEST), value(NUMBER.SIZE_BEST)
        memory = Memory(*self._iterate, *best, value(NUMBER.FIRST), value(NUMBER.F_BEFORE))
        if self._tested:
            memory.gradient = problem.gradient
        elif self._table[CELL.BEFORE]:
            memory.before = [problem.before]
        if memory.lowest < math.inf:
            memory.best_x, memory.best_gradient = problem.best_x, problem.best_gradient
        return memory

    def _resume(self, saved: RunState, memory: Memory, lines: np.ndarray) -> None:
        done, tested, params = saved.number("done"), saved.number("tested"), self._backend.params
        if tested:
            saved.leaves("gradient", params)
        elif done > 0 and self._task.tolerances.xtol > 0.0:
            saved.leaves("before", params)
        problem, numbers = self._problem, self._numbers
        pairs = [(problem.gradient, memory.gradient), (problem.best_x, memory.best_x)]
        pairs += [(problem.best_gradient, memory.best_gradient)]
        for array, values in (*pairs, *((problem.before, values) for values in memory.before)):
            if values is not None:
                array[...] = values
        self._kept, problem.tables.rates[0], self._before = [lines], memory.lr, done
        self._seconds = _SECONDS_A_CALL  # unknown: one iteration to begin with
        self._table[CELL.DONE], self._table[CELL.STATE] = done, TESTED if tested else FRESH
        f, first = math.nan if memory.f is None else memory.f, memory.first_grad_norm
        numbers[NUMBER.F], numbers[NUMBER.SIZE] = f, memory.grad_norm
        numbers[NUMBER.F_BEFORE], numbers[NUMBER.FIRST] = memory.f_before, first
        numbers[[NUMBER.F_BEST, NUMBER.SIZE_BEST]] = memory.lowest, memory.best_grad_norm
        its = self._task.tolerances
        numbers[NUMBER.LIMIT] = gradient_limit(its.gtol, its.gtol_rel, first)

    def _evaluate_at(self, x: np.ndarray) -> tuple[float, Sequence[Any]]:
        f, g = self._objective.evaluate(self._task.args, x)
        return f, [g]

    def _set_best(self, best: Best) -> None:
        problem = self._problem
        problem.best_x[...] = best.x
        problem.best_gradient[...] = math.nan if best.jac is None else best.jac
        self._numbers[[NUMBER.F_BEST, NUMBER.SIZE_BEST]] = best.fun, best.grad_norm

    def _history(self, memory: Memory) -> dict[str, np.ndarray]:
        """The history with the last iterate; iterations count on where a run goes on."""
        lines, done, f = self._lines, self._done, memory.f
        seen = len(lines) > 0 and lines[-1, 0] == done
        if self._task.every and not seen and f is not None and math.isfinite(f):
            lines = np.vstack([lines, [done, f, memory.grad_norm, memory.lr]])
        history = make_history(lines)
        history["nit"] += self._begin
        return history


def minimize_compiled(task: Task) -> Result:
    """The result of a run under a compiled objective."""
    ob.check_for_compiled(task.x)
    form = ob.form_of(task.fun, task.args, task.jac, many=False)
    objective = ob.objective_for(task.fun, form, task.x, task.args)
    problem = pr.take(task)
    result = CompiledRun(problem, objective, task).go()
    # after an exception it is not kept
    pr.put_back(problem)
    return result
