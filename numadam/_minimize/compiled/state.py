"""Minimisation of compiled objectives: chunks of iterations without Python between them."""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np

from numadam._arrays.layout import aligned_zeros
from numadam._core import plan as pl
from numadam._core.hyper import LR
from numadam._core.parts import parts_of
from numadam._core.scalars import width_of
from numadam._jit import forks, threads
from numadam._jit.loops import compiled_loop
from numadam._minimize.compiled.calls import address_of
from numadam._minimize.compiled.kernel import make_kernels
from numadam._minimize.compiled.objective import KERNEL, ObjectiveAdapter, entry_for
from numadam._minimize.compiled.records import BATCH, F_BEST, F
from numadam._minimize.compiled.scalars import scratch_size
from numadam._minimize.stopping import RAISED, RUNNING, Tolerances
from numadam._optimizer.optimizer import Optimizer

#: Numbers of the problems that are stepped side by side: x, gradient and state of a block stay in
#: the first cache; and problems in a block at most.
_SIDE_BY_SIDE, _BLOCK_PROBLEMS = 512, 64
#: Seconds that a call of the loop should take: so long Ctrl-C and callbacks may have to wait.
_CHUNK_SECONDS = 0.03
#: Steps of a call at most, and those whose scalars are computed at a time.
_MOST, _TABLE_STEPS = 4_096, 64
#: Problems in one call, so that many of them do not make it long.
_GROUP = 65_536


@functools.cache
def _address(kernel: Any) -> int:
    # cached: asking for it takes 0.2 ms
    return address_of(kernel, KERNEL.args)


