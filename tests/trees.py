"""Trees of arrays without numadam and without optree, and arrays of every layout."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from tests.bits import assert_same_bits

Pair = namedtuple("Pair", "first second")
# the same examples in every run: a failure belongs to the change that brought it
relaxed = settings(deadline=None, database=None, derandomize=True, max_examples=250)


def tree_map(f, tree, *others):
    """The tree of ``f(leaf, ...)``: lists, tuples, named tuples and dicts are taken apart."""
    if isinstance(tree, dict):
        entries = {key: tree_map(f, tree[key], *(o[key] for o in others)) for key in tree}
        return type(tree)(entries)
    if isinstance(tree, (list, tuple)):
        entries = [tree_map(f, *each) for each in zip(tree, *others, strict=True)]
        return type(tree)(*entries) if hasattr(tree, "_fields") else type(tree)(entries)
    return f(tree, *others)


def tree_leaves(tree):
    leaves = []
    tree_map(leaves.append, tree)
    return leaves


def assert_same_containers(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same_containers(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same_containers(x, y)


LAYOUTS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "every second": lambda a: _inside(a, (slice(None, None, 2),) * a.ndim, 2),
    "backwards": lambda a: _inside(a, (slice(None, None, -1),) * a.ndim, 1),
    "every third backwards": lambda a: _inside(a, (slice(None, None, -3),) * a.ndim, 3),
    "a window": lambda a: np.pad(a, 1, constant_values=77)[(slice(1, -1),) * a.ndim],
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "axes turned": lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 0, -1)), -1, 0),
    "unaligned": lambda a: _unaligned(a),
}


def _inside(a, index, factor):
    room = np.full([factor * n for n in a.shape], 77, a.dtype)
    view = room[index]
    view[...] = a
    return view


def _unaligned(a):
    room = np.zeros(a.nbytes + 3, np.uint8)
    view = np.ndarray(a.shape, a.dtype, room, 3)
    view[...] = a
    return view


def lay(a, layout):
    if a.ndim == 0 and layout != "unaligned":
        return a.copy()
    view = LAYOUTS[layout](a)
    return view if view is not a else a.copy()


class Exported:
    """An array that another library would hold: it says where it lies, by DLPack."""

    def __init__(self, array):
        self.array, self.dtype = array, array.dtype

    def __dlpack__(self, **how):
        return self.array.__dlpack__(**how)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


def assert_leaves(tree, expected):
    for a, b in zip(tree_leaves(tree), expected, strict=True):
        assert_same_bits(np.asarray(a), np.asarray(b))
