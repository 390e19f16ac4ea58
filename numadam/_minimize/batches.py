"""Many problems: the arguments of `minimize_many`, and the loop that runs all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from numadam._minimize.observers import ProgressBar
from numadam._minimize.result import ManyResult, attach
from numadam._minimize.stopping import Tolerances


@dataclass(frozen=True)
class ManyTask:
    """The arguments of `minimize_many`, validated; `rates` are the problems' own step sizes."""

    fun: Any
    x: Any
    args: tuple[Any, ...]
    jac: Any
    rule: Any
    lr: Any
    rates: np.ndarray | None
    options: dict[str, Any]
    tolerances: Tolerances
    maxiter: int
    check_every: int | None
    progress: bool


class Batch(Protocol):
    """Problems that are advanced together."""

    @property
    def done(self) -> int:
        """Iterations of this run."""

    @property
    def live(self) -> int:
        """Problems that have not stopped; on a GPU this waits for it."""

    def advance(self, most: int) -> Any:
        """Test x0 at the first call; later take at most so many iterations, and test."""

    def result(self, interrupted: bool) -> ManyResult:
        """The result of all problems as they are now."""


def run_batch(batch: Batch, task: ManyTask) -> ManyResult:
    """Run until every problem has stopped; an exception carries the result so far."""
    bar, whole = ProgressBar(task.progress, task.maxiter), False
    try:
        while not whole:
            batch.advance(task.maxiter - batch.done)
            live = batch.live
            bar.update(batch.done, f"{live} running")
            whole = live == 0 or batch.done >= task.maxiter
    except BaseException as error:
        attach(error, batch.result(interrupted=True))
        raise
    finally:
        bar.close(whole)
    return batch.result(interrupted=False)
