"""Minimisation of compiled objectives: chunks of iterations without Python between them."""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np

from numadam._arrays.layout import aligned_zeros
from numadam._core import norms
from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.hyper import LR
from numadam._core.scalars import width_of
from numadam._cpu import validate as dr
from numadam._jit import forks, threads
from numadam._jit.loops import compiled_loop
from numadam._minimize.compiled import desk as dk
from numadam._minimize.compiled.calls import address_of
from numadam._minimize.compiled.kernel import make_kernels
from numadam._minimize.compiled.objective import KERNEL, Bridge, entry_for
from numadam._minimize.stopping import RAISED, RUNNING, Tolerances
from numadam._optimizer.optimizer import Optimizer

#: Numbers of the problems that are stepped side by side: x, gradient and state of a block stay in
#: the first cache.
_SIDE_BY_SIDE, _LANES = 512, 64
#: Seconds that a call of the loop should take: so long Ctrl-C and callbacks may have to wait.
_CHUNK_SECONDS = 0.03
#: Steps of a call at most, and those whose scalars are formed at a time.
_MOST, _INNER = 4_096, 64
#: Problems in one call, so that many of them do not make it long.
_GROUP = 65_536


@functools.cache
def _address(kernel: Any) -> int:
    # kept: asking for it takes 0.2 ms
    return address_of(kernel, KERNEL.args)


