"""Many problems under one compiled objective: chunks of iterations without Python between them.

Above 300 lines, for nearly all of it is one class over one state.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from numadam._arrays.interop import aligned_zeros
from numadam._core import plan as pl
from numadam._core.parts import parts_of
from numadam._cpu.loop import NORM_BLOCK
from numadam._jit import process
from numadam._minimize.batches import Batch
from numadam._minimize.checkpoint import RunState, Task
from numadam._minimize.compiled.objective import RAISED_ONCE, check_writes, entry_for
from numadam._minimize.compiled.problem import StepTables
from numadam._minimize.lanes.loop import (
    RESULTS,
    VALUE_BEFORE,
    VALUE_F,
    VALUE_FIRST,
    VALUE_LIMIT,
    VALUES,
    WORD,
    loop_of,
)
from numadam._minimize.lanes.objective import lay_out, rows_of, to_lanes
from numadam._minimize.stopping import RAISED, RUNNING, gradient_limit

#: Numbers of the problems that are stepped side by side: x, gradient and state of a block stay in
#: the first cache; and packets in a block at most.
_BLOCK_NUMBERS, _BLOCK_PACKETS = 512, 64
#: Seconds that a call of the loop should take: so long Ctrl-C may have to wait.
_CALL_SECONDS = 0.03
#: Steps of a call at most, of the first one, and those whose scalars are computed at a time: after
#: them the threads wait for each other.
_CALL_STEPS, _FIRST_STEPS, _TABLE_ROWS = 4_096, 64, 256
#: The first rows of `values`, as a file has them.
_VALUE_NAMES = ("f", "lowest", "best_grad_norm", "grad_norm", "first_grad_norm")
#: Arrays of problems that are kept where they stop, as a file has them; the last with `ema` alone.
_ROW_NAMES = ("x", "best_x", "best_gradient", "state/average")
#: Problems in one call, so that many of them do not make it long.
_CALL_PROBLEMS = 65_536


def _block_packets(packets: int, numbers: int) -> int:
    """Packets of `numbers` in a block: few enough for the first cache, and for all threads."""
    fit = max(1, min(_BLOCK_PACKETS, _BLOCK_NUMBERS // max(numbers, 1)))
    return max(1, min(fit, packets // (2 * process.thread_count())))


class LaneBatch(Batch):
    """Problems of one shape under one compiled objective on NumPy arrays, on all cores."""

    asks = True  # whether the first call tells that the objective writes into g

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._problems = problems = len(task.x)
        self._lanes, self._adapter, self.optimizer = lay_out(task)
        backend: Any = parts_of(self.optimizer).backend
        self._backend, self._settings = backend, backend.settings
        self._plan = plan = backend.settings.plan
        own_lr, norm = task.rates is not None, task.tolerances.norm
        self._loop = loop_of(plan, self._lanes, own_lr, norm)
        self._x, shape = backend.params[0], task.x.shape[1:]
        size, packets = int(np.prod(shape, dtype=np.int64)), len(self._x)
        block = self._lanes * _block_packets(packets, size * self._lanes)
        self._blocks = -(-problems // block)
        self._words = words = np.zeros(len(WORD), np.int64)
        words[WORD.PROBLEMS], words[WORD.POSITIONS] = problems, packets * self._lanes
        words[WORD.UPDATES], words[WORD.NUMBERS] = size * plan.unit, size * plan.numbers
        words[WORD.ELEMENTS], words[WORD.BLOCK] = size, block
        words[WORD.TABLE_STEPS], words[WORD.AT_START] = _TABLE_ROWS, 1
        words[WORD.FUN] = self._adapter.address
        self._block, self._seconds, self._begin = block, 0.0, -1
        self._allocate(shape)
        self._compile()

    def _allocate(self, shape: tuple[int, ...]) -> None:
        """Allocate what the kernel reads and writes, and note the addresses.

        Above 40 lines, for half of it is one table.
        """
        task, plan, problems = self._task, self._plan, self._problems
        tolerances = task.tolerances
        positions, group = int(self._words[WORD.POSITIONS]), self._settings.group_of_leaf[0]
        memory, loop, updates = self._backend.memory, self._loop, int(self._words[WORD.UPDATES])
        self._gradient = aligned_zeros(self._x.nbytes).view(self._x.dtype).reshape(self._x.shape)
        memory.bind(pl.P, [self._x.ctypes.data])
        memory.bind(pl.G, [self._gradient.ctypes.data])
        self._firsts = np.zeros_like(self._x)
        self._values = np.full((VALUES, positions), np.nan)
        self._codes, self._nit = np.zeros((2, problems), np.int64)
        self._order = np.arange(positions)
        self._live = np.minimum(self._block, problems - self._block * np.arange(self._blocks))
        best, best_g = self._x.copy(), np.zeros_like(self._x)
        average = self._backend.state.get("average")
        self._kept = [self._x, best, best_g, *(average or ())]
        self._rows = [np.empty((problems, *shape), self._x.dtype) for _ in self._kept]
        self._result = np.empty((RESULTS, problems))
        self._tables = tables = StepTables(self._settings, _CALL_STEPS)
        lr = self.optimizer.lr
        tables.rates[:] = lr if isinstance(lr, float) else np.nan
        self._words[WORD.CHANGING] = len(tables.columns)
        products = np.zeros((_TABLE_ROWS + 1, 2 * len(plan.products)))
        self._arrays = {
            WORD.SHAPE: np.array([*shape, 0], np.int64),
            WORD.TABLE: memory.table,
            WORD.COUNTERS: memory.counters,
            WORD.CONTROL: self._settings.control[group],
            WORD.CARRIED: self._backend.products[group],
            WORD.TOLERANCES: np.array([*tolerances.limits, tolerances.gtol_rel]),
            WORD.VALUES: self._values,
            WORD.TESTS: np.zeros(positions, np.int64),
            WORD.ORDER: self._order,
            WORD.CODES: self._codes,
            WORD.NIT: self._nit,
            WORD.RESULT: self._result,
            WORD.ROWS: np.array([rows.ctypes.data for rows in self._rows]),
            WORD.LIVE: self._live,
            WORD.BEFORE: np.empty_like(self._x) if tolerances.xtol > 0.0 else None,
            WORD.BEST: best,
            WORD.BEST_G: best_g,
            WORD.FIRSTS: self._firsts,
            WORD.OWN_LR: None if task.rates is None else task.rates.copy(),
            WORD.SCRATCH: np.zeros((self._blocks, loop.scratch(updates))),
            WORD.NO_BLOCKS: np.zeros((-(-updates // NORM_BLOCK), 5), np.int64),
            WORD.RATES: tables.rates,
            WORD.COLUMNS: tables.columns,
            WORD.CHANGES: tables.changes,
            WORD.PRODUCTS: products,
            WORD.SCALARS: np.zeros((_TABLE_ROWS, loop.width), plan.real),
        }
        for place, array in self._arrays.items():
            self._words[place] = 0 if array is None else array.ctypes.data

    def _compile(self) -> None:
        self._in_threads = self._blocks > 1 and process.layer() != "workqueue"
        self._kernel()
        self._entry = entry_for(self._task.args)

    def _kernel(self) -> int:
        """The address of the kernel; only the one of the two that runs is loaded."""
        return self._loop.kernel(process.safe(False, self._in_threads))

    @property
    def live(self) -> int:
        """Problems that have not stopped."""
        return int(self._live.sum())

    @property
    def done(self) -> int:
        """Iterations of this run: as t says, whatever interrupted it."""
        return self._backend.t - self._begin if self._begin >= 0 else 0

    @property
    def whole(self) -> bool:
        """Whether all problems that run are at one iterate that has been tested."""
        words = self._words
        return not words[WORD.AT_START] and not words[WORD.FAILED] and words[WORD.TAKEN] >= 0

    def advance(self, most: int, gap: int) -> None:
        """Test x0 at the first call; later take at most so many iterations, `gap` or less."""
        if self._begin < 0:
            self._begin = self._backend.t
        words = self._words
        if words[WORD.AT_START]:
            most = 0
        steps = min(most, gap, self._chunk())
        steps = self._tables.tabulate(self.optimizer.lr, self._backend.t, steps)
        words[WORD.STEPS], words[WORD.DONE] = steps, self.done
        words[WORD.TAKEN] = -1  # until the last blocks are done
        asks = words[WORD.AT_START] and self.asks and not self._adapter.writes
        start, blocks = time.perf_counter(), max(1, _CALL_PROBLEMS // self._block)
        kernel, words_at = self._kernel(), words.ctypes.data
        for first in range(0, self._blocks, blocks) or (0,):
            words[WORD.FIRST_BLOCK] = first
            words[WORD.END_BLOCK] = min(first + blocks, self._blocks)
            words[WORD.LAST] = words[WORD.END_BLOCK] == self._blocks
            try:
                self._entry(self._task.args, kernel, words_at, self._loop.block)
            except SystemError:  # of `numba.objmode`: its exception is pending, the loop returned
                if not words[WORD.FAILED]:
                    raise
        calls = max(1, -(-self._blocks // blocks))
        self._seconds = (time.perf_counter() - start) / max(steps, 1) / calls
        if words[WORD.FAILED]:
            self._raise_again()
        if asks:
            f, g = self.first_iterate()
            self._adapter.writes = check_writes(f, g, self._task.x, self._evaluate_at)

    def first_iterate(self) -> tuple[np.ndarray, np.ndarray]:
        """F and gradient of each problem, before any has moved."""
        rows = rows_of(self._gradient, self._lanes)
        return self._values[VALUE_F, : self._problems], rows[: self._problems]

    def _evaluate_at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """F and gradient of each problem at another x."""
        there = LaneBatch(self._task._replace(x=x))
        there.asks = False
        there.advance(0, 1)
        return there.first_iterate()

    def _chunk(self) -> int:
        """Iterations of the next call: about as many as take `_CALL_SECONDS`."""
        most = _CALL_STEPS if self.done else _FIRST_STEPS
        return int(min(max(1, _CALL_SECONDS / max(self._seconds, 1e-9)), most))

    def _raise_again(self) -> None:
        """Raise the objective's exception, by calling it once more where it raised."""
        positions = self._positions()
        positions = positions[self._codes[self._order[positions]] == RAISED]
        self._values[VALUE_F, positions] = np.nan
        # also the problems that lie beside the one that raised
        self._codes[self._order[positions]] = RUNNING
        x = rows_of(self._x, self._lanes)
        for position in positions:
            problem = int(self._order[position])
            try:
                self._adapter.call_again(x[position].copy(), problem, self._task.args)
            except Exception as error:
                self._codes[problem] = RAISED
                if self._problems > 1:
                    error.add_note(f"numadam: in problem {problem}.")
                raise
        raise RuntimeError(RAISED_ONCE)

    def _positions(self) -> np.ndarray:
        """Positions of the problems that still run."""
        first = self._block * np.arange(self._blocks)
        each = [one + np.arange(live) for one, live in zip(first, self._live, strict=True)]
        return np.concatenate([*each, np.zeros(0, np.int64)]).astype(np.int64)

    @property
    def evaluations(self) -> int:
        """Of f, of all problems together."""
        return int(self._nit.sum()) + (0 if self._words[WORD.AT_START] else self._problems)

    def memory(self) -> dict[str, Any]:
        """The last and the best iterates of all problems, in their own order."""
        values, rows = self._result, self._rows
        if self.live == self._problems:  # none has stopped, and each is in its place
            values = self._values[:RESULTS, : self._problems]
            rows = [rows_of(array, self._lanes)[: self._problems] for array in self._kept]
        elif self.live:
            positions = self._positions()
            numbers = self._order[positions]
            values[:, numbers] = self._values[:RESULTS, positions]
            for to, of in zip(rows, self._kept, strict=True):
                to[numbers] = rows_of(of, self._lanes)[positions]
        memory: dict[str, Any] = {"codes": self._codes, "nit": self._nit}
        memory |= zip(_ROW_NAMES, rows, strict=False)
        memory |= zip(_VALUE_NAMES, values, strict=True)
        return memory

    def _by_name(self) -> dict[str, Any]:
        """Arrays of a file that only running problems need: gradient and state, in their layout."""
        state = {f"state/{name}": views[0] for name, views in self._backend.state.items()}
        return {"gradient": self._gradient, "first_gradient": self._firsts, **state}

    def run_state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Numbers and arrays for a file: by the number of the problem, whatever the layout."""
        memory, positions = self.memory(), self._positions()
        numbers, arrays = self._order[positions], {"f_before": np.zeros(self._problems)}
        arrays["f_before"][numbers] = self._values[VALUE_BEFORE, positions]
        for name, array in self._by_name().items():
            of = rows_of(array, self._lanes)
            arrays[name] = np.zeros((self._problems, *of.shape[1:]), of.dtype)
            arrays[name][numbers] = of[positions]
        for name, counter in self._backend.counters.items():
            arrays[f"state/{name}"] = np.asarray(counter)
        # the average in memory is that of problems that have stopped, too
        return {}, {**arrays, **memory}

    def restore(self, saved: RunState) -> None:
        """Go on from a file: running problems become the first ones of their blocks."""
        problems, shape, lanes = self._problems, self._rows[0].shape, self._lanes
        each = {
            name: saved.array(name, (problems,), np.float64) for name in (*_VALUE_NAMES, "f_before")
        }
        codes, nit = (saved.array(name, (problems,), np.int64) for name in ("codes", "nit"))
        names = _ROW_NAMES[: len(self._rows)]
        kept = [saved.array(name, shape, self._x.dtype) for name in names]
        moving = {
            name: saved.array(name, shape, array.dtype) for name, array in self._by_name().items()
        }
        counters = {
            name: saved.array(f"state/{name}", one.shape, one.dtype)
            for name, one in self._backend.counters.items()
        }
        self._backend.load(counters, {})
        self._codes[...], self._nit[...] = codes, nit
        self._order_blocks(codes == RUNNING)
        of = np.minimum(self._order, problems - 1)  # lanes that are not in use have the last
        into = [*zip(self._kept, kept, strict=True)]
        into += [(array, moving[name]) for name, array in self._by_name().items()]
        for array, rows in into:
            array[...] = to_lanes(rows[of], lanes)
        for (per_element,) in self._backend.per_element.values():  # bounds and step sizes
            per_element[...] = to_lanes(rows_of(per_element, lanes)[self._order], lanes)
        for array, rows in zip(self._rows, kept, strict=True):
            array[...] = rows
        for k, name in enumerate(_VALUE_NAMES):
            self._values[k], self._result[k] = each[name][of], each[name]
        self._values[VALUE_BEFORE] = each["f_before"][of]
        its, first = self._task.tolerances, each[_VALUE_NAMES[VALUE_FIRST]]
        limits = [gradient_limit(its.gtol, its.gtol_rel, one) for one in first]
        self._values[VALUE_LIMIT] = np.array(limits)[of]
        if self._task.rates is not None:
            self._arrays[WORD.OWN_LR][...] = self._task.rates[of]
        self._words[WORD.AT_START] = 0
        self._begin, self._seconds = self._backend.t - saved.number("done"), _CALL_SECONDS

    def _order_blocks(self, running: np.ndarray) -> None:
        """Put the running problems first in their blocks."""
        for b in range(self._blocks):
            numbers = np.arange(b * self._block, min((b + 1) * self._block, self._problems))
            those = running[numbers]
            self._order[numbers] = np.concatenate([numbers[those], numbers[~those]])
            self._live[b] = int(those.sum())
