"""Rows that are refused, alone and beside the parameter."""

from __future__ import annotations

import re

import numpy as np
import pytest

from numadam._arrays.sparse import Rows, coalesce
from tests.arrays.sparse_gradients import F32, F64, TWO


@pytest.mark.parametrize(
    ("indices", "values", "error", "text"),
    [
        (
            [0, 1],
            TWO,
            TypeError,
            "indices: expected a NumPy or CuPy array, got list. Nest it as the params are, or use "
            "numpy.asarray(x).",
        ),
        (
            np.arange(2),
            TWO.tolist(),
            TypeError,
            "values: expected a NumPy or CuPy array, got list. Nest it as the params are, or use "
            "numpy.asarray(x).",
        ),
        (
            np.arange(2),
            np.ma.masked_array(TWO),
            TypeError,
            "values: expected a NumPy or CuPy array, got a masked array: which elements count? "
            "Use x.filled(0) or x.data.",
        ),
        (
            np.ones(2),
            TWO,
            TypeError,
            "indices: expected integers, got float64. Use .astype(int).",
        ),
        (
            np.ones(2, bool),
            TWO,
            TypeError,
            "indices: expected integers, got bool. Use numpy.flatnonzero(mask).",
        ),
        (
            np.ones(2, object),
            TWO,
            TypeError,
            "indices: expected integers, got object. Use .astype(int).",
        ),
        (
            np.ones((2, 1), int),
            TWO,
            ValueError,
            "indices: expected one axis, got shape (2, 1). Use .reshape(-1), and give values one "
            "row for each index.",
        ),
        (
            np.array(1),
            TWO,
            ValueError,
            "indices: expected one axis, got shape (). Use .reshape(-1), and give values one row "
            "for each index.",
        ),
        (
            np.arange(2),
            TWO.astype(">f8"),
            TypeError,
            "values: expected float32 or float64 like the parameter, got float64 of foreign byte "
            "order (>f8). Use .astype(numpy.float64) or .astype(numpy.float32).",
        ),
        (
            np.arange(2),
            TWO.astype(object),
            TypeError,
            "values: expected float32 or float64 like the parameter, got object. Use "
            ".astype(numpy.float64) or .astype(numpy.float32).",
        ),
        (
            np.arange(3),
            TWO,
            ValueError,
            "values: expected 3 rows, one for each index, got shape (2, 3).",
        ),
        (
            np.arange(1),
            np.array(1.0),
            ValueError,
            "values: expected 1 rows, one for each index, got shape ().",
        ),
        (
            np.array([4, -3]),
            TWO,
            ValueError,
            "indices: got the row -3. Rows count from 0: add the number of rows to what counts "
            "from the end.",
        ),
    ],
)
def test_refused_when_made(indices, values, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        Rows(indices, values)
    # what was right when it was made is checked again
    rows = Rows(np.arange(2), TWO)
    rows.indices, rows.values = indices, values
    with pytest.raises(error, match=f"^{re.escape('grads[0].' + text)}$"):
        coalesce(rows, "grads[0]", (9, 3), F64)


@pytest.mark.parametrize(
    ("indices", "values", "shape", "dtype", "error", "text"),
    [
        (
            np.arange(2),
            TWO,
            (),
            F64,
            ValueError,
            "g: its parameter has shape (), and no rows. Pass a dense array.",
        ),
        (
            np.arange(2),
            TWO,
            (9, 3),
            F32,
            TypeError,
            "g.values: expected float32 like the parameter, got float64. Use "
            ".astype(numpy.float32).",
        ),
        (
            np.arange(2),
            TWO,
            (9, 4),
            F64,
            ValueError,
            "g.values: expected shape (2, 4), 2 rows of a parameter of shape (9, 4), got (2, 3).",
        ),
        (
            np.arange(2),
            TWO,
            (9,),
            F64,
            ValueError,
            "g.values: expected shape (2,), 2 rows of a parameter of shape (9,), got (2, 3).",
        ),
        (
            np.array([0, 9]),
            TWO,
            (9, 3),
            F64,
            ValueError,
            "g.indices: got the row 9, but the parameter has shape (9, 3): 9 rows, counted from 0.",
        ),
        (
            np.array([2**63 + 5, 0], np.uint64),
            TWO,
            (9, 3),
            F64,
            ValueError,
            f"g.indices: got the row {2**63 + 5}, but the parameter has shape (9, 3): 9 "
            "rows, counted from 0.",
        ),
        (
            np.array([0, 0]),
            TWO,
            (0, 3),
            F64,
            ValueError,
            "g.indices: got the row 0, but the parameter has shape (0, 3): 0 rows, counted from 0.",
        ),
    ],
)
def test_refused_beside_the_parameter(indices, values, shape, dtype, error, text):
    rows = Rows(indices, values)
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        coalesce(rows, "g", shape, dtype)
