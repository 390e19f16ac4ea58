"""The run of many fits: chunks of problems without Python between them, and the result."""

from __future__ import annotations

import time
from ctypes import addressof
from dataclasses import dataclass
from typing import Any

import numpy as np

from numadam._arrays.interop import aligned_zeros
from numadam._jit import loops, process
from numadam._jit.loops import compiled_loop
from numadam._jit.pointers import struct_of
from numadam._least_squares import kernel as kn
from numadam._least_squares.objective import ResidualAdapter
from numadam._minimize.compiled.objective import KERNEL, RAISED_ONCE, entry_for, kernel_address
from numadam._minimize.observers import ProgressBar
from numadam._minimize.result import FIT_STATUS, ManyResult, attach

#: Seconds that a call of the loop should take: so long Ctrl-C may have to wait.
_CHUNK_SECONDS = 0.03
#: Problems of the first call for each worker, and residuals from which more than one works.
_FIRST_PROBLEMS, _PARALLEL_FROM = 8, 2_000
_Fits = struct_of(kn.FITS)


@dataclass(frozen=True)
class FitTask:
    """Fits as the user has asked for them, all checked.

    Attributes
    ----------
    x : array of shape (problems, n)
        Starts; the loop overwrites them.
    low, high : array of shape (1, n) or (problems, n)
    tolerances : tuple
        ftol, xtol, gtol.
    points : array of shape (problems,), or None
    derives : bool
        Whether the residuals come with J.
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


class Fits:
    """Fits that are run in chunks, in the order of their numbers."""

    def __init__(self, task: FitTask, adapter: ResidualAdapter) -> None:
        self._task, self._adapter = task, adapter
        problems, n = task.x.shape
        threads = loops.count() if problems * task.m >= _PARALLEL_FROM else 1
        self._workers = workers = max(1, min(threads, problems))
        self.done, self._chunk = 0, workers * _FIRST_PROBLEMS
        self._out = {
            "cost": np.full(problems, np.nan),
            "optimality": np.full(problems, np.nan),
            "cov": np.full((problems, n, n), np.nan),
            "status": np.full(problems, kn.UNFINISHED),
            "nfev": np.zeros(problems, np.int64),
            "njev": np.zeros(problems, np.int64),
        }
        self._raised = np.full(workers, -1)
        self._trial = np.zeros((workers, n), task.x.dtype)
        self._arrays = {
            **self._out,
            "x": task.x,
            "low": task.low,
            "high": task.high,
            "points": task.points,
            "raised": self._raised,
            "trial": self._trial,
            "small": aligned_zeros(workers * 8 * kn.small_size(n)),
            "large": aligned_zeros(workers * task.x.itemsize * kn.large_size(n, task.m)),
        }
        self._state = _Fits(
            workers=workers,
            n=n,
            m=task.m,
            boxes=len(task.low),
            jac=task.derives,
            max_nfev=task.max_nfev,
            absolute_sigma=task.absolute_sigma,
            fun=adapter.address,
            eps=float(np.finfo(task.x.dtype).eps),
            **dict(zip(("ftol", "xtol", "gtol"), task.tolerances, strict=True)),
            **{name: 0 if of is None else of.ctypes.data for name, of in self._arrays.items()},
        )
        real, name = task.x.dtype.type, f"least-squares-{task.x.dtype}"
        self._kernels = compiled_loop(name, lambda: kn.make_kernels(real, name), KERNEL)
        self._in_threads = workers > 1 and loops.layer() != "workqueue"
        self._entry = entry_for(task.args)

    def advance(self) -> None:
        """Fit the next problems: about as many as take `_CHUNK_SECONDS`."""
        end = min(len(self._task.x), self.done + self._chunk)
        self._state.first, self._state.end = self.done, end
        kernel = kernel_address(self._kernels.choose(process.safe(False, self._in_threads)))
        start = time.perf_counter()
        self._entry(self._task.args, kernel, 0, addressof(self._state))
        seconds = max(time.perf_counter() - start, 1e-9)
        if (self._raised >= 0).any():
            self._raise_again()
        many = int((end - self.done) * min(8.0, _CHUNK_SECONDS / seconds))
        self.done, self._chunk = end, max(self._workers, many)

    def _raise_again(self) -> None:
        """Raise the exception of the residuals, by calling them once more where they raised."""
        for worker in np.argsort(self._raised):  # the first problem, by any number of workers
            number = int(self._raised[worker])
            if number < 0:
                continue
            x = self._trial[worker].copy()
            try:
                self._adapter.call_again(x, self._task.m, number, self._task.args)
            except Exception as error:
                if len(self._task.x) > 1:
                    error.add_note(f"numadam: in problem {number}.")
                raise
        raise RuntimeError(RAISED_ONCE)

    def result(self) -> ManyResult:
        """The result of all problems as they are now."""
        out, problems = self._out, len(self._task.x)
        status = out["status"]
        variances = np.diagonal(out["cov"], axis1=1, axis2=2)
        found = [
            f"{int(np.sum(status == code))} of {problems}: {FIT_STATUS[code]}."
            for code in np.unique(status).tolist()
        ]
        points = self._task.m if self._task.points is None else self._task.points
        unknowns = np.sum(self._task.low < self._task.high, axis=1)
        few = int(np.sum(np.broadcast_to(points <= unknowns, problems)))
        if few and not self._task.absolute_sigma:
            found.append(f"{few} of {problems}: no more points than unknowns, so cov is inf.")
        return ManyResult(
            success=np.isin(status, (kn.BY_GTOL, kn.BY_FTOL, kn.BY_XTOL, kn.BY_BOTH)),
            status=status,
            message=" ".join(found),
            nfev=out["nfev"],
            njev=out["njev"],
            x=self._task.x,
            cost=out["cost"],
            optimality=out["optimality"],
            cov=out["cov"],
            stderr=np.sqrt(variances),
        )


def run_fits(task: FitTask, adapter: ResidualAdapter) -> ManyResult:
    """Fit all problems; an exception carries the result so far."""
    fits, problems = Fits(task, adapter), len(task.x)
    bar = ProgressBar(task.progress, problems)
    try:
        while fits.done < problems:
            fits.advance()
            bar.update(fits.done, f"{problems - fits.done} left")
    except BaseException as error:
        attach(error, fits.result())
        raise
    finally:
        bar.close(fits.done == problems)
    return fits.result()
