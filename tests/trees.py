"""Trees of arrays without numadam and without optree, and arrays of every layout.

Arrays that are refused, and checks that a refusal names them and changes nothing.
"""

from __future__ import annotations

import re
from collections import namedtuple

import numpy as np
import pytest
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


# --- bad arrays ----------------------------------------------------------------------------------


def like(module, name):
    """An instance of a class that says it comes from another library."""
    return type(name, (), {"__module__": module, "__qualname__": name, "shape": (4,)})()


def readonly(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def foreign(a):
    return a.astype(a.dtype.newbyteorder())


def on_cupy(a):
    import cupy

    memory = cupy.cuda.UnownedMemory(a.ctypes.data, a.nbytes, a, 0)
    return cupy.ndarray(a.shape, a.dtype, cupy.cuda.MemoryPointer(memory, 0))


ADVICE = r"Use |Pass |pass |make |Nest |use |is the same memory|expected shape"
#: id: (bad array from a good one, exception, what the message says, places where it is refused)
ALL = ("make", "grads", "params", "out", "state")
LATER = ("grads", "params", "out", "state")
WRITTEN = ("make", "params", "out")
BAD = {
    "integer": (lambda a: a.astype(int), TypeError, "int64", ALL),
    "float16": (lambda a: a.astype("f2"), TypeError, "float16", ALL),
    "complex": (lambda a: a.astype(complex), TypeError, "complex128", ALL),
    "other float": (lambda a: a.astype("f4"), TypeError, "float32", LATER),
    "object": (lambda a: a.astype(object), TypeError, "object", ALL),
    "datetime": (lambda a: a.astype("m8[s]"), TypeError, "timedelta64", ALL),
    "structured": (lambda a: a.view([("x", "f8")]), TypeError, "void", ALL),
    "byte order": (foreign, TypeError, "byte order", ALL),
    "masked": (np.ma.masked_array, TypeError, "masked", ALL),
    "None": (lambda a: None, (TypeError, ValueError), "None|none", ALL),
    "number": (lambda a: 1.5, TypeError, "number 1.5", ALL),
    "string object": (lambda a: "w", TypeError, "str", ALL),
    "torch": (lambda a: like("torch", "Tensor"), TypeError, r"torch.Tensor.*numpy\(\)", ALL),
    "jax": (lambda a: like("jaxlib", "ArrayImpl"), TypeError, "read-only", ALL),
    "unknown": (lambda a: like("mylib", "Field"), TypeError, "mylib.Field", ALL),
    "pandas": (lambda a: like("pandas", "Series"), TypeError, r"to_numpy\(copy=True\)", ALL),
    "iterator": (lambda a: iter([a]), TypeError, r"list_iterator. Use list\(x\)", ALL),
    "longer": (lambda a: np.ones(5), ValueError, r"shape \(4,\).*\(5,\)", LATER),
    "empty": (lambda a: np.ones(0), ValueError, r"shape \(4,\).*\(0,\)", LATER),
    "square": (lambda a: np.ones((2, 2)), ValueError, r"shape \(4,\).*\(2, 2\)", LATER),
    "0-d": (lambda a: np.array(1.0), ValueError, r"shape \(4,\).*\(\)", LATER),
    "read-only": (readonly, ValueError, "read-only", WRITTEN),
    "broadcast": (
        lambda a: np.lib.stride_tricks.as_strided(a.copy(), (4,), (0,)),
        ValueError,
        "same memory",
        WRITTEN,
    ),
    "cupy": (on_cupy, TypeError, "(?i)cupy", LATER),
}


def cases(rows):
    """Rows that begin with a case, as parameters of a test; a CuPy array needs its package."""
    of_cupy = pytest.mark.cuda("cupy")
    return [pytest.param(*row, marks=[of_cupy] if row[0] == "cupy" else []) for row in rows]


def snapshot(opt, *trees):
    arrays = [a for tree in trees for a in tree_leaves(tree) if isinstance(a, np.ndarray)]
    moments = [a for key in opt.state if key != "t" for a in tree_leaves(opt.state[key])]
    return [opt.t, repr(opt)], [np.array(a) for a in [*arrays, *moments]]


def assert_unchanged(before, after):
    assert before[0] == after[0]
    assert len(before[1]) == len(after[1])
    for a, b in zip(before[1], after[1], strict=True):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b) or (
            a.dtype.kind in "fc" and np.array_equal(a, b, equal_nan=True)
        )


def matches(message, name, says):
    assert message.startswith(f"{name}: "), message
    assert re.search(says, message), message
    assert re.search(ADVICE, message), message
