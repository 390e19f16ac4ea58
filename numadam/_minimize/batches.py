"""The loop of `minimize_many`, the same for all kinds of objectives."""

from __future__ import annotations

from typing import Any, Protocol

from numadam._core.parts import parts_of
from numadam._minimize.checkpoint import NEVER, RunState
from numadam._minimize.observers import ProgressBar
from numadam._minimize.result import ManyResult, attach
from numadam._minimize.tasks import ManyTask


class Batch(Protocol):
    """Problems that are advanced together."""

    @property
    def optimizer(self) -> Any:
        """The optimiser of all problems."""

    @property
    def done(self) -> int:
        """Iterations of this run."""

    @property
    def live(self) -> int:
        """Problems that have not stopped; on a GPU this waits for it."""

    @property
    def whole(self) -> bool:
        """Whether all problems that run are at one iterate that has been tested."""

    def advance(self, most: int, gap: int) -> Any:
        """Test x0 at the first call; later take at most so many iterations, and test.

        The file of the run is due after `gap` iterations, or at the next test after them.
        """

    def run_state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Numbers and arrays for a file; those of problems have their number as first axis."""

    def restore(self, saved: RunState) -> None:
        """Go on from a file."""

    def result(self, interrupted: bool) -> ManyResult:
        """The result of all problems as they are now."""


def run_batch(batch: Batch, task: ManyTask) -> ManyResult:
    """Run until every problem has stopped; an exception carries the result so far."""
    bar, file, over = ProgressBar(task.progress, task.maxiter), task.checkpoint, False
    if file is not None:
        # bounds as the user gave them: those of the optimiser are laid out as its x
        options = {**parts_of(batch.optimizer).settings.options, "bounds": task.options["bounds"]}
        saved = file.load(task.lr, options)
        if saved is not None:
            batch.restore(saved)
            over = batch.live == 0 or batch.done >= task.maxiter
    try:
        while not over:
            batch.advance(task.maxiter - batch.done, file.gap(batch.done) if file else NEVER)
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
