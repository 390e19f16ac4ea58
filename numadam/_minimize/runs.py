"""Runs of one problem: compiled, or with an objective in Python."""

from __future__ import annotations

from typing import Any

from numadam._core.parts import parts_of
from numadam._minimize.checkpoint import Checkpoint, RunState, Task, first_of
from numadam._minimize.compiled.objective import adapter_for, check_for_compiled, form_of
from numadam._minimize.compiled.problem import key_for, put_back, take
from numadam._minimize.compiled.single import CompiledRun
from numadam._minimize.objective import Objective
from numadam._minimize.observers import Observers
from numadam._minimize.python.loop import PythonRun
from numadam._minimize.python.stop_tests import DeviceStopTests, HostStopTests
from numadam._minimize.result import Result


def define(file: Checkpoint, fun: Any, task: Task) -> None:
    """Note what defines a run, and compare it with its file."""
    goes_on = task.state is not None
    if goes_on and file.exists:
        raise ValueError(
            f"state: the run goes on from the file that is there, {str(file.path)!r}. Leave out "
            "`state`, or pass another path."
        )
    own = {"track_best": task.track_best, "check_every": task.check_every}
    file.define(task.x, fun, task.jac, task.rule, task.tolerances, goes_on, **own)


def saved_run(task: Task, optimizer: Any) -> RunState | None:
    """The run that the file of a task holds, if there is one."""
    if task.checkpoint is None:
        return None
    options = parts_of(optimizer).settings.options
    own = {name: value for name, value in options.items() if name != "comm"}
    return task.checkpoint.load(optimizer.lr, own)


def run_in_python(fun: Any, task: Task) -> Result:
    """An objective in Python, on NumPy or CuPy arrays."""
    optimizer = task.rule(task.x, task.lr, **task.options)
    tree, settings, backend, _ = parts_of(optimizer)
    stop_tests = HostStopTests if backend.is_host else DeviceStopTests
    return PythonRun(
        Objective(fun, task.args, task.jac, task.x, tree, settings.leaf_boxes(), backend.is_host),
        optimizer,
        stop_tests(backend, task.tolerances, first_of(task.state, task.tolerances)),
        Observers(task.callback, task.progress, task.maxiter, optimizer),
        task,
        saved_run(task, optimizer),
    ).go()


def run_compiled(fun: Any, task: Task) -> Result:
    """A compiled objective: no Python between the iterations."""
    x = task.x
    check_for_compiled(x)
    form = form_of(fun, task.args, task.jac, many=False)
    adapter = adapter_for(fun, form, x.dtype, x.ndim, task.args, rows=False)
    norm = task.tolerances.norm
    key = key_for(task.rule, x, task.lr, task.options, norm)
    problem = take(key, task.rule, x, task.lr, task.options, norm)
    problem.start(task, adapter)
    observers = Observers(task.callback, task.progress, task.maxiter, problem.optimizer)
    result = CompiledRun(problem, observers, task, saved_run(task, problem.optimizer)).go()
    # after an exception it is not kept
    put_back(key, problem)
    return result


def check_for_ranks(task: Task, compiled: bool) -> None:
    """Refuse what several processes cannot do together."""
    if compiled:
        raise TypeError(
            "fun: is compiled, and such a run has no Python in which ranks could meet. Pass "
            "fun.py_func, or a function in Python that calls it."
        )
    if not callable(task.jac) and task.jac is not True:
        raise ValueError(
            "jac: finite differences would call fun once for each number of a block, and blocks "
            "differ in length. Let fun return the gradient of its block (jac=True), or pass a "
            "function."
        )
