"""Gradients that are zero outside a few rows of a parameter: their checks, and one common form.

An embedding of a million rows gets a gradient for the ten thousand rows of a batch: as a dense
array, 99 % zeros. `Rows` and the CSR matrices of SciPy and CuPy hold the others. `coalesce`
converts them to sorted rows, each once, and their values as a dense matrix.
"""

from __future__ import annotations

import math
import sys
from contextlib import nullcontext
from typing import Any

import numpy as np

from numadam._arrays.checks import DTYPES, bad_dtype, describe, is_numpy, name_dtype
from numadam._arrays.interop import Layout, is_cupy


class Rows:
    """A gradient that is zero outside some rows of its parameter.

    It represents zeros plus ``dense[indices[i]] += values[i]`` for each ``i``. Both arrays are
    kept as they are: a step copies the indices, and reads the values.

    Parameters
    ----------
    indices : array of shape (k,), any integer dtype; or of shape (n,), bool
        Rows of the parameter, in any order. A row that appears several times gets the sum. Rows
        count from 0; negative indices are refused. A boolean mask has an element for each of the n
        rows of the parameter, and marks k of them with True.
    values : array of shape (k, ...), float32 or float64
        One row of gradient for each index, or for each True of the mask in their order, shaped
        like a row of the parameter and in its dtype. For a one-dimensional parameter a row is a
        single number, and the shape is (k,).

    Raises
    ------
    TypeError, ValueError
        For an array of a wrong dtype or shape, or two that do not match. `step` checks whether
        they fit the parameter.

    Notes
    -----
    Duplicates are added up in the dtype of the values, pairwise in the order in which they
    appear: first and second, third and fourth, then pair and pair. The bits of a sum depend on
    its own terms alone, not on the rows between them, and are the same on CPU and GPU.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam._arrays.sparse import Rows
    >>> Rows(np.array([7, 2, 7]), np.ones((3, 4)))  # row 7 gets twos
    Rows(3 rows, values of shape (3, 4), float64)
    >>> Rows(np.array([True, False, True]), np.ones((2, 4)))  # rows 0, 2
    Rows(2 rows, values of shape (2, 4), float64)
    """

    __slots__ = ("indices", "values")

    def __init__(self, indices: Any, values: Any) -> None:
        _check_rows(indices, values, "")
        self.indices: Any = indices
        self.values: Any = values

    def __repr__(self) -> str:
        values = self.values
        return f"Rows({len(values)} rows, values of shape {values.shape}, {values.dtype})"


def is_sparse(x: Any) -> bool:
    """Whether `x` is a `Rows` or a sparse matrix, of whatever format, of SciPy or CuPy.

    Neither library is imported: an object of theirs shows that it is loaded.
    """
    if isinstance(x, Rows):
        return True
    if isinstance(x, np.ndarray):
        return False
    for library in ("scipy.sparse", "cupyx.scipy.sparse"):
        # another thread may be importing it right now: then its names are not there yet
        knows = getattr(sys.modules.get(library), "issparse", None)
        if knows is not None and knows(x):
            return True
    return False


