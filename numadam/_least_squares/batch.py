"""The run of many fits: chunks of problems without Python between them, and the result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from numadam._arrays.interop import aligned_zeros
from numadam._jit import process
from numadam._least_squares import kernel as kn
from numadam._least_squares.guards import (
    CHECKED_PROBLEMS,
    FINE,
    PAST_J,
    PAST_R,
    RAISED,
    check_size,
    large_size,
)
from numadam._least_squares.objective import ResidualAdapter
from numadam._minimize.compiled.objective import RAISED_ONCE, entry_for
from numadam._minimize.observers import ProgressBar
from numadam._minimize.result import FIT_STATUS, ManyResult, attach

if TYPE_CHECKING:
    from numadam._least_squares.device import DeviceFits

#: Seconds that a call of the loop should take: so long Ctrl-C may have to wait.
_CHUNK_SECONDS = 0.03
#: Problems of the first call for each worker, and residuals from which more than one works.
_FIRST_PROBLEMS, _PARALLEL_FROM = 8, 2_000
#: Starts agree within this share of the lowest cost, or of x: without noise only x can tell.
_SAME_COST, _SAME_X = 1e-3, 1e-6
_SUCCESS = kn.BY_GTOL, kn.BY_FTOL, kn.BY_XTOL, kn.BY_BOTH


@dataclass(frozen=True)
class FitTask:
    """Fits as the user has asked for them, all checked.

    Attributes
    ----------
    x : array of shape (problems, n)
        Starts; the loop overwrites them. Further starts of all problems follow.
    starts : int, or None
        Starts of each problem; None where x0 had no axis of them.
    low, high : array of shape (1, n) or (problems, n)
    tolerances : tuple
        ftol, xtol, gtol.
    points : array of shape (problems,), or None
    derives : bool
        Whether the residuals come with J.
    residuals : bool
        Whether the result has r and J.
    sigma : array of shape (m,) or (problems, m), or None
        Errors of the residuals, for the covariance alone.
    """

    x: np.ndarray
    args: tuple[Any, ...]
    m: int
    low: np.ndarray
    high: np.ndarray
    tolerances: tuple[float, ...]
    max_nfev: int
    absolute_sigma: bool
    points: np.ndarray | None
    progress: bool
    derives: bool
    starts: int | None
    residuals: bool
    sigma: np.ndarray | None

    @property
    def problems(self) -> int:
        """Number of problems, whatever the starts of each."""
        return len(self.x) // (self.starts or 1)

    @property
    def keeps(self) -> bool:
        """Whether the loop writes r and J, for the result or for the covariance."""
        return self.residuals or self.sigma is not None

    @property
    def need(self) -> int:
        """Residuals that the problems write together, at least."""
        return self.m if self.points is None else int(self.points.max(initial=0))


class Fits:
    """Fits that are run in chunks, in the order of their numbers."""

    _adapter: ResidualAdapter

    def __init__(self, task: FitTask) -> None:
        self.task = task
        problems, n = task.x.shape
        threads = process.thread_count() if problems * task.m >= _PARALLEL_FROM else 1
        self._workers = workers = max(1, min(threads, problems))
        self.done, self._chunk = 0, workers * _FIRST_PROBLEMS
        self._out = outputs(task)
        self._found = np.zeros((workers, 4), np.int64)
        self._trial = np.zeros((workers, n), task.x.dtype)
        size = max(workers * large_size(n, task.m), check_size(n, task.m, task.derives))
        try:
            large = aligned_zeros(task.x.itemsize * size)
        except MemoryError as error:
            raise MemoryError(f"m: there is no memory for {task.m} residuals: {error}") from error
        self._arrays = {
            **self._out,
            "x": task.x,
            "low": task.low,
            "high": task.high,
            "points": task.points,
            "trial": self._trial,
            "small": aligned_zeros(workers * 8 * kn.small_size(n)),
            "large": large,
            "found": self._found,
        }
        #: what the loop reads, by name: whole numbers, then those of float64
        self._words = np.zeros(len(kn.INTEGERS) + len(kn.FLOATS), np.int64)
        self._numbers = self._words[len(kn.INTEGERS) :].view(np.float64)
        self._set(
            workers=workers,
            n=n,
            m=task.m,
            boxes=len(task.low),
            problems=task.problems,
            jac=task.derives,
            max_nfev=task.max_nfev,
            absolute_sigma=task.absolute_sigma or task.sigma is not None,
            need=task.need,
            keeps=task.keeps,
            **{name: 0 if of is None else of.ctypes.data for name, of in self._arrays.items()},
        )
        self._numbers[...] = *task.tolerances, float(np.finfo(task.x.dtype).eps)
        self._in_threads = workers > 1 and process.layer() != "workqueue"
        self._work_at = kn.work_address(task.x.dtype)
        kn.share_address(self._in_threads)
        self._entry = entry_for(task.args)

    def _set(self, **words: int) -> None:
        """Set what the loop reads."""
        for name, value in words.items():
            self._words[kn.INTEGERS.index(name)] = value

    def check(self, adapter: ResidualAdapter) -> None:
        """Call the residuals on marks between guards, and refuse what they write elsewhere."""
        self._adapter = adapter
        self._set(fun=adapter.address, end=self.task.problems, checks=self._workers, workers=1)
        self._call()
        self._set(checks=0, workers=self._workers)

    def advance(self) -> None:
        """Fit the next problems: about as many as take `_CHUNK_SECONDS`."""
        end = min(len(self.task.x), self.done + self._chunk)
        self._set(first=self.done, end=end)
        start = time.perf_counter()
        self._call()
        seconds = max(time.perf_counter() - start, 1e-9)
        many = int((end - self.done) * min(8.0, _CHUNK_SECONDS / seconds))
        self.done, self._chunk = end, max(self._workers, many)

    def _call(self) -> None:
        """Run the loop, and raise what the residuals raised, or where they wrote."""
        share = kn.share_address(process.safe(False, self._in_threads))
        try:
            if self._entry(self.task.args, share, self._words.ctypes.data, self._work_at) == 0:
                return
        except SystemError:  # of `numba.objmode`: its exception is pending, and the loop returned
            if not (self._found[:, 0] == RAISED).any():
                raise
        raised = self._found[:, 0] == RAISED
        if raised.any():
            self._raise_again(raised)
        for found in self._found[self._found[:, 0] != FINE].tolist():
            raise ValueError(text_of(found, self.task))

    def _raise_again(self, raised: np.ndarray) -> None:
        """Raise the exception of the residuals, by calling them once more where they raised."""
        workers = np.flatnonzero(raised)
        for worker in workers[np.argsort(self._found[workers, 1])]:  # by any number of workers
            number = int(self._found[worker, 1]) % self.task.problems
            x = self._trial[worker].copy()
            try:
                self._adapter.call_again(x, self.task.m, number, self.task.args)
            except Exception as error:
                if self.task.problems > 1:
                    error.add_note(f"numadam: in problem {number}.")
                raise
        raise RuntimeError(RAISED_ONCE)

    def result(self) -> ManyResult:
        """The result of all problems as they are now."""
        return result_of(self.task, {**self._out, "x": self.task.x})


def outputs(task: FitTask) -> dict[str, np.ndarray]:
    """Arrays that the loop writes; `counts` and `numbers` as of its `Problem`."""
    problems, n = task.x.shape
    kept = task.m if task.keeps else 0
    counts = np.zeros((problems, 3), np.int64)
    counts[:, 0] = kn.UNFINISHED
    return {
        "counts": counts,
        "numbers": np.full((problems, 2), np.nan),
        "cov": np.full((problems, n, n), np.nan),
        "residuals": np.full((problems, kept), np.nan, task.x.dtype),
        "jacobian": np.full((problems, kept, n), np.nan, task.x.dtype),
    }


def result_of(task: FitTask, out: dict[str, np.ndarray]) -> ManyResult:
    """The result of what the loop has written so far."""
    problems = task.problems
    for name, column in (("status", 0), ("nfev", 1), ("njev", 2)):
        out[name] = out["counts"][:, column].copy()
    out["cost"], out["optimality"] = out["numbers"].T.copy()
    if task.starts is not None:
        out = _best_of(out, task.starts)
    for name in ("residuals", "jacobian"):  # else of an earlier x
        out[name][np.isin(out["status"], (kn.LOST, kn.UNFINISHED))] = np.nan
    if task.sigma is not None:
        J, sigma = out["jacobian"], task.sigma[..., None, :]
        inverse, is_known = out["cov"], np.isfinite(out["cov"])
        with np.errstate(all="ignore"):  # of J^T J, to the covariance of unequal errors
            half = np.where(is_known, inverse, 0.0) @ J.transpose(0, 2, 1) * sigma
            out["cov"] = np.where(is_known, half @ half.transpose(0, 2, 1), inverse)
    status = out["status"]
    variances = np.diagonal(out["cov"], axis1=1, axis2=2)
    sentences = [
        f"{int(np.sum(status == code))} of {problems}: {FIT_STATUS[code]}."
        for code in np.unique(status).tolist()
    ]
    points = task.m if task.points is None else task.points
    unknowns = np.sum(task.low < task.high, axis=1)[:problems]
    few = int(np.sum(np.broadcast_to(points <= unknowns, problems)))
    if few and not task.absolute_sigma and task.sigma is None:
        sentences.append(f"{few} of {problems}: no more points than unknowns, so cov is inf.")
    if np.isinf(variances).any():
        sentences.append(f"{np.isinf(variances).any(axis=1).sum()} of {problems}: stderr is inf.")
    kept = ("agreed", "residuals", "jacobian") if task.residuals else ("agreed",)
    return ManyResult(
        success=np.isin(status, _SUCCESS),
        status=status,
        message=" ".join(sentences),
        nfev=out["nfev"],
        njev=out["njev"],
        x=out["x"],
        cost=out["cost"],
        optimality=out["optimality"],
        cov=out["cov"],
        stderr=np.sqrt(variances),
        **{name: out[name] for name in kept if name in out},
    )


@np.errstate(invalid="ignore")
def _best_of(out: dict[str, np.ndarray], starts: int) -> dict[str, np.ndarray]:
    """The best start of each problem, a successful one before its equals, and how many agree."""
    parts = {name: of.reshape(starts, len(of) // starts, *of.shape[1:]) for name, of in out.items()}
    rows = np.arange(parts["cost"].shape[1])
    cost = np.where(np.isfinite(parts["cost"]), parts["cost"], np.inf)
    lowest = np.argmin(cost, axis=0)
    x = parts["x"][lowest, rows]
    same = (np.abs(parts["x"] - x) <= _SAME_X * np.abs(x)).all(axis=2)
    same |= cost <= (1.0 + _SAME_COST) * cost[lowest, rows]
    same &= np.isin(parts["status"], _SUCCESS)
    chosen = np.where(same.any(axis=0), np.argmin(np.where(same, cost, np.inf), axis=0), lowest)
    best = {name: of[chosen, rows] for name, of in parts.items()}
    sums = {name: parts[name].sum(axis=0) for name in ("nfev", "njev")}
    return {**best, **sums, "agreed": same.sum(axis=0)}


def text_of(found: list[int], task: FitTask) -> str:
    """A text on what the residuals wrote where, and what to do."""
    kind, a, b, c = found
    m, n, slips = task.m, task.x.shape[1], "@numba.njit(boundscheck=True) finds the line."
    if kind == PAST_J:
        return (
            f"fun: wrote J[{a}, {b}], J has shape ({m}, {n}): J[k, j] is the derivative of r[k] by "
            f"x[j]. {slips}"
        )
    if kind == PAST_R:
        return f"fun: wrote r[{a}], m is {m}. {slips}"
    where = f"m: fun wrote {a} residuals, m is {m}"
    if b < 0 or c >= m:
        return f"{where}: r[{b}] to r[{c}]. If m is right, {slips}"
    checked = min(task.problems, CHECKED_PROBLEMS)
    return (
        f"{where}, in the first {checked} problems together. Write m={a}, or 0 into what a problem "
        "has no data for; where all have fewer than m, pass their number as points."
    )


def run_fits(fits: Fits | DeviceFits, compile_residuals: Callable[[], Any]) -> ManyResult:
    """Run `Fits`, or those of a GPU, to their end; an exception carries the result so far."""
    problems = len(fits.task.x)
    bar = ProgressBar(fits.task.progress, problems)
    try:
        adapter = compile_residuals()
        if problems:
            fits.check(adapter)
        while fits.done < problems:
            fits.advance()
            bar.update(fits.done, f"{problems - fits.done} left")
    except BaseException as error:
        attach(error, fits.result())
        raise
    finally:
        bar.close(fits.done == problems)
    return fits.result()
