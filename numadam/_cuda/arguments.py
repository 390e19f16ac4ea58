"""Where the arrays of a step lie, as kernels over many arrays read it: a table on the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from numadam._arrays.layout import Layout
from numadam._core.half import memory_dtype
from numadam._core.plan import Plan
from numadam._cuda import kernel_spec as cp
from numadam._cuda import launch as policy
from numadam._cuda.memory import WIDEST
from numadam._cuda.norms import norm_iterations, norm_slots, part_size
from numadam._cuda.upload import Upload
from numadam._cuda.validate import lies_flat

#: Blocks from which a thread takes several tiles: enough for any GPU to be full.
_FULL = 2_048


def phases(arrays: Sequence[Any], orders: Sequence[tuple[int, ...]], plan: Plan) -> list[int]:
    """For each array how many elements from a multiple of 16 bytes it begins.

    State that is laid in the same way has its tiles where the array has them.
    """
    size = plan.dtype.itemsize
    return [
        int(a.data.ptr) % WIDEST // size if a.size and lies_flat(a, order) else 0
        for a, order in zip(arrays, orders, strict=True)
    ]


class KernelArguments:
    """One record for each leaf, on the host and, where there are several, on the GPU.

    Attributes
    ----------
    records : numpy.ndarray of int64
        Columns as named in `cuda_passes`.
    rows : list of int
        The row of scalars of each leaf.
    many : bool
        Whether kernels read the table; over one array they get numbers.
    parts : int
        Partial sums of a norm.
    address : int
        Of the table on the GPU.
    leaves_at, sum_leaves_at : int
        Where the leaf of each block of threads lies, in the pass and in the norm.
    """

    def __init__(self, plan: Plan, layout: Layout, rows: Sequence[int]) -> None:
        import cupy

        n = len(layout.sizes)
        self._plan = plan
        self._settled = False
        self._offsets: dict[int, list[int]] = {}
        #: head, tiles, items and row of the only leaf; nothing where there are several, or none
        self.facts: list[int] = []
        self._known: dict[Any, list[int]] = {}
        self._how: tuple[Any, ...] = ()
        self._turns = np.array(layout.sizes, np.int64) * plan.unit
        self.records = np.zeros((n, cp.RECORD), np.int64)
        self.many = n > 1
        self.rows, self.records[:, cp.ROW] = list(rows), rows
        self._per_tile = cp.tile_iterations(plan, cp.step_slots(plan, has_out=False))
        self.blocks, leaves = self._cut(self._turns, self._block_turns(), cp.FIRST)
        self.records[:, cp.BLOCKS] = np.bincount(leaves, minlength=n)
        self._numbers = np.array(layout.sizes, np.int64) * plan.numbers
        self.parts, sum_leaves = self._cut(self._numbers, part_size(), cp.SUMS_FIRST)
        self.sums_first = [*self.records[:, cp.SUMS_FIRST].tolist(), self.parts]
        self._kept: list[Any] = []
        self.address = self.leaves_at = self.sum_leaves_at = 0
        if self.many:
            self._make()
            self._leaves = cupy.asarray(leaves), cupy.asarray(sum_leaves)
            self.leaves_at, self.sum_leaves_at = (int(a.data.ptr) for a in self._leaves)

    def _make(self) -> None:
        import cupy

        self._on_gpu, self._of_graph = cupy.zeros(self.records.shape, np.int64), False
        self.address = int(self._on_gpu.data.ptr)
        self._upload = Upload(self._on_gpu)

    def keep(self) -> None:
        """Leave the table on the GPU as it is: a graph is going to read it at each replay."""
        if self.many and not self._of_graph:
            self._kept.append(self._on_gpu)
            self._of_graph = True

    def _bring(self) -> None:
        """Bring the GPU's table up to date; where a graph reads it, go on with another one."""
        if self._of_graph and not self._upload.has(self.records) and not policy.is_capturing():
            self._make()
        self._upload(self.records)

    def _block_turns(self) -> int:
        one = policy.BLOCK * self._per_tile
        return one * policy.TILES if self._turns.sum() > one * _FULL else one

    def _cut(self, sizes: Any, per_block: int, column: int) -> tuple[int, Any]:
        """How many blocks all arrays have, and the array of each; notes where each one begins."""
        counts = -(-sizes // per_block)
        self.records[:, column] = np.cumsum(counts) - counts
        return int(counts.sum()), np.repeat(np.arange(len(sizes), dtype=np.int32), counts)

    def note(self, slot: int, addresses: Sequence[int]) -> None:
        """Where the arrays of a slot lie."""
        # tiles stay where they are while no array is aligned otherwise
        offsets = [address & (WIDEST - 1) for address in addresses]
        if offsets != self._offsets.get(slot):
            self._offsets[slot], self._settled = offsets, False
        if self.many:
            self.records[:, cp.ADDRESS + slot] = addresses
        elif addresses:  # 0.1 us instead of 1
            self.records[0, cp.ADDRESS + slot] = addresses[0]

    def settle(self, slots: Sequence[int], sums: Sequence[int | None]) -> None:
        """Find the tiles of a step over these slots, and bring the GPU's table up to date.

        `sums` says how many numbers of each gradient the norm adds up, where that is not all: of
        sparse gradients, which the pass over all elements leaves out.
        """
        how = (slots, sums)
        if not self._settled or how != self._how:
            self._find_tiles(slots, sums)
            self._settled, self._how = True, how
        self._known.clear()
        if self.many:
            self._bring()
        elif len(self.records):
            self.facts = self.records[0, : cp.ROW + 1].tolist()

    def _find_tiles(self, slots: Sequence[int], sums: Sequence[int | None]) -> None:
        plan, turns, width = self._plan, self._turns, self._per_tile
        heads, fit = [], np.ones(len(turns), bool)
        for slot in slots:
            address, step = self.records[:, cp.ADDRESS + slot], plan.stride(slot)
            heads.append(-(address // step) % width)
            fit &= (address % step == 0) & (heads[-1] == heads[0])
        head = heads[0]
        tiles = np.where(fit, np.maximum(turns - head, 0) // width, 0)
        self.records[:, cp.HEAD] = np.where(fit, head, 0)
        self.records[:, cp.TILES] = tiles
        self.records[:, cp.ITEMS] = turns - tiles * (width - 1)
        self.records[:, cp.SUMS_SIZE] = self._numbers
        for k, size in enumerate(sums):
            if size is not None:
                self.records[k, cp.TILES] = self.records[k, cp.ITEMS] = 0
                self.records[k, cp.SUMS_SIZE] = size
        if plan.norm:
            self.records[:, cp.SUMS_TILED] = self._sums_tiled()

    def _sums_tiled(self) -> Any:
        tiled, width = np.ones(len(self._turns), bool), norm_iterations(self._plan)
        for slot in norm_slots(self._plan):
            size = memory_dtype(self._plan.storage(slot)).itemsize * width
            tiled &= self.records[:, cp.ADDRESS + slot] % size == 0
        return tiled

    def addresses(self, slots: Sequence[int], leaf: int) -> list[int]:
        """Of one leaf's arrays."""
        key = slots, leaf
        if key not in self._known:
            self._known[key] = self.records[leaf, [cp.ADDRESS + slot for slot in slots]].tolist()
        return self._known[key]

    def sum_facts(self) -> list[int]:
        """How many numbers of the only leaf are added up, whether in tiles, and its row."""
        return [int(self.records[0, k]) for k in (cp.SUMS_SIZE, cp.SUMS_TILED, cp.ROW)]
