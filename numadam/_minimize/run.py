"""One run of `minimize`, whatever its loop, and that of an objective in Python."""

from __future__ import annotations

import functools
import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from numadam._arrays.interop import to_host
from numadam._core.hyper import LR
from numadam._core.parts import parts_of
from numadam._minimize import checkpoint as ck
from numadam._minimize import stopping as st
from numadam._minimize.arguments import check_interval, copy_tree
from numadam._minimize.checkpoint import Best, RunState, Task
from numadam._minimize.objective import Objective
from numadam._minimize.observers import Observers
from numadam._minimize.result import Result, attach, make_history
from numadam._minimize.stop_tests import stop_tests
from numadam._minimize.stopping import BAD_F, MAXITER, RUNNING
from numadam._optimizer.optimizer import Optimizer


@dataclass(slots=True)
class Memory:
    """The last and the best iterate of a run, by the names that a file has for them.

    `lr` is that of the step to the last one. `lowest` is infinite where there is no best one.
    `before` are the arrays of x before the last step, where the last iterate is to be tested yet.
    """

    f: float | None = None
    grad_norm: float = math.nan
    lr: float = math.nan
    lowest: float = math.inf
    best_grad_norm: float = math.nan
    first_grad_norm: float = math.nan
    f_before: float = math.nan
    gradient: Any = None
    best_x: Any = None
    best_gradient: Any = None
    before: Sequence[Any] = ()


#: What a file holds of `Memory`: numbers, and arrays that are nested as x.
_NUMBERS = tuple(Memory.__slots__[:7])
_TREES = ("gradient", "best_x", "best_gradient")