class Batch:
    """Problems of one shape under one compiled objective, in the rows of one array.

    Parameters
    ----------
    optimizer : Optimizer
        On a `StateOnly` back end, over the array of all problems: shape (problems, ...),
        C-ordered.
    adapter : ObjectiveAdapter
    args : tuple
    tolerances : Tolerances
    track_best : bool
    rates : array of float64, optional
        A learning rate for each problem.
    history : int
        Keep every so many iterations (one problem only); 0: none.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        adapter: ObjectiveAdapter,
        args: tuple[Any, ...],
        tolerances: Tolerances,
        *,
        track_best: bool,
        rates: np.ndarray | None = None,
        history: int = 0,
    ) -> None:
        backend: Any = parts_of(optimizer).backend
        self.optimizer, self.adapter, self.args = optimizer, adapter, args
        self._settings, self._arguments = backend.settings, backend.arguments
        self.plan = plan = backend.settings.plan
        self.x = backend.params[0]
        self.problems, shape = self.x.shape[0], self.x.shape[1:]
        size = int(np.prod(shape, dtype=np.int64))
        self._lanes = max(1, min(_BLOCK_PROBLEMS, _SIDE_BY_SIDE // max(size, 1)))
        self._blocks = -(-self.problems // self._lanes)
        self._state = np.zeros(1, BATCH)
        self._state_at = self._state.ctypes.data
        self._set(problems=self.problems, updates=size * plan.unit, numbers=size * plan.numbers)
        self._set(lanes=self._lanes, group=backend.settings.group_of_leaf[0])
        self._set(fun=adapter.address, every=history, capacity=_MOST + 2)
        self._set(at_start=1, table_steps=_TABLE_STEPS)
        self._seconds, self._begin = 0.0, -1
        self._lines: list[np.ndarray] = []
        self._allocate(shape, track_best, tolerances, rates, history)
        self._compile(own_lr=rates is not None)

    def _set(self, **fields: int) -> None:
        for name, value in fields.items():
            self._state[name] = value

    def _allocate(
        self,
        shape: tuple[int, ...],
        track_best: bool,
        tolerances: Tolerances,
        rates: np.ndarray | None,
        history: int,
    ) -> None:
        """Allocate what the kernel reads and writes, and note the addresses."""
        problems, plan = self.problems, self.plan
        self.gradient = aligned_zeros(self.x.nbytes).view(self.x.dtype).reshape(self.x.shape)
        self._arguments.bind(pl.P, np.array([self.x.ctypes.data]))
        self._arguments.bind(pl.G, np.array([self.gradient.ctypes.data]))
        self.values = np.zeros((4, problems))
        self.values[F_BEST] = np.inf
        self.values[:F_BEST] = np.nan
        self.codes, self.counts = np.zeros((2, problems), np.int64)
        self.order = np.arange(problems)
        self._live = np.minimum(self._lanes, problems - self._lanes * np.arange(self._blocks))
        self.best = self.x.copy() if track_best else None
        self._page = np.zeros((_MOST + 2 if history else 0, 4))
        scratch = scratch_size(plan, int(self._state["numbers"][0]))
        self._arrays = {
            "shape": np.array([*shape, 0], np.int64),
            "tolerances": np.array([tolerances.gtol, tolerances.ftol, tolerances.xtol]),
            "values": self.values,
            "codes": self.codes,
            "nit": self.counts,
            "order": self.order,
            "live": self._live,
            "before": np.empty_like(self.x) if tolerances.xtol > 0.0 else None,
            "best": self.best,
            "own_lr": rates,
            "scratch": np.zeros((self._blocks, scratch)),
            "history": self._page,
            "factors": np.ones((3, 1)),
            **self._tables(),
        }
        for name, array in self._arrays.items():
            self._state[name] = 0 if array is None else array.ctypes.data

    def _tables(self) -> dict[str, np.ndarray]:
        """Allocate the tables of what differs from step to step."""
        settings, plan, lr = self._settings, self.plan, self.optimizer.lr
        self._scheduled = [one for one in settings.schedules if one[0] == settings.group_of_leaf[0]]
        self._rates = np.full(_MOST + 1, lr if isinstance(lr, float) else np.nan)
        self._changes = np.zeros((_MOST, len(self._scheduled)))
        self._set(changing=len(self._scheduled))
        return {
            "rates": self._rates,
            "columns": np.array([column for _, column, _, _ in self._scheduled], np.int64),
            "changes": self._changes,
            "products": np.zeros((_TABLE_STEPS + 1, len(plan.products))),
            "scalars": np.zeros((_TABLE_STEPS, width_of(plan))),
        }

    def _compile(self, own_lr: bool) -> None:
        plan = self.plan
        name = f"{plan.name}-{'own-lr-' if own_lr else ''}batch"
        kernels = compiled_loop(name, lambda: make_kernels(plan, name, own_lr), KERNEL)
        self._serial = self._parallel = _address(kernels.serial)
        if self._blocks > 1 and threads.layer() != "workqueue":
            self._parallel = _address(kernels.parallel)
        self._entry = entry_for(self.args)

    @property
    def live(self) -> int:
        """Problems that still run."""
        return int(self._live.sum())

    @property
    def first(self) -> bool:
        """Whether nothing has been evaluated yet."""
        return bool(self._state["at_start"][0])

    @property
    def keeps(self) -> bool:
        """Whether a history is kept."""
        return bool(self._state["every"][0])

    @property
    def kept(self) -> np.ndarray:
        """The lines of the history: iteration, f, gradient, lr."""
        rest = self._page[: self._state["kept"][0]]
        return np.concatenate([*self._lines, rest]) if self._lines else rest

    def advance(self, most: int) -> bool:
        """Evaluate x0 or go on, for at most so many iterations; False where `fun` raised."""
        state, meta_at = self._state, self._arguments.meta_at
        if self._begin < 0:
            self._begin = int(self._arguments.meta["steps"][0])
        steps = self._schedule(min(most, self._chunk()))
        self._set(steps=steps, done=self.done)
        start, group = time.perf_counter(), max(1, _GROUP // self._lanes)
        kernel = forks.safe(self._serial, self._parallel)
        for block in range(0, self._blocks, group) or (0,):
            end = min(block + group, self._blocks)
            self._set(first_block=block, end_block=end, last=end == self._blocks)
            self._entry(self.args, kernel, meta_at, self._state_at)
        calls = max(1, -(-self._blocks // group))
        self._seconds = (time.perf_counter() - start) / max(steps, 1) / calls
        if kept := int(state["kept"][0]):
            self._lines.append(self._page[:kept].copy())
            state["kept"] = 0
        return not state["failed"][0]

    @property
    def done(self) -> int:
        """Iterations of this run: as t says, whatever interrupted it."""
        return int(self._arguments.meta["steps"][0]) - self._begin if self._begin >= 0 else 0

    @property
    def last_rate(self) -> float:
        """The learning rate of the last step."""
        return float(self._rates[max(int(self._state["taken"][0]) - 1, 0)])

    def _chunk(self) -> int:
        """Iterations of the next call: about as many as take `_CHUNK_SECONDS`."""
        most = _MOST if self.done else _TABLE_STEPS
        return int(min(max(1, _CHUNK_SECONDS / max(self._seconds, 1e-9)), most))

    def _schedule(self, steps: int) -> int:
        """Tabulate what differs from step to step; returns the number of steps tabulated.

        A schedule that raises does so when its step comes, not before.
        """
        lr, t, k = self.optimizer.lr, int(self._arguments.meta["steps"][0]), 0
        if not callable(lr) and not self._scheduled:
            return steps
        try:
            for k in range(max(steps, 1)):
                if callable(lr):
                    self._rates[k] = LR.check(lr(t + k))
                for column, (_, _, hyper, one) in enumerate(self._scheduled):
                    self._changes[k, column] = hyper.check(one(t + k))
        except Exception:
            if k == 0 and steps > 0:
                raise
            return k
        return steps

    def sort(self) -> None:
        """Put every problem back into its place."""
        order = np.argsort(self.order)
        for array in (self.x, self.gradient, self.best, self.codes, self.counts):
            if array is not None:
                array[:] = array[order]
        self.values[:] = self.values[:, order]
        self.order[:] = self.order[order]


def raise_again(batch: Batch) -> None:
    """Raise the objective's exception, by calling it once more where it raised."""
    rows = np.flatnonzero(batch.codes == RAISED)
    batch.values[F, rows] = np.nan
    batch.codes[rows] = RUNNING  # the problems that lie beside the one that raised
    for row in rows:
        problem = int(batch.order[row])
        try:
            batch.adapter.call_again(batch.x[row].copy(), problem, batch.args)
        except Exception as error:
            batch.codes[row] = RAISED
            if batch.problems > 1:
                error.add_note(f"numadam: in problem {problem}.")
            raise
    raise RuntimeError("fun: raised an exception, but not again when it was called once more.")
