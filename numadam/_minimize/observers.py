"""Observers of a minimisation: the callback, the progress bar, schedules that observe f."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from scipy.optimize import OptimizeResult

from numadam._core.parts import parts_of
from numadam._minimize.stopping import CALLBACK, FTOL, GTOL, MAXITER, RUNNING, XTOL
from numadam._optimizer.optimizer import Optimizer
from numadam.history.history import History


class ProgressBar:
    """A bar of the iterations, drawn at the first `update`; none where it is not `shown`.

    A run that fails before its first iteration leaves no bar behind.
    """

    def __init__(self, shown: bool, maxiter: int) -> None:
        self._shown, self._maxiter = shown, maxiter
        self._bar: Any = None

    def update(self, done: int, text: str) -> None:
        """Show that so many iterations are done, and `text` beside the bar."""
        if not self._shown:
            return
        if self._bar is None:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=self._maxiter, unit="it")
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self, whole: bool) -> None:
        """Close the bar. A finished run (`whole`) fills it: a notebook shows others in red."""
        if self._bar is None:
            return
        if whole:
            self._bar.total = self._bar.n
        self._bar.close()
        self._shown = False


def read_callback(callback: Any) -> Callable[[OptimizeResult], Any] | None:
    """SciPy's two protocols as one: ``callback(intermediate_result)`` and ``callback(x)``."""
    if callback is None:
        return None
    if not callable(callback):
        raise TypeError(f"callback: expected a function, got {type(callback).__name__}.")
    try:
        names = set(inspect.signature(callback).parameters)
    except ValueError:  # list.append and others in C have no signature
        names = set()
    if names == {"intermediate_result"}:
        return lambda result: callback(intermediate_result=result)
    return lambda result: callback(result.x)


def _asks_to_stop(returned: Any) -> bool:
    try:
        return bool(returned)
    except ValueError:
        raise TypeError(
            f"callback: returned {type(returned).__name__}, which is neither true nor false; "
            "return True to stop, or None."
        ) from None


def observing_schedules(optimizer: Optimizer) -> list[Any]:
    """The schedules that have a method `observe`, each once."""
    schedules = [optimizer.lr, *(one[3] for one in parts_of(optimizer).settings.schedules)]
    unlike = {id(one): one for one in schedules if hasattr(one, "observe")}
    return list(unlike.values())


class Observers:
    """The observers of one run, notified of its iterates."""

    def __init__(self, callback: Any, progress: bool, maxiter: int, optimizer: Optimizer) -> None:
        self._callback = read_callback(callback)
        self._schedules = observing_schedules(optimizer)
        self._history = callback if isinstance(callback, History) else None
        self._bar, self._progress = ProgressBar(progress, maxiter), progress
        self._begin, self._resumed = 0, False
        self._leaves: Sequence[Any] = ()
        self._make_x: Callable[[], Any] = list
        #: whether f is needed at every iterate
        self.wants_f = callback is not None or progress or bool(self._schedules)
        #: whether every iterate has to be notified
        self.each = callback is not None or bool(self._schedules)
        self.message: str | None = None

    def start(
        self, nit: int, resumed: bool, leaves: Sequence[Any], make_x: Callable[[], Any]
    ) -> None:
        """Begin at iteration `nit`, which a resumed run does not notify again.

        `leaves` are the arrays that hold x at every iterate; `make_x` copies x.
        """
        self._begin, self._resumed = nit, resumed
        self._leaves, self._make_x = leaves, make_x

    def gap(self, done: int, check: int | None) -> int:
        """Iterations until the next notification; `check` is the user's `check_every`."""
        if check is not None:
            return check - done % check
        if self._history is None or self._schedules:
            return 1
        return self._history.gap(self._begin + done)

    def notify(self, nit: int, f: float, largest: float, rate: float, end: bool) -> int:
        """Notify all of an iterate; returns `CALLBACK` where the callback asks to stop."""
        if nit > self._begin or not self._resumed:
            for schedule in self._schedules:
                schedule.observe(f)
        if self._progress:
            self._bar.update(nit - self._begin, f"f={f:.6g}, |g|={largest:.2g}")
        if self._history is not None:
            if end or self._history.wants(nit):
                self._history.see(nit, f, largest, rate, self._leaves, end)
            return RUNNING
        if self._callback is None or nit == self._begin:
            return RUNNING
        result = OptimizeResult(x=self._make_x(), fun=f, nit=nit, grad_norm=largest, lr=rate)
        try:
            if _asks_to_stop(self._callback(result)):
                self.message = "`callback` returned a true value."
                return CALLBACK
        except StopIteration:
            self.message = "`callback` raised `StopIteration`."
            return CALLBACK
        return RUNNING

    def close(self, code: int) -> None:
        """Close the bar at the end of a run."""
        self._bar.close(whole=code in (GTOL, FTOL, XTOL, MAXITER, CALLBACK))


def refuse_observers(optimizer: Any) -> Any:
    """Return the optimiser; refuse it where one of its schedules observes f."""
    if observing_schedules(optimizer):
        raise ValueError("lr: problems have an f each, and no schedule can observe all of them.")
    return optimizer