class Run(ABC):
    """One minimisation; a loop says how it advances. `eps` is the rule's, where it has one."""

    #: whether other runs get the same arrays, so that a result needs copies
    shares_arrays: ClassVar[bool] = False

    def __init__(
        self,
        optimizer: Optimizer,
        observers: Observers,
        task: Task,
        eps: object,
        firsts: Sequence[Any],
    ) -> None:
        self._optimizer, self._observers, self._task, self._eps = optimizer, observers, task, eps
        #: the first gradient of each component
        self._firsts = firsts
        self._tree, self._settings, self._backend, _ = parts_of(optimizer)
        self._x, self._file = optimizer.params, task.checkpoint
        self._begin, self._resumed, self._code = 0, task.state is not None, RUNNING
        #: the file, where it has a run; and whether that has all iterations that are asked for
        self._found: ck.Checkpoint | None = None
        self._over = False
        #: the beginning of the message: what was found
        self._prefix = ""

    def _start(self, evaluate: Callable[[], Any] | None) -> None:
        """Go on from the state or the file of another run, if there is one."""
        saved = None
        if self._file is not None:
            options = {k: v for k, v in self._settings.options.items() if k != "comm"}
            saved = self._file.load(self._optimizer.lr, options)
        if self._resumed:
            best = ck.load_state(self._optimizer, self._task.state, self._firsts)
            if best is not None and self._task.track_best is not False:
                self._set_best(best)
        last = self._begin = self._backend.t
        if saved is not None:
            self._found = self._file
            self._restore(saved)
            nit, tested = self._backend.t, self._tested
            self._over = tested and nit - self._begin >= self._task.maxiter
            # the last iteration that the observers have seen
            last = max(self._begin, nit - (not tested))
        known, leaves = self._resumed or last > self._begin, self._backend.params
        # no method of the run, which would hold args in a cycle for the garbage collector
        make_x = functools.partial(copy_tree, self._x)
        self._observers.start(last, known, leaves, make_x, evaluate, self._begin)

    # what each loop implements

    @property
    @abstractmethod
    def _tested(self) -> bool:
        """Whether the iterate at hand has been evaluated and tested."""

    @property
    @abstractmethod
    def _iterate(self) -> tuple[float | None, float, float]:
        """F, the norm of the gradient, and lr."""

    @property
    @abstractmethod
    def _evaluations(self) -> tuple[int, int]:
        """Evaluations of f and of the gradient."""

    @property
    @abstractmethod
    def _lines(self) -> np.ndarray:
        """The kept lines of the history."""

    @abstractmethod
    def _advance(self) -> Iterator[tuple[int, int]]:
        """Advance the run and notify the observers; yields (iterations done, stop code).

        It yields at the end of the run, and wherever the file may be due.
        """

    @abstractmethod
    def _remember(self) -> Memory:
        """The memory of the run, brought up to date."""

    @abstractmethod
    def _set_best(self, best: Best) -> None:
        """Take the best iterate of an earlier run."""

    @abstractmethod
    def _resume(self, saved: RunState, memory: Memory, lines: np.ndarray) -> None:
        """Take what a file has; x and state have been loaded."""

    @abstractmethod
    def _is_whole(self) -> bool:
        """Whether the run can be saved where it has raised."""

    @abstractmethod
    def _evaluate_at(self, x: Any) -> tuple[float, Sequence[Any]]:
        """F and gradient at such an x, once more: the run stays as it is.

        No arrays of a gradient that is formed by differences.
        """

    # what all loops share

    def _copy(self) -> Any:
        return copy_tree(self._x)

    def _state(self) -> dict[str, Any]:
        """Copies of counters and state of the optimiser."""
        backend, unflatten = self._backend, self._tree.unflatten
        copies = {name: value.copy() for name, value in backend.counters.items()}
        for name, views in backend.state.items():
            copies[name] = unflatten([view.copy() for view in views])
        return {**copies, "t": backend.t}

    def go(self) -> Result:
        """Run until a stop test holds; an exception carries the result so far."""
        code = before = self._code
        if (self._found or self._resumed) and self._task.checkpoint_check:
            self._check_objective()
        try:
            if code == st.CALLBACK:
                code = self._ask_again()
            goes_on = code in (RUNNING, MAXITER) and not self._over
            if self._found:
                self._prefix = self._found.go_on(self._backend.t, not goes_on)
            if goes_on:
                code = RUNNING
                code = self._loop()
            elif code == RUNNING:
                code = MAXITER
            code = self._complete(code)
            if goes_on or code != before:
                self._save(code)
            code = self._confirm(code)
        except BaseException as error:
            attach(error, self._result(RUNNING))
            if self._file is not None and self._is_whole():
                self._file.write_after(error, *self._run_state(RUNNING))
            raise
        finally:
            self._observers.close(code)
        return self._result(code)

    def _check_objective(self) -> None:
        """Compare f and gradient with those of the run: at the last iterate, else at the best."""
        memory, where = self._remember(), f"at iteration {self._backend.t}"
        f, x, gradient = memory.f, self._x, memory.gradient
        if f is None or not self._tested:
            f, x, gradient = memory.lowest, memory.best_x, memory.best_gradient
            where = "at its best iterate"
        if x is None:
            return
        leaves = self._tree.flatten(x, "x")
        # copies, for what is evaluated may be written into the same arrays
        saved = (
            []
            if gradient is None
            else [to_host(one).copy() for one in self._tree.flatten(gradient, "jac")]
        )
        try:
            now, grads = self._evaluate_at(x)
        except BaseException as error:
            attach(error, self._result(RUNNING))
            raise
        largest = max((float(abs(leaf).max()) for leaf in leaves if leaf.size), default=0.0)
        path = self._found.path if self._found else None
        first = memory.first_grad_norm
        ck.check_objective(f, now, first * largest, leaves[0].dtype, where, path)
        for before, again in zip(saved, grads, strict=False):  # none by differences
            ck.check_gradient(before, to_host(again), first, where, path)

    def _ask_again(self) -> int:
        """Ask the callback that has ended the run of a file whether it still does."""
        observers = self._observers
        observers.f, size, rate = self._iterate
        return observers.ask(self._backend.t, size, rate)

    def _loop(self) -> int:
        """Advance until a test holds; returns it."""
        code = RUNNING
        for done, code in self._advance():
            if code != RUNNING:
                break
            if self._file is not None and self._file.due(done):
                self._save(RUNNING)
        return code

    def _notify(self, nit: int, code: int) -> int:
        """Notify the observers of an iterate at which `code` holds; returns what holds then."""
        asked = self._observers.notify(nit, *self._iterate, code != RUNNING)
        return code if asked == RUNNING else asked

    def _complete(self, code: int) -> int:
        """Evaluate what the result needs; returns the test that holds."""
        return code

    def _confirm(self, code: int) -> int:
        """The true code of a stop, where a loop has to ask once more; the file has `code`."""
        return code

    def _save(self, code: int) -> None:
        if self._file is not None:
            self._file.write(*self._run_state(code))

    def _run_state(self, code: int) -> tuple[int, dict[str, Any], dict[str, Any]]:
        """Iterations done, numbers and arrays of the run.

        At an iterate that has been tested, or one that is not evaluated, where that has raised.
        """
        memory, keys = self._remember(), ck.keys_of(self._x, self._tree)
        numbers = {name: getattr(memory, name) for name in _NUMBERS}
        numbers |= {"begin": self._begin, "resumed": self._resumed, "code": code}
        numbers["tested"] = self._tested
        arrays = {
            **ck.by_name("x", self._backend.params, keys),
            **ck.state_arrays(self._optimizer, keys),
            **ck.by_name("first_gradient", self._firsts, keys),
            "history": self._lines,
        }
        for name in _TREES:
            tree = getattr(memory, name)
            if tree is not None:
                arrays |= ck.by_name(name, self._tree.flatten(tree, name), keys)
        if memory.before:
            arrays |= ck.by_name("before", memory.before, keys)
        return self._backend.t - self._begin, numbers, arrays

    def _restore(self, saved: RunState) -> None:
        """Go on from a file."""
        params, keys, number = self._backend.params, ck.keys_of(self._x, self._tree), saved.number
        memory = Memory(**{name: number(name) for name in _NUMBERS})
        for name in _TREES:
            if saved.has(name, keys) or (name == "best_x" and memory.lowest < math.inf):
                setattr(memory, name, self._tree.unflatten(saved.leaves(name, params, keys)))
        if saved.has("before", keys):
            memory.before = saved.leaves("before", params, keys)
        x, lines = saved.leaves("x", params, keys), saved.table("history", 4)
        firsts = saved.leaves("first_gradient", params, keys)
        ck.load_state_arrays(self._optimizer, saved, keys)
        for leaf, value in zip((*params, *self._firsts), (*x, *firsts), strict=True):
            leaf[...] = value
        self._begin, self._resumed, self._code = map(number, ("begin", "resumed", "code"))
        self._resume(saved, memory, lines)

    def _result(self, code: int) -> Result:
        memory, its = self._remember(), self._task.tolerances
        kept = copy_tree if self.shares_arrays else lambda x: x
        f, size, first = memory.f, memory.grad_norm, memory.first_grad_norm
        f = math.nan if f is None else f
        saved, x, g = None, memory.best_x, memory.best_gradient
        if memory.lowest < math.inf:
            best = Best(kept(x), memory.lowest, kept(g), memory.best_grad_norm)
            saved = Best(copy_tree(x), best.fun, copy_tree(g), best.grad_norm)
        else:
            best = Best(self._copy(), f, copy_tree(memory.gradient), size)
        nfev, njev = self._evaluations
        message = self._prefix + (
            self._observers.message
            or st.stop_message(code, its, size, first, self._eps, saved is not None)
        )
        firsts = self._tree.unflatten([one.copy() for one in self._firsts])
        result = Result(
            success=code in (st.GTOL, st.FTOL, st.XTOL),
            status=st.STATUS[code],
            message=message,
            x=best.x,
            fun=best.fun,
            jac=best.jac,
            nit=self._backend.t,
            nfev=nfev,
            njev=njev,
            x_last=kept(self._x),
            fun_last=f,
            grad_norm=best.grad_norm,
            history=self._history(memory),
            state=ck.save_state(self._state(), self._copy(), saved, first, its.norm, firsts),
        )
        if "average" in self._backend.state:
            result["averaged"] = self._optimizer.averaged
        return result

    def _history(self, memory: Memory) -> dict[str, np.ndarray]:
        return make_history(self._lines)


