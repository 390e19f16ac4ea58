"""Arrays that are refused, and checks that a refusal names them and changes nothing."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.trees import tree_leaves


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
    "bool": (lambda a: a.astype(bool), TypeError, "bool", ALL),
    "float16": (lambda a: a.astype("f2"), TypeError, "float16", ALL),
    "longdouble": (lambda a: a.astype("g"), TypeError, np.dtype("g").name, ALL),
    "complex": (lambda a: a.astype(complex), TypeError, "complex128", ALL),
    "other float": (lambda a: a.astype("f4"), TypeError, "float32", LATER),
    "object": (lambda a: a.astype(object), TypeError, "object", ALL),
    "string": (lambda a: a.astype("U8"), TypeError, "str", ALL),
    "datetime": (lambda a: a.astype("m8[s]"), TypeError, "timedelta64", ALL),
    "structured": (lambda a: a.view([("x", "f8")]), TypeError, "void", ALL),
    "byte order": (foreign, TypeError, "byte order", ALL),
    "masked": (np.ma.masked_array, TypeError, "masked", ALL),
    "None": (lambda a: None, (TypeError, ValueError), "None|none", ALL),
    "number": (lambda a: 1.5, TypeError, "number 1.5", ALL),
    "numpy scalar": (lambda a: np.float64(1.5), TypeError, "number", ALL),
    "string object": (lambda a: "w", TypeError, "str", ALL),
    "torch": (lambda a: like("torch", "Tensor"), TypeError, r"torch.Tensor.*numpy\(\)", ALL),
    "jax": (lambda a: like("jaxlib", "ArrayImpl"), TypeError, "read-only", ALL),
    "unknown": (lambda a: like("mylib", "Field"), TypeError, "mylib.Field", ALL),
    "pandas": (lambda a: like("pandas", "Series"), TypeError, r"to_numpy\(copy=True\)", ALL),
    "iterator": (lambda a: iter([a]), TypeError, r"list_iterator. Use list\(x\)", ALL),
    "longer": (lambda a: np.ones(5), ValueError, r"shape \(4,\).*\(5,\)", LATER),
    "shorter": (lambda a: np.ones(3), ValueError, r"shape \(4,\).*\(3,\)", LATER),
    "empty": (lambda a: np.ones(0), ValueError, r"shape \(4,\).*\(0,\)", LATER),
    "column": (lambda a: np.ones((4, 1)), ValueError, r"shape \(4,\).*\(4, 1\)", LATER),
    "square": (lambda a: np.ones((2, 2)), ValueError, r"shape \(4,\).*\(2, 2\)", LATER),
    "0-d": (lambda a: np.array(1.0), ValueError, r"shape \(4,\).*\(\)", LATER),
    "read-only": (readonly, ValueError, "read-only", WRITTEN),
    "broadcast": (
        lambda a: np.lib.stride_tricks.as_strided(a.copy(), (4,), (0,)),
        ValueError,
        "same memory",
        WRITTEN,
    ),
    "sliding": (
        lambda a: np.lib.stride_tricks.as_strided(np.ones(5), (4,), (4,)),
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
