"""Observers of a minimisation: the callback, the progress bar, schedules that observe f."""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from scipy.optimize import OptimizeResult

from numadam._core.parts import parts_of
from numadam._history import History
from numadam._minimize.stopping import CALLBACK, FTOL, GTOL, MAXITER, RUNNING, XTOL
from numadam._settings.settings import Settings

# --- iterates for callbacks ----------------------------------------------------------------------


_FUN_IS_UNKNOWN = (
    "fun: f was not evaluated at this iterate, since nothing asked for it. Read `fun` within the "
    "callback, or pass track_best=True."
)


class Intermediate(OptimizeResult):  # type: ignore[misc]  # SciPy has no types
    """An iterate of a run: x, fun, nit, grad_norm, lr.

    `fun` is evaluated where it is first read, by name or among all entries, as long as the run is
    at this iterate. Later it is known or refused: the user may have written to x meanwhile.
    """

    def __init__(self, read_f: Callable[[], float], **entries: Any) -> None:
        super().__init__(**entries)
        self._set_reader(read_f)

    def _set_reader(self, read_f: Callable[[], float] | None) -> None:
        # an ordinary attribute would be an entry of the result
        object.__setattr__(self, "_read_f", read_f)

    def leave(self) -> None:
        """Evaluate no f from now on: the run leaves this iterate."""
        self._set_reader(None)

    def complete(self) -> None:
        """Evaluate f where that is possible and not done."""
        if self._read_f is not None and not dict.__contains__(self, "fun"):
            self["fun"] = self._read_f()

    def __contains__(self, name: object) -> bool:
        return dict.__contains__(self, name) or (name == "fun" and self._read_f is not None)

    def __missing__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(_FUN_IS_UNKNOWN if name == "fun" else name)
        self.complete()
        return dict.__getitem__(self, name)

    def __getattr__(self, name: str) -> Any:
        if name != "fun":
            return super().__getattr__(name)
        if name not in self:
            raise AttributeError(_FUN_IS_UNKNOWN)
        return self[name]  # a KeyError of the user's comes through

    def get(self, name: str, default: Any = None) -> Any:
        """The entry of a name, as of a dict."""
        return self[name] if name in self else default  # noqa: SIM401  # this is the method itself

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A copy is a plain OptimizeResult."""
        self.complete()
        return OptimizeResult, (dict(self),)


def _completed(name: str) -> Callable[..., Any]:
    """The inherited method, which needs all entries."""
    inherited = getattr(OptimizeResult, name)

    @functools.wraps(inherited)
    def method(self: Intermediate, *args: Any) -> Any:
        self.complete()
        return inherited(self, *args)

    return method


for _name in ("__eq__", "__iter__", "__len__", "__repr__", "copy", "items", "keys", "values"):
    setattr(Intermediate, _name, _completed(_name))


# --- observers -----------------------------------------------------------------------------------


#: Message of a run that its callback has ended.
STOPPED = "`callback` raised `StopIteration`."


class ProgressBar:
    """A bar of the iterations, drawn at the first `update`; none where it is not `shown`.

    A run that fails before its first iteration leaves no bar behind. A program without a console
    has no `sys.stderr` to draw it on.
    """

    def __init__(self, shown: bool, maxiter: int) -> None:
        self._shown, self._maxiter = shown and sys.stderr is not None, maxiter
        self._bar: Any = None

    def update(self, done: int, text: str) -> None:
        """Show that so many iterations are done, and `text` beside the bar."""
        if not self._shown:
            return
        with self._drawing():
            if self._bar is None:
                from tqdm.auto import tqdm

                self._bar = tqdm(total=self._maxiter, unit="it")
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(done - self._bar.n)

    def close(self, whole: bool) -> None:
        """Close the bar. A finished run (`whole`) fills it: a notebook shows others in red."""
        if self._bar is None or not self._shown:
            return
        if whole:
            self._bar.total = self._bar.n
        with self._drawing():
            self._bar.close()
        self._shown = False

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Draw no more where that fails: hours of a run do not end with its terminal."""
        try:
            yield
        except OSError:
            self._shown = False
            if self._bar is not None:
                self._bar.disable = True  # its destructor draws, too


def takes_result(callback: Any) -> bool:
    """Which of SciPy's two protocols: ``callback(intermediate_result)``, or ``callback(x)``."""
    if not callable(callback):
        raise TypeError(f"callback: expected a function, got {type(callback).__name__}.")
    try:
        signature = inspect.signature(callback)
    except ValueError:  # list.append and others in C have no signature
        return False
    if set(signature.parameters) == {"intermediate_result"}:
        return True
    try:
        signature.bind(None)
    except TypeError:
        name = getattr(callback, "__name__", "callback")
        raise TypeError(
            f"callback: is called as callback(x) or callback(intermediate_result=...), got "
            f"{name}{signature}. The latter has x, fun, nit, grad_norm and lr."
        ) from None
    return False


