"""Arrays whose memory order differs from the parameter's; compiled when the first one comes.

They are gathered into dense work arrays before a step, and what the step wrote is scattered after
it.
"""

from __future__ import annotations

import numpy as np
from numba import int64

from numadam._core.plan import CHECKED, OUT, G, P
from numadam._cpu import numpy_abi as abi
from numadam._cpu.parts import leaves_of
from numadam._cpu.records import META, NDARRAY
from numadam._cpu.validate import (
    BEFORE_STEP,
    CHECK,
    NEEDS_WORK,
    OK,
    SELF_OVERLAP,
    dims_of,
    note_span,
)
from numadam._jit.functions import linked
from numadam._jit.pointers import array_at, load64, record_at

#: stage, addresses of META and ids, id of an array, its slot and leaf -> status
HANDLE = int64(int64, int64, int64, int64, int64, int64)


@linked
def _check(meta, o, slot, j, written):
    """Check an array that is not dense; note its address, strides and work array."""
    array, leaf, item = record_at(o, NDARRAY), leaves_of(meta)[j], meta.item[slot]
    nd, place, strides = leaf.ndim, leaf.place, array.strides
    if written and abi.overlaps_itself(array.shape, strides, nd, item):
        return SELF_OVERLAP
    if leaf.work[slot] == 0:
        return NEEDS_WORK
    leaf.source[slot] = array.data
    leaf.address[slot] = leaf.work[slot]
    dims = dims_of(meta)
    for k in range(nd):
        dims[place + (2 + slot) * nd + k] = load64(strides + 8 * k)
    meta.strided += 1
    low, high = abi.bounds(o, item)
    note_span(meta, written, low, high)
    return OK


@linked
def _move(stage, meta, ids, grad_id, only_out):
    """Gather every strided array into its work array before a step, scatter it after."""
    leaves, dims = leaves_of(meta), dims_of(meta)
    for slot in range(CHECKED):
        if slot == OUT if stage == BEFORE_STEP else (slot == G or (slot == P and only_out)):
            continue
        for j in range(meta.count):
            leaf = leaves[j]
            present = ids[slot, j] != meta.absent[slot] or (slot == G and grad_id != 0)
            work = leaf.work[slot]
            if present and work != 0 and leaf.address[slot] == work:
                nd, place = leaf.ndim, leaf.place
                abi.copy(
                    leaf.source[slot],
                    dims[place:],
                    dims[place + nd :],
                    dims[place + (2 + slot) * nd :],
                    nd,
                    meta.item[slot],
                    work,
                    stage == BEFORE_STEP,
                )


def handle(stage, meta_at, ids_at, o, slot, j):
    """Check one strided array (CHECK), gather all (BEFORE_STEP), or scatter them (AFTER_STEP).

    `o` is the array to be checked, and otherwise the only gradient or 0.
    """
    meta = record_at(meta_at, META)
    ids = array_at(ids_at, (CHECKED, meta.count), np.int64)
    only_out = ids[OUT, 0] != meta.absent[OUT]
    if stage == CHECK:
        return _check(meta, o, slot, j, slot != G and not (slot == P and only_out))
    _move(stage, meta, ids, o, only_out)
    return OK