# --- objectives in Python ------------------------------------------------------------------------

#: A line of the history: a list of tuples would take 0.3 us a line, most of it at the end.
_pack_line = struct.Struct("=4d").pack


class PythonRun(Run):
    """One minimisation with an objective in Python."""

    def __init__(self, task: Task) -> None:
        optimizer, tests = task.rule(task.x, task.lr, **task.options), task.tolerances
        objective = Objective.of_task(task, optimizer)
        backend, first = parts_of(optimizer).backend, ck.first_of(task.state, tests)
        self._objective, self._stop_tests = objective, stop_tests(backend, tests, first)
        observers = Observers(task.callback, task.progress, task.maxiter, backend.settings)
        firsts = self._stop_tests.firsts
        super().__init__(optimizer, observers, task, getattr(optimizer, "eps", 0.0), firsts)
        self._memory = Memory()
        self._check = check_interval(task.check_every, self._backend.is_host)
        self._wants_f = observers.wants_f or tests.ftol > 0.0 or task.track_best is True
        #: whether the gradient of the last iterate would be for nobody
        self._unseen = objective.apart and not (tests.any or observers.wants_gradient)
        self._keeps_x = tests.xtol > 0.0
        if isinstance(self._settings.lr, float):
            self._memory.lr = self._settings.lr
        # f is compared where it is known
        self._tracks = task.track_best is not False
        #: of each iteration to keep four numbers: nit, f, gradient, lr
        self._table = bytearray()
        #: evaluations before x, where that at x has raised
        self._counted: tuple[int, int] | None = None
        self._has_tested = False
        self._start(objective.value)

    @property
    def _tested(self) -> bool:
        return self._has_tested and self._counted is None

    @property
    def _iterate(self) -> tuple[float | None, float, float]:
        memory = self._memory
        return memory.f, memory.grad_norm, memory.lr

    @property
    def _evaluations(self) -> tuple[int, int]:
        return self._objective.nfev, self._objective.njev

    @property
    def _lines(self) -> np.ndarray:
        return np.frombuffer(bytes(self._table)).reshape(-1, 4)

    def _advance(self) -> Iterator[tuple[int, int]]:
        """Step, evaluate and test, to an iterate for the observers or the file, or the end.

        One long function with locals: a call for each part would take 1 us of an iteration.
        """
        memory, objective, tree, settings = (
            self._memory, self._objective, self._tree, self._settings,
        )  # fmt: skip
        tests, file, lines, observed = (
            self._stop_tests, self._file, self._table, self._observers.active,
        )  # fmt: skip
        evaluate, test, backend = objective.evaluate, tests.test, self._backend
        code: int
        nan, isfinite = math.nan, math.isfinite
        tracks, sizes = self._tracks, tests.sizes
        lr, one, scheduled = settings.lr, tree.is_leaf, bool(settings.schedules)
        step, step_one = backend.step, backend.step_one
        begin, check, every, k = self._begin, self._check, self._task.every, backend.t
        end, changes = max(begin + self._task.maxiter, k), callable(lr)
        if changes and math.isnan(memory.lr):  # at x0: that of the first step
            memory.lr = LR.check(lr(k))
        g = memory.gradient
        grads = () if g is None else tree.flatten(g, "jac")
        while True:
            if g is not None:
                if self._keeps_x and ((k + 1 - begin) % check == 0 or k + 1 == end):
                    tests.keep_x()
                if changes:
                    memory.lr = LR.check(lr(k))
                if scheduled:
                    settings.refresh(k)
                memory.f = memory.gradient = g = None
                memory.grad_norm = nan
                # not optimizer.step, 0.4 us more: no other thread has this optimiser
                if one:
                    step_one(grads[0], memory.lr)
                else:
                    step(grads, memory.lr)
                k += 1
            last = k == end
            tested = check == 1 or last or (k - begin) % check == 0
            counted = objective.nfev, objective.njev
            try:
                if last and self._unseen:
                    f = objective.value()
                else:
                    f, g = evaluate(self._wants_f and tested)
            except BaseException:
                self._counted = counted
                raise
            memory.f, memory.gradient = f, g
            if g is not None:
                grads = (g,) if one else tree.flatten(g, "jac")
            if not tested:
                continue
            if f is None and last:
                f = objective.value()
            if f is not None:
                memory.f = f = float(f)
            if g is not None:
                code = test(grads, f or 0.0, k <= check)
                memory.grad_norm = sizes[0]
            else:  # of the last iterate, whose gradient is for nobody
                code = RUNNING if isfinite(f) else BAD_F
            if last and code == RUNNING:
                code = MAXITER
            if observed:
                code = self._notify(k, code)
                f = memory.f
            if tracks and f is not None and f < memory.lowest and isfinite(f):
                self._keep_best(f)
            if every and (code != RUNNING or (k - begin) % every == 0):
                lines += _pack_line(k, nan if f is None else f, memory.grad_norm, memory.lr)
            if code != RUNNING or (file is not None and file.due(k - begin)):
                self._has_tested = True
                yield k - begin, code

    def _ask_again(self) -> int:
        code = super()._ask_again()
        self._memory.f = self._observers.f
        return code

    def _notify(self, nit: int, code: int) -> int:
        memory, observers = self._memory, self._observers
        try:
            code = super()._notify(nit, code)
        finally:
            memory.f = observers.f  # known if somebody has read it
        if code in (RUNNING, MAXITER) and memory.f is not None and not math.isfinite(memory.f):
            code = BAD_F
        return code

    def _keep_best(self, f: float) -> None:
        """Keep the last iterate, where the objective is f, as the best one."""
        memory, g = self._memory, self._memory.gradient
        best_g = memory.best_gradient
        if g is not None and best_g is not None and self._tree.is_leaf:
            memory.best_x[...] = self._x
            best_g[...] = g
        else:
            memory.best_x, memory.best_gradient = self._copy(), copy_tree(g)
        memory.lowest, memory.best_grad_norm = f, memory.grad_norm

    def _complete(self, code: int) -> int:
        if self._memory.f is None:
            self._memory.f = float(self._objective.value())
            return code if math.isfinite(self._memory.f) else BAD_F
        return code

    def _confirm(self, code: int) -> int:
        f, firsts, gtol = self._memory.f, self._firsts, self._task.tolerances.gtol
        if code != st.GTOL or f is None:
            return code
        return code if self._objective.is_at_rest(f, firsts, gtol) else st.UNSEEN

    def _is_whole(self) -> bool:
        return self._counted is not None

    def _remember(self) -> Memory:
        memory, tests = self._memory, self._stop_tests
        memory.first_grad_norm, memory.f_before, _ = tests.state
        memory.before = () if self._counted is None else tests.before
        if memory.f is not None:
            f = memory.f = float(memory.f)
            if self._tracks and f < memory.lowest and math.isfinite(f):
                self._keep_best(f)  # the last iterate may not have been compared yet
        return memory

    def _run_state(self, code: int) -> tuple[int, dict[str, Any], dict[str, Any]]:
        done, numbers, arrays = super()._run_state(code)
        numbers["nfev"], numbers["njev"] = self._counted or self._evaluations
        _, _, numbers["later"] = self._stop_tests.state
        return done, numbers, arrays

    def _resume(self, saved: RunState, memory: Memory, lines: np.ndarray) -> None:
        objective, number = self._objective, saved.number
        self._memory, self._has_tested = memory, number("tested")
        objective.nfev, objective.njev = number("nfev"), number("njev")
        self._stop_tests.restore(
            memory.first_grad_norm, memory.f_before, number("later"), memory.before
        )
        if memory.gradient is None:  # this iterate comes again
            lines = lines[lines[:, 0] < self._backend.t]
        self._table += lines.tobytes()

    def _evaluate_at(self, x: Any) -> tuple[float, Sequence[Any]]:
        jac, there = self._task.jac, Objective.of_task(self._task._replace(x=x), self._optimizer)
        if jac is not True and not callable(jac):
            return float(there.value()), ()
        f, g = there.evaluate(True)
        return float(f), self._tree.flatten(g, "jac")

    def _set_best(self, best: Best) -> None:
        memory = self._memory
        memory.best_x, memory.lowest, memory.best_gradient, memory.best_grad_norm = best