def coalesce(x: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """Validate a sparse gradient of a parameter, and convert it to ``(rows, values)``.

    `rows` are int64, sorted, each once, and contiguous; of CSR those with a stored entry, be it
    zero. They are a copy, taken before it is checked: whoever writes into the indices of `x`
    meanwhile moves no loop out of the parameter. `values` are the gradient in these rows, of shape
    (k, prod(shape[1:])), C-contiguous and aligned; duplicates are added up as `Rows` says. They are
    memory of `x` where that has this form already: only read them. Errors name what does not fit.
    """
    if isinstance(x, Rows):
        return _of_rows(x, name, shape, dtype)
    return _of_csr(x, name, shape, dtype)


def coalesce_for(
    grad: Any, name: str, how: str | None, layout: Layout, leaf: int, library: str
) -> tuple[Any, Any]:
    """As `coalesce`, for an array of an optimiser with ``sparse=how``, on NumPy or CuPy."""
    if how is None:
        raise ValueError(
            f"{name}: is sparse. Make the optimiser with sparse='lazy' (rows without a "
            "gradient stay as they are) or 'dense' (the same numbers as a dense gradient)."
        )
    if layout.dtype.kind == "c":
        raise TypeError(f"{name}: is sparse, but the parameters are complex. Pass it dense.")
    if how == "lazy":
        refuse_order(name, layout, leaf, library)
    return coalesce(grad, name, layout.shapes[leaf], layout.dtype)


def refuse_order(name: str, layout: Layout, leaf: int, library: str) -> None:
    """Refuse parameters whose rows do not lie together in memory."""
    if layout.orders[leaf][:1] not in ((), (0,)):
        raise ValueError(
            f"{name}: sparse='lazy' needs parameters whose rows lie together; use "
            f"{library}.ascontiguousarray for them, or sparse='dense'."
        )


def scatter(rows: Any, values: Any, dense: Any) -> None:
    """Write coalesced rows into a dense gradient of shape (n, ...) that is zero elsewhere."""
    dense[rows] = values.reshape(len(rows), *dense.shape[1:])


def clear(rows: Any, dense: Any) -> None:
    """Set these rows to zero, which undoes `scatter`."""
    dense[rows] = 0


def marked(grad: Any, mask: Any, names: tuple[str, str], param: Any) -> Any:
    """The rows of a dense gradient that a boolean mask marks, as `Rows`; with None all of it.

    `names` are those of gradient and mask; `param` is the array that they belong to.
    """
    if mask is None:
        return grad
    name, mask_name = names
    if is_sparse(grad):
        raise TypeError(f"{name}: is sparse, and names its rows itself. Leave out {mask_name}.")
    if not param.shape:
        raise ValueError(f"{mask_name}: its parameter has shape (), and no rows. Use None there.")
    if param.dtype.kind == "c":
        raise TypeError(f"{mask_name}: the parameters are complex: all of their rows are stepped.")
    xp = _common_library(mask, mask_name, grad, name)
    if mask.dtype != bool:
        raise TypeError(
            f"{mask_name}: expected a mask of bool, got {name_dtype(mask.dtype)}. Row numbers go "
            "into numadam.Rows(indices, values)."
        )
    if grad.shape != param.shape:
        raise ValueError(
            f"{name}: expected shape {param.shape} like the parameter, got {grad.shape}. Gradients "
            "of the marked rows alone go into numadam.Rows(mask, values)."
        )
    _check_mask(mask, mask_name, param.shape)
    if grad.dtype != param.dtype:
        raise TypeError(bad_dtype(name, grad.dtype, param.dtype, "the parameter"))
    with nullcontext() if xp is np else grad.device:
        # one pass over the mask; grad[mask] would be several, and slower
        indices = xp.flatnonzero(mask)
        return Rows(indices, grad.take(indices, axis=0))


# --- rows ----------------------------------------------------------------------------------------


def _library(x: Any, name: str) -> Any:
    """NumPy or CuPy, whichever the array is of."""
    if is_numpy(x):
        return np
    if is_cupy(x):
        return sys.modules["cupy"]
    raise TypeError(f"{name}: {describe(x)}")


def _common_library(which: Any, which_name: str, values: Any, name: str) -> Any:
    """The library of two arrays, which lie on one device."""
    xp = _library(values, name)
    if _library(which, which_name) is not xp:
        raise TypeError(f"{which_name}: {describe(which, 'NumPy' if xp is np else 'CuPy')}")
    if which.device != values.device:
        raise ValueError(
            f"{which_name}: are on {which.device}, but {name} on {values.device}. "
            "Copy one of them there."
        )
    return xp


def _check_rows(indices: Any, values: Any, prefix: str) -> Any:
    """Check the arrays without a parameter, when made and at each step; return their library."""
    name, of_values = f"{prefix}indices", f"{prefix}values"
    xp, is_mask = _common_library(indices, name, values, of_values), indices.dtype == bool
    if indices.dtype.kind not in "iub":
        raise TypeError(
            f"{name}: expected integers or a mask of bool, got {name_dtype(indices.dtype)}. "
            "Use .astype(int)."
        )
    if indices.ndim != 1:
        raise ValueError(
            f"{name}: expected one axis, got shape {indices.shape}. Use .reshape(-1), and give "
            "values one row for each index."
        )
    if not is_mask and len(indices) and (low := int(indices.min())) < 0:
        raise ValueError(
            f"{name}: got the row {low}. Rows count from 0: add the number of rows to what counts "
            "from the end."
        )
    if values.dtype not in DTYPES:
        raise TypeError(
            f"{of_values}: expected float32 or float64 like the parameter, got "
            f"{name_dtype(values.dtype)}. Use .astype(numpy.float64) or .astype(numpy.float32)."
        )
    count = int(xp.count_nonzero(indices)) if is_mask else len(indices)
    if values.ndim == 0 or len(values) != count:
        raise ValueError(
            f"{of_values}: expected {count} rows, one for each {'True' if is_mask else 'index'}, "
            f"got shape {values.shape}."
        )
    return xp


def _check_mask(mask: Any, name: str, shape: tuple[int, ...]) -> None:
    if mask.shape != shape[:1]:
        raise ValueError(
            f"{name}: expected a mask of shape {shape[:1]}, an element for each row of a parameter "
            f"of shape {shape}, got {mask.shape}."
        )


def _of_rows(x: Rows, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Any, Any]:
    indices, values = x.indices.copy(), x.values
    xp = _check_rows(indices, values, f"{name}.")
    if not shape:
        raise ValueError(f"{name}: its parameter has shape (), and no rows. Pass a dense array.")
    if values.dtype != dtype:
        raise TypeError(bad_dtype(f"{name}.values", values.dtype, dtype, "the parameter"))
    if indices.dtype == bool:
        _check_mask(indices, f"{name}.indices", shape)
        indices = xp.flatnonzero(xp.asarray(indices))
    count = len(indices)
    if values.shape[1:] != shape[1:]:
        raise ValueError(
            f"{name}.values: expected shape {(count, *shape[1:])}, {count} rows of a parameter of "
            f"shape {shape}, got {values.shape}."
        )
    if count and (high := int(indices.max())) >= shape[0]:
        raise ValueError(
            f"{name}.indices: got the row {high}, but the parameter has shape {shape}: {shape[0]} "
            "rows, counted from 0."
        )
    # asarray: a subclass of ndarray may have an arithmetic of its own
    flat = xp.asarray(values).reshape(count, math.prod(shape[1:]))
    return _add_up(xp, xp.asarray(indices).astype(xp.int64, copy=False), flat)


def plain(array: Any) -> Any:
    """The array, or a C-contiguous, aligned copy. CuPy's arrays are always aligned."""
    flags = array.flags
    return array if flags.c_contiguous and getattr(flags, "aligned", True) else array.copy()


def _add_up(xp: Any, indices: Any, values: Any) -> tuple[Any, Any]:
    """Sort rows, and add up those with the same index."""
    if bool((indices[1:] > indices[:-1]).all()):
        return plain(indices), plain(values)
    order = xp.argsort(indices, kind="stable")
    indices, values = indices[order], values.take(order, axis=0)
    first = xp.ones(len(indices), bool)
    first[1:] = indices[1:] != indices[:-1]
    starts = xp.flatnonzero(first)
    if len(starts) == len(indices):
        return indices, values
    place = xp.arange(len(indices)) - starts[xp.cumsum(first, dtype=xp.int64) - 1]
    _add_pairwise(xp, values, place)
    return indices[starts], values.take(starts, axis=0)


def _add_pairwise(xp: Any, values: Any, place: Any) -> None:
    """Add up each run of rows into its first; `place` is a row's place within its run.

    As many rounds as the longest run has binary digits, and each row is added to another once. No
    two are added to the same one in one round: a GPU has no order to choose.
    """
    later, distance = xp.flatnonzero(place), 1
    with np.errstate(all="ignore"):  # the guard reports infinite gradients, not NumPy
        while len(later):
            odd = (place[later] & distance) != 0
            added = later[odd]
            total = values.take(added - distance, axis=0)
            total += values.take(added, axis=0)
            values[added - distance] = total
            later = later[~odd]
            distance *= 2


# --- CSR matrices --------------------------------------------------------------------------------


def _of_csr(x: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Any, Any]:
    _check_csr(x, name, shape, dtype)
    xp = _library(x.data, f"{name}.data")
    ends, columns, entries = _parts(xp, x, name)
    rows = xp.flatnonzero(ends[1:] != ends[:-1])
    # which of these rows an entry belongs to: one more wherever a row begins
    begins = xp.zeros(len(columns), xp.int64)
    begins[ends[rows[1:]]] = 1
    cells = xp.cumsum(begins) * shape[1] + columns
    cells, sums = _add_up(xp, cells, entries)
    values = xp.zeros((len(rows), shape[1]), dtype)
    values.reshape(-1)[cells] = sums
    return rows, values


def _check_csr(x: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if x.format != "csr":
        raise TypeError(
            f"{name}: expected a sparse matrix in CSR format, got {x.format.upper()}. Use .tocsr()."
        )
    if len(shape) != 2:
        raise ValueError(
            f"{name}: is a CSR matrix, but its parameter has shape {shape}. Pass a dense array, or "
            "numadam.Rows for a gradient of few rows."
        )
    if x.shape != shape:
        raise ValueError(f"{name}: expected shape {shape} like the parameter, got {x.shape}.")
    if x.dtype != dtype:
        raise TypeError(bad_dtype(name, x.dtype, dtype, "the parameter"))


def _parts(xp: Any, x: Any, name: str) -> tuple[Any, Any, Any]:
    """End of each row, column and value of each entry; validated, which SciPy does not do."""
    ends, columns, entries = xp.asarray(x.indptr), xp.asarray(x.indices), xp.asarray(x.data)
    stored = int(ends[-1]) if ends.shape == (x.shape[0] + 1,) else -1
    if not (
        0 <= stored <= min(len(columns), len(entries))
        and int(ends[0]) == 0
        and bool((ends[1:] >= ends[:-1]).all())
    ):
        raise ValueError(
            f"{name}: is no valid CSR matrix: its indptr does not divide {len(entries)} entries "
            f"among {x.shape[0]} rows. Build it anew."
        )
    columns, entries = columns[:stored], entries[:stored]
    low, high = (int(columns.min()), int(columns.max())) if stored else (0, -1)
    if low < 0 or high >= x.shape[1]:
        raise ValueError(
            f"{name}: is no valid CSR matrix: its indices name the columns {low} to {high}, but it "
            f"has {x.shape[1]}. Build it anew."
        )
    return ends, columns.astype(xp.int64, copy=False), entries
