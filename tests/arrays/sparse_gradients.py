"""Gradients of few rows, drawn by hypothesis, and the dense gradients that they stand for."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

TWO = np.ones((2, 3))
F32, F64 = np.dtype("float32"), np.dtype("float64")
# the same examples in every run: a failure belongs to the change that brought it
relaxed = settings(deadline=None, database=None, derandomize=True, max_examples=200)


def dense_of(indices, values, shape):
    """The dense gradient that row gradients stand for."""
    dense = np.zeros(shape, values.dtype)
    np.add.at(dense, indices.astype(np.int64), values)
    return dense


def pairwise(terms):
    """Neighbours added up, then neighbouring pairs, and so on; one without a partner waits."""
    while len(terms) > 1:
        pairs = [a + b for a, b in zip(terms[::2], terms[1::2], strict=False)]
        terms = pairs + ([terms[-1]] if len(terms) % 2 else [])
    return terms[0]


def unaligned(a):
    buffer = np.zeros(a.nbytes + 1, np.uint8)
    copy = np.ndarray(a.shape, a.dtype, buffer, offset=1)
    copy[...] = a
    return copy


def read_only(a):
    a = a.copy()
    a.setflags(write=False)
    return a


def spread(a):
    wide = np.zeros((*a.shape, 2), a.dtype)
    wide[..., 0] = a
    return wide[..., 0]


LAYOUTS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "spread": spread,
    "backwards": lambda a: a[::-1].copy()[::-1],
    "unaligned": unaligned,
    "read-only": read_only,
}
CASES = st.fixed_dictionaries(
    {
        "n": st.integers(1, 9),
        "row": st.sampled_from([(), (1,), (3,), (2, 3), (0,), (2, 0, 3)]),
        "k": st.integers(0, 40),
        "dtype": st.sampled_from([F32, F64]),
        "integers": st.sampled_from(["i1", "u1", "<i4", ">i4", "i8", ">i8", "u8"]),
        "layout": st.sampled_from(sorted(LAYOUTS)),
        "order": st.sampled_from(["any", "sorted", "unique", "both"]),
        "seed": st.integers(0, 2**32 - 1),
    }
)


def draw(case):
    """Rows whose sums are exact, in every order of addition."""
    rng = np.random.default_rng(case["seed"])
    n, k = case["n"], case["k"]
    if case["order"] in ("unique", "both"):
        indices = rng.permutation(n)[:k]
    else:
        indices = rng.integers(0, n, k)
    if case["order"] in ("sorted", "both"):
        indices.sort()
    values = rng.integers(-99, 99, (len(indices), *case["row"])).astype(case["dtype"])
    lay = LAYOUTS[case["layout"]]
    return lay(indices.astype(case["integers"])), lay(values), (n, *case["row"])


def check_form(rows, values, shape, dtype):
    assert rows.dtype == np.int64
    assert rows.dtype.isnative
    assert values.dtype == dtype
    assert type(rows) is type(values) is np.ndarray
    assert values.shape == (len(rows), int(np.prod(shape[1:])))
    for array in (rows, values):
        assert array.flags.c_contiguous
        assert array.flags.aligned
    assert (np.diff(rows) > 0).all()
