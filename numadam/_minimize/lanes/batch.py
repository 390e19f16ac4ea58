"""Many problems under one compiled objective: chunks of iterations without Python between them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from numadam._arrays.interop import address_of, aligned_zeros
from numadam._core import plan as pl
from numadam._core.parts import parts_of
from numadam._cpu.loop import NORM_BLOCK
from numadam._jit import process
from numadam._minimize.batches import CompiledBatch
from numadam._minimize.checkpoint import RunState, Task
from numadam._minimize.compiled.objective import RAISED_ONCE, entry_for
from numadam._minimize.lanes.loop import WORD, block_of, kernel, numbers_each
from numadam._minimize.lanes.objective import lay_out, rows_of, to_lanes
from numadam._minimize.step_rows import StepRows
from numadam._minimize.stop_text import NUMBER_AT, begin
from numadam._minimize.stopping import RAISED, RUNNING, gradient_limit

#: Numbers of the problems that are stepped side by side: x, gradient and state of a block stay in
#: the first cache; and packets in a block at most.
_BLOCK_NUMBERS, _BLOCK_PACKETS = 512, 64
#: Seconds that a call of the loop should take: so long Ctrl-C may have to wait.
_CALL_SECONDS = 0.03
#: Steps of a call at most, and of the first one; and rows of scalars at most.
_CALL_STEPS, _FIRST_STEPS, _MOST_ROWS = 4_096, 64, 2**16
#: Problems in one call, so that many of them do not make it long.
_CALL_PROBLEMS = 65_536
#: Numbers of the stop tests, as a file has them.
_NUMBERS = {
    "f": NUMBER_AT.F,
    "lowest": NUMBER_AT.F_BEST,
    "best_grad_norm": NUMBER_AT.SIZE_BEST,
    "grad_norm": NUMBER_AT.SIZE,
    "first_grad_norm": NUMBER_AT.FIRST,
    "f_before": NUMBER_AT.F_BEFORE,
}
#: Arrays like x of problems that are kept where they stop; the last with `ema` alone.
_KEPT = ("x", "best_x", "best_gradient", "state/average")


def _block_packets(packets: int, numbers: int) -> int:
    """Packets of `numbers` in a block: few enough for the first cache, and for all threads."""
    fit = max(1, min(_BLOCK_PACKETS, _BLOCK_NUMBERS // max(numbers, 1)))
    return max(1, min(fit, packets // (2 * process.thread_count())))


class LaneBatch(CompiledBatch):
    """Problems of one shape under one compiled objective on NumPy arrays, on all cores."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._problems = problems = len(task.x)
        self._lanes, self._objective, self.optimizer = lay_out(task)
        backend: Any = parts_of(self.optimizer).backend
        self._backend, plan = backend, backend.settings.plan
        x = backend.params[0]
        size, packets = int(np.prod(task.x.shape[1:], dtype=np.int64)), len(x)
        self._block = block = self._lanes * _block_packets(packets, size * self._lanes)
        self._blocks, self._seconds = -(-problems // block), 0.0
        group = backend.settings.group_of_leaf[0]
        rates, lr = task.rates, self.optimizer.lr
        factors = (1.0,) if rates is None else rates
        most = max(1, min(_CALL_STEPS, _MOST_ROWS // len(factors)))
        self._rows = StepRows(backend, lr, backend.products[group], most, factors)
        self._words = words = np.zeros(len(WORD), np.int64)
        words[WORD.UPDATES], words[WORD.NUMBERS] = size * plan.unit, size * plan.numbers
        words[WORD.BLOCK], words[WORD.EACH] = block, self._rows.each
        words[WORD.AT_START], words[WORD.FUN] = 1, self._objective.address
        self._allocate(x, packets * self._lanes)
        self._address = block_of(plan, self._lanes, rates is not None, task.tolerances.norm)
        self._kernel()
        self._entry = entry_for(task.args)

    def _allocate(self, x: np.ndarray, positions: int) -> None:
        """Allocate what the loop reads and writes, and note the addresses."""
        backend, problems, tolerances = self._backend, self._problems, self._task.tolerances
        gradient = aligned_zeros(x.nbytes).view(x.dtype).reshape(x.shape)
        backend.memory.bind(pl.P, [address_of(x)])
        backend.memory.bind(pl.G, [address_of(gradient)])
        lanes, shape, fresh = self._lanes, self._task.x.shape, np.zeros(len(NUMBER_AT))
        begin(fresh, tolerances, np.nan)
        fresh = fresh[: numbers_each(lanes)]
        packed = (lanes,) if lanes > 1 else ()
        numbers = np.empty((len(x), len(fresh), *packed))
        numbers[...] = fresh[:, None] if lanes > 1 else fresh
        #: in lanes, by the names of a file: what belongs to a problem, and moves with it
        self._arrays = {
            "x": x,
            "gradient": gradient,
            "best_x": x.copy(),
            "best_gradient": np.zeros_like(x),
            "first_gradient": np.zeros_like(x),
            "numbers": numbers,
            "codes": np.zeros((len(x), *packed), np.int64),
            **{f"state/{name}": views[0] for name, views in backend.state.items()},
        }
        #: by number: those of problems that have stopped
        self._kept = {
            **{
                name: np.empty(self._task.x.shape, x.dtype)
                for name in _KEPT
                if name in self._arrays
            },
            "numbers": np.empty((problems, len(fresh))),
            "codes": np.zeros(problems, np.int64),
        }
        moving = [(array, self._kept.get(name)) for name, array in self._arrays.items()]
        moving += [(array, None) for (array,) in backend.per_element.values()]
        item = backend.settings.plan.real.itemsize
        moves = [
            (
                address_of(array) + item * k,
                array.size // positions if positions else 0,
                array.itemsize // item,
                0 if rows is None else address_of(rows) + item * k,
            )
            for array, rows in moving
            for k in range(array.itemsize // item)
        ]
        self._nit, self._order = np.zeros(problems, np.int64), np.arange(positions)
        self._live = np.minimum(self._block, problems - self._block * np.arange(self._blocks))
        updates = int(self._words[WORD.UPDATES])
        parts = np.zeros((-(-updates // NORM_BLOCK), 5), np.int64)
        parts[:, 1] = parts[:, 3] = NORM_BLOCK * np.arange(len(parts))
        parts[:, 2] = np.minimum(NORM_BLOCK, updates - parts[:, 1])
        #: the arrays whose addresses are words
        self._memory = {
            WORD.SHAPE: np.array([*shape[1:], 0], np.int64),
            WORD.TABLE: backend.memory.table,
            WORD.MOVING: np.array(moves, np.int64),
            WORD.VALUES: self._arrays["numbers"],
            WORD.TOLERANCES: np.array(
                [tolerances.gtol, tolerances.gtol_rel, tolerances.ftol, tolerances.xtol]
            ),
            WORD.TESTS: self._arrays["codes"],
            WORD.BEFORE: np.empty_like(x) if tolerances.xtol > 0.0 else None,
            WORD.BEST: self._arrays["best_x"],
            WORD.BEST_G: self._arrays["best_gradient"],
            WORD.FIRSTS: self._arrays["first_gradient"],
            WORD.SCALARS: self._rows.rows,
            WORD.LIMITS: self._rows.limits,
            WORD.PARTS: parts,
            WORD.CONTROL: self._rows.control,
            WORD.ORDER: self._order,
            WORD.CODES: self._kept["codes"],
            WORD.NIT: self._nit,
            WORD.LIVE: self._live,
        }
        self._words[WORD.MOVES] = len(moves)
        for place, array in self._memory.items():
            self._words[place] = 0 if array is None else address_of(array)

    def _kernel(self) -> int:
        """The address of the kernel; only the one of the two that runs is loaded."""
        in_threads = self._blocks > 1 and process.layer() != "workqueue"
        return kernel(process.safe(False, in_threads))

    @property
    def live(self) -> int:
        """Problems that have not stopped."""
        return int(self._live.sum())

    def _run(self, steps: int) -> None:
        words = self._words
        steps = self._rows.fill(min(steps, self._chunk()))
        words[WORD.STEPS], words[WORD.DONE] = steps, self.done
        start, blocks = time.perf_counter(), max(1, _CALL_PROBLEMS // self._block)
        address = self._kernel()
        firsts = range(0, self._blocks, blocks) or (0,)
        for first in firsts:
            words[WORD.FIRST_BLOCK] = first
            words[WORD.END_BLOCK] = min(first + blocks, self._blocks)
            with process.defer_interrupts():  # a file may be written after Ctrl-C
                self.whole = False
                try:
                    self._entry(self._task.args, address, address_of(words), self._address)
                except SystemError:  # of `numba.objmode`: its exception is pending
                    if not words[WORD.FAILED]:
                        raise
                if first == firsts[-1] and not words[WORD.FAILED]:
                    words[WORD.AT_START] = 0
                    self._advanced(steps)
        self._seconds = (time.perf_counter() - start) / max(steps, 1) / len(firsts)
        if words[WORD.FAILED]:
            self._raise_again()

    def first_iterate(self) -> tuple[np.ndarray, np.ndarray]:
        """F and gradient of each problem, before any has moved."""
        f, g = self._column(NUMBER_AT.F).reshape(-1), self._by_position("gradient")
        return f[: self._problems], g[: self._problems]

    def _by_position(self, name: str) -> np.ndarray:
        return rows_of(self._arrays[name], self._lanes)

    def _column(self, place: int) -> np.ndarray:
        """A number of the stop tests of each problem."""
        column: np.ndarray = self._arrays["numbers"][:, place]
        return column

    def _chunk(self) -> int:
        """Iterations of the next call: about as many as take `_CALL_SECONDS`."""
        most = _CALL_STEPS if self.done else _FIRST_STEPS
        return int(min(max(1, _CALL_SECONDS / max(self._seconds, 1e-9)), most))

    def _raise_again(self) -> None:
        """Raise the objective's exception, by calling it once more where it raised."""
        codes, x = self._kept["codes"], self._by_position("x")
        positions = self._positions()
        positions = positions[codes[self._order[positions]] == RAISED]
        f = self._column(NUMBER_AT.F)
        f[np.unravel_index(positions, f.shape)] = np.nan
        # also the problems that lie beside the one that raised
        codes[self._order[positions]] = RUNNING
        for position in positions:
            problem = int(self._order[position])
            try:
                self._objective.call_again(x[position].copy(), problem, self._task.args)
            except Exception as error:
                codes[problem] = RAISED
                if self._problems > 1:
                    error.add_note(f"numadam: in problem {problem}.")
                raise
        raise RuntimeError(RAISED_ONCE)

    def _positions(self) -> np.ndarray:
        """Positions of the problems that still run."""
        first = self._block * np.arange(self._blocks)
        each = [place + np.arange(live) for place, live in zip(first, self._live, strict=True)]
        return np.concatenate([*each, np.zeros(0, np.int64)]).astype(np.int64)

    @property
    def evaluations(self) -> int:
        """Of f, of all problems together."""
        return int(self._nit.sum()) + (0 if self._words[WORD.AT_START] else self._problems)

    def memory(self) -> dict[str, Any]:
        """The last and the best iterates of all problems, in their own order."""
        kept, live = self._kept, self.live
        if live == self._problems:  # none has stopped, and each is in its place
            kept = {name: self._by_position(name)[:live] for name in kept}
        elif live:
            positions = self._positions()
            for name in kept.keys() - {"codes"}:
                kept[name][self._order[positions]] = self._by_position(name)[positions]
        numbers = {name: kept["numbers"][:, place].copy() for name, place in _NUMBERS.items()}
        rows = {name: kept[name] for name in _KEPT if name in kept}
        return {"nit": self._nit, "codes": self._kept["codes"], **numbers, **rows}

    def _by_name(self) -> dict[str, Any]:
        """The arrays of a file: by the number of the problem, whatever the layout."""
        memory, positions = self.memory(), self._positions()
        for name in self._arrays.keys() - self._kept.keys():
            rows = self._by_position(name)
            memory[name] = np.zeros((self._problems, *rows.shape[1:]), rows.dtype)
            memory[name][self._order[positions]] = rows[positions]
        counters = self._backend.counters.items()
        return {**memory, **{f"state/{name}": np.asarray(value) for name, value in counters}}

    def restore(self, saved: RunState) -> None:
        """Go on from a file."""
        backend, lanes, problems = self._backend, self._lanes, (self._problems,)
        rows = {
            name: saved.array(name, (*problems, *self._by_position(name).shape[1:]), array.dtype)
            for name, array in self._arrays.items()
            if name != "numbers"
        }
        numbers = rows["numbers"] = self._by_position("numbers")[: self._problems].copy()
        for name, place in _NUMBERS.items():
            numbers[:, place] = saved.array(name, problems, np.float64)
        its, firsts = self._task.tolerances, numbers[:, NUMBER_AT.FIRST].tolist()
        limits = [gradient_limit(its.gtol, its.gtol_rel, first) for first in firsts]
        numbers[:, NUMBER_AT.LIMIT] = limits
        self._nit[...] = saved.array("nit", problems, np.int64)
        counters = {
            name: saved.array(f"state/{name}", value.shape, value.dtype)
            for name, value in backend.counters.items()
        }
        backend.load(counters, {})
        # running problems are the first ones
        running = rows["codes"] == RUNNING
        self._order[: self._problems] = np.argsort(~running, kind="stable")
        live = running.sum() - self._block * np.arange(self._blocks)
        self._live[...] = np.clip(live, 0, self._block)
        # lanes that are not in use have the last
        of = np.minimum(self._order, self._problems - 1)
        for name, array in self._arrays.items():
            array[...] = to_lanes(rows[name][of], lanes)
            if name in self._kept:
                self._kept[name][...] = rows[name]
        for (per_element,) in backend.per_element.values():  # bounds and step sizes
            per_element[...] = to_lanes(rows_of(per_element, lanes)[self._order], lanes)
        self._words[WORD.AT_START], self._seconds = 0, _CALL_SECONDS
        self._resume(saved)
