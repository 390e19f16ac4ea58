"""Search for overlap among many arrays: their spans in order, compiled when first needed."""

from __future__ import annotations

import numpy as np
from numba import int64

from numadam._cpu.records import META
from numadam._cpu.validate import OK, OVERLAP, spans_of
from numadam._jit.functions import linked
from numadam._jit.pointers import array_of, record_at

#: address of META -> OK or OVERLAP
SEARCH = int64(int64)

_order_of = array_of(META, "order", np.dtype(np.int64), ("spans_size", 0))


@linked
def _sort(low, order, count):
    """Sort `order` by `low` (Shell's way), from the order of the last step: mostly one sweep."""
    gap = 0
    for k in range(1, count):
        if low[order[k - 1]] > low[order[k]]:
            gap = 1
            break
    while gap > 0 and gap < count // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for k in range(gap, count):
            moving = order[k]
            i = k - gap
            while i >= 0 and low[order[i]] > low[moving]:
                order[i + gap] = order[i]
                i -= gap
            order[i + gap] = moving
        gap //= 3


def search(meta_at):
    """OVERLAP where two written arrays, or a written one and one that is read, may share bytes."""
    meta = record_at(meta_at, META)
    spans, order, count = spans_of(meta), _order_of(meta), meta.written
    low, high = spans.low, spans.high
    if meta.sorted != count:
        for k in range(count):
            order[k] = k
        meta.sorted = count
    _sort(low, order, count)
    for k in range(1, count):
        if high[order[k - 1]] > low[order[k]]:
            return OVERLAP
    for k in range(meta.spans_size - meta.read, meta.spans_size):
        first, last = low[k], high[k]
        a, b = 0, count  # the first written span that ends behind the array's start
        while a < b:
            c = (a + b) // 2
            if high[order[c]] <= first:
                a = c + 1
            else:
                b = c
        if a < count and first < last and low[order[a]] < last:
            return OVERLAP
    return OK
