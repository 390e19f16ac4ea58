"""The loop of `minimize_many`, the same for all kinds of objectives."""

from __future__ import annotations

from typing import Any, Protocol

from numadam._minimize.observers import ProgressBar
from numadam._minimize.result import ManyResult, attach
from numadam._minimize.tasks import ManyTask


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