class Batch:
    """Problems of one shape under one compiled objective, in the rows of one array.

    Parameters
    ----------
    optimizer : Optimizer
        From `driven`, over the array of all problems: shape (problems, ...), C-ordered.
    bridge : Bridge
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
        bridge: Bridge,
        args: tuple[Any, ...],
        tolerances: Tolerances,
        *,
        track_best: bool,
        rates: np.ndarray | None = None,
        history: int = 0,
    ) -> None:
        backend: Any = optimizer._backend
        self.optimizer, self.bridge, self.args = optimizer, bridge, args
        self._plan, self._table, self._backend = backend.settings.plan, backend._table, backend
        self.x = backend.params[0]
        self.problems, shape = self.x.shape[0], self.x.shape[1:]
        size = int(np.prod(shape, dtype=np.int64))
        self._desk = desk = np.zeros(dk.DESK, np.int64)
        self._desk_at = desk.ctypes.data
        desk[dk.PROBLEMS], desk[dk.TURNS] = self.problems, size * self._plan.unit
        desk[dk.NUMBERS] = size * self._plan.numbers
        desk[dk.LANES] = self._lanes = max(1, min(_LANES, _SIDE_BY_SIDE // max(size, 1)))
        desk[dk.FUN], desk[dk.EVERY], desk[dk.CAPACITY] = bridge.address, history, _MOST + 2
        desk[dk.ROW], desk[dk.FIRST], desk[dk.INNER] = backend.settings.group_of_leaf[0], 1, _INNER
        self._blocks = -(-self.problems // self._lanes)
        self._seconds, self._begin = 0.0, -1
        self._lines: list[np.ndarray] = []
        self._arrays(shape, track_best, tolerances, rates)
        self._kernels()

    def _arrays(
        self,
        shape: tuple[int, ...],
        track_best: bool,
        tolerances: Tolerances,
        rates: np.ndarray | None,
    ) -> None:
        problems, plan = self.problems, self._plan
        self.gradient = aligned_zeros(self.x.nbytes).view(self.x.dtype).reshape(self.x.shape)
        self._table.own(pl.P, np.array([self.x.ctypes.data]))
        self._table.own(pl.G, np.array([self.gradient.ctypes.data]))
        self.values = np.zeros((4, problems))
        self.values[dk.F_BEST] = np.inf
        self.values[: dk.F_BEST] = np.nan
        self.codes, self.counts = np.zeros((2, problems), np.int64)
        self.order = np.arange(problems)
        self._live = np.minimum(self._lanes, problems - self._lanes * np.arange(self._blocks))
        self.best = self.x.copy() if track_best else None
        before = np.empty_like(self.x) if tolerances.xtol > 0.0 else None
        wide = op.RULE + plan.rule.width
        room = wide + width_of(plan) + 2 + int(norms.blocks(int(self._desk[dk.NUMBERS])))
        self._page = np.zeros((_MOST + 2 if self._desk[dk.EVERY] else 0, 4))
        self._keep = {
            dk.DIMS: np.array([*shape, 0], np.int64),
            dk.TOLERANCES: np.array([tolerances.gtol, tolerances.ftol, tolerances.xtol]),
            dk.VALUES: self.values,
            dk.CODE: self.codes,
            dk.NIT: self.counts,
            dk.ORDER: self.order,
            dk.LIVE: self._live,
            dk.BEFORE: before,
            dk.BEST: self.best,
            dk.OWN_LR: rates,
            dk.SCRATCH: np.zeros((self._blocks, room)),
            dk.HISTORY: self._page,
            dk.FACTORS: np.ones((3, 1)),
        }
        self._tables()
        for place, array in self._keep.items():
            self._desk[place] = 0 if array is None else array.ctypes.data

    def _kernels(self) -> None:
        plan = self._plan
        own_lr = bool(self._desk[dk.OWN_LR])
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
        """Whether nothing has been looked at yet."""
        return bool(self._desk[dk.FIRST])

    @property
    def keeps(self) -> bool:
        """Whether a history is kept."""
        return bool(self._desk[dk.EVERY])

    @property
    def kept(self) -> np.ndarray:
        """The lines of the history: iteration, f, gradient, lr."""
        rest = self._page[: self._desk[dk.KEPT]]
        return np.concatenate([*self._lines, rest]) if self._lines else rest

    def advance(self, most: int) -> bool:
        """Look at x0 or go on, for at most so many iterations; False where `fun` raised."""
        desk = self._desk
        if self._begin < 0:
            self._begin = int(self._table.meta[dr.STEPS])
        steps = self._schedule(min(most, self._chunk()))
        desk[dk.STEPS], desk[dk.DONE] = steps, self.done
        start, group = time.perf_counter(), max(1, _GROUP // self._lanes)
        kernel = self._serial if forks.serial_only else self._parallel
        for block in range(0, self._blocks, group) or (0,):
            end = min(block + group, self._blocks)
            desk[dk.FROM], desk[dk.TO], desk[dk.LAST] = block, end, end == self._blocks
            self._entry(self.args, kernel, self._table.meta_at, self._desk_at)
        calls = max(1, -(-self._blocks // group))
        self._seconds = (time.perf_counter() - start) / max(steps, 1) / calls
        if desk[dk.KEPT]:
            self._lines.append(self._page[: desk[dk.KEPT]].copy())
            desk[dk.KEPT] = 0
        return not desk[dk.FAILED]

    @property
    def done(self) -> int:
        """Iterations of this run: as t says, whatever interrupted it."""
        return int(self._table.meta[dr.STEPS]) - self._begin if self._begin >= 0 else 0

    @property
    def last_rate(self) -> float:
        """The learning rate of the last step."""
        return float(self._rates[max(int(self._desk[dk.TAKEN]) - 1, 0)])

    def _chunk(self) -> int:
        """Iterations of the next call: about as many as take `_CHUNK_SECONDS`."""
        most = _MOST if self.done else _INNER
        return int(min(max(1, _CHUNK_SECONDS / max(self._seconds, 1e-9)), most))

    def _schedule(self, steps: int) -> int:
        """Write down what differs from step to step; how many of the coming steps there are.

        A schedule that raises does so when its step comes, not before.
        """
        lr, t, k = self.optimizer.lr, int(self._table.meta[dr.STEPS]), 0
        if not callable(lr) and not self._changing:
            return steps
        try:
            for k in range(max(steps, 1)):
                if callable(lr):
                    self._rates[k] = LR.check(lr(t + k))
                for column, (_, _, hyper, one) in enumerate(self._changing):
                    self._values[k, column] = hyper.check(one(t + k))
        except Exception:
            if k == 0 and steps > 0:
                raise
            return k
        return steps

    def _tables(self) -> None:
        """Room for what differs from step to step."""
        settings, plan, lr = self._backend.settings, self._plan, self.optimizer.lr
        self._changing = [one for one in settings.schedules if one[0] == settings.group_of_leaf[0]]
        self._rates = np.full(_MOST + 1, lr if isinstance(lr, float) else np.nan)
        self._values = np.zeros((_MOST, len(self._changing)))
        self._products = np.zeros((_INNER + 1, len(plan.products)))
        self._keep |= {
            dk.RATES: self._rates,
            dk.COLUMNS: np.array([column for _, column, _, _ in self._changing], np.int64),
            dk.CHANGING: self._values,
            dk.PRODUCTS: self._products,
            dk.ROWS: np.zeros((_INNER, width_of(plan))),
        }
        self._desk[dk.COUNT] = len(self._changing)

    def sort(self) -> None:
        """Put every problem back into its place."""
        order = np.argsort(self.order)
        for array in (self.x, self.gradient, self.best, self.codes, self.counts):
            if array is not None:
                array[:] = array[order]
        self.values[:] = self.values[:, order]
        self.order[:] = self.order[order]


def raise_again(batch: Batch) -> None:
    """Raise what the objective raised, by calling it once more where it did."""
    rows = np.flatnonzero(batch.codes == RAISED)
    batch.values[dk.F, rows] = np.nan
    batch.codes[rows] = RUNNING  # the problems that lie beside the one that raised
    for row in rows:
        problem = int(batch.order[row])
        try:
            batch.bridge.again(batch.x[row].copy(), problem, batch.args)
        except Exception as error:
            batch.codes[row] = RAISED
            if batch.problems > 1:
                error.add_note(f"numadam: in problem {problem}.")
            raise
    raise RuntimeError("fun: raised an exception, but not again when it was called once more.")