def observing_schedules(settings: Settings) -> list[Any]:
    """The schedules that have a method `observe`, each once."""
    schedules = [settings.lr, *(one[3] for one in settings.schedules)]
    unlike = {id(one): one for one in schedules if hasattr(one, "observe")}
    return list(unlike.values())


class Observers:
    """The observers of one run, notified of its iterates; `active` where there is any.

    `each`: every iterate has to be notified; a progress bar takes those that come. `wants_f`: f is
    needed at every iterate; a History asks for it where it keeps a record, a callback where it
    reads `fun`. `wants_gradient`: the last iterate's gradient is needed where no stop test reads
    it. `f` is that of the last notification, where known; `message` says why the callback has ended
    the run.
    """

    def __init__(self, callback: Any, progress: bool, maxiter: int, settings: Settings) -> None:
        self._history = callback if isinstance(callback, History) else None
        self._callback, self._whole = callback, callback is not None and takes_result(callback)
        self._schedules = observing_schedules(settings)
        self._bar, self._progress = ProgressBar(progress, maxiter), progress
        self.each = callback is not None or bool(self._schedules)
        self.active = self.each or progress
        self.wants_f = progress or bool(self._schedules)
        self.wants_gradient = progress or self._history is not None
        self.f: float | None = None
        self.message: str | None = None

    def start(
        self,
        nit: int,
        resumed: bool,
        leaves: Sequence[Any],
        make_x: Callable[[], Any],
        evaluate: Callable[[], Any] | None,
        first: int,
    ) -> None:
        """Begin at iteration `nit`, which a resumed run does not notify again.

        `leaves` are the arrays that hold x at every iterate; `make_x` copies x; `evaluate` is for
        iterates without f. `first` is the first iteration of a run that goes on from a file.
        """
        self._begin, self._resumed, self._first = nit, resumed, first
        self._leaves, self._make_x, self._evaluate = leaves, make_x, evaluate

    def gap(self, done: int, check: int | None) -> int:
        """Iterations until the next notification; `check` is the user's `check_every`."""
        if check is not None:
            return check - done % check
        if self._history is None or self._schedules:
            return 1
        return self._history.gap(self._first + done)

    def sees(self, done: int, check: int | None) -> bool:
        """Whether an iterate, so many iterations into the run, is one to be notified."""
        return not self.each or check is None or done % check == 0

    def _read_f(self) -> float:
        """The objective at the iterate at hand, evaluated once."""
        if self.f is None:
            assert self._evaluate is not None
            self.f = float(self._evaluate())
        return self.f

    def notify(self, nit: int, f: float | None, largest: float, rate: float, end: bool) -> int:
        """Notify all of an iterate; returns `CALLBACK` where the callback asks to stop."""
        self.f = f
        if nit > self._begin or not self._resumed:
            for schedule in self._schedules:
                schedule.observe(f)
        if self._progress:
            self._bar.update(nit - self._first, f"f={f:.6g}, |g|={largest:.2g}")
        if self._history is not None:
            if end or self._history.wants(nit):
                known = self._read_f() if end or nit % self._history.every == 0 else math.nan
                self._history.see(nit, known, largest, rate, self._leaves, end)
            return RUNNING
        return RUNNING if nit == self._begin else self.ask(nit, largest, rate)

    def ask(self, nit: int, largest: float, rate: float) -> int:
        """Call a callback that is a function; returns `CALLBACK` where it asks to stop."""
        if self._callback is None or self._history is not None:
            return RUNNING
        try:
            self._call(nit, largest, rate)
        except StopIteration:
            self.message = STOPPED
            return CALLBACK
        return RUNNING

    def _call(self, nit: int, largest: float, rate: float) -> None:
        """Call the callback; what it returns means nothing, as in SciPy's BFGS."""
        if not self._whole:
            x = self._make_x()
            try:
                self._callback(x)
            except AttributeError as error:
                if error.obj is not x:
                    raise
                raise AttributeError(
                    f"{error}: callback gets x alone, unless its parameter is named "
                    "intermediate_result, as in SciPy; that has x, fun, nit, grad_norm and lr.",
                    name=error.name,
                    obj=x,
                ) from error
            return
        known = {} if self.f is None else {"fun": self.f}
        result = Intermediate(
            self._read_f, x=self._make_x(), **known, nit=nit, grad_norm=largest, lr=rate
        )
        try:
            self._callback(intermediate_result=result)
        finally:
            result.leave()

    def close(self, code: int) -> None:
        """Close the bar at the end of a run."""
        self._bar.close(whole=code in (GTOL, FTOL, XTOL, MAXITER, CALLBACK))


def refuse_observers(optimizer: Any) -> Any:
    """Return the optimiser; refuse it where one of its schedules observes f."""
    if observing_schedules(parts_of(optimizer).settings):
        raise ValueError("lr: problems have an f each, and no schedule can observe all of them.")
    return optimizer
