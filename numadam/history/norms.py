"""Norms for a `History`, of gradients, parameters and steps, computed in one thread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from numadam._arrays.interop import is_cupy
from numadam._core.parts import parts_of

#: Sums of squares between these lost nothing to underflow or overflow, in float32 and float64.
_SAFE = {"f": (1e-30, 1e30), "d": (1e-280, 1e280)}
#: Squares that are added up in the dtype of the array; sums of such chunks are float64. So few
#: that BLAS uses one thread.
_CHUNK = 4096


def gradient_norm(opt: Any, grads: Any) -> float:
    """Norm of the gradients that were passed, else the norm of the last step, else NaN."""
    tree, settings, _, _ = parts_of(opt)
    if grads is None:
        if not settings.plan.norm:
            return math.nan
        norms = opt.grad_norm
        return math.hypot(*norms) if isinstance(norms, list) else float(norms)
    leaves = tree.flatten(grads, "grads")
    for leaf, name in zip(leaves, tree.names("grads"), strict=True):
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "ravel"):
            raise TypeError(
                f"{name}: expected a dense array, got {type(leaf).__name__}. Leave grads out and "
                "make the optimiser with clip_norm=numpy.inf: its step then forms the norm."
            )
    return norm_of(leaves)


def norm_of(leaves: Sequence[Any]) -> float:
    """Euclidean norm of all elements of all arrays."""
    return math.hypot(*map(_norm, leaves))


def _norm(leaf: Any) -> float:
    """Euclidean norm of one array; scaled where squares would leave the range."""
    if leaf.dtype.itemsize < 4:
        leaf = leaf.astype(np.float32)
    flat = leaf.ravel(order="K")
    if flat.dtype.kind == "c":
        flat = flat.view(flat.real.dtype)
    low, high = _SAFE["f" if flat.dtype.itemsize == 4 else "d"]
    with np.errstate(all="ignore"):
        square = _square(flat)
        if low < square < high or not flat.size:
            return math.sqrt(square)
        top = float(abs(flat).max())
        if top == 0.0 or not math.isfinite(top):
            return top
        return top * math.sqrt(_square(flat / top))


def _square(flat: Any) -> float:
    """Sum of squares; on the host in one thread, since threads of BLAS would take our cores."""
    if is_cupy(flat):  # vdot needs cuBLAS, which the extra cuda13 leaves out
        return float((flat * flat).sum(dtype=np.float64))
    if not isinstance(flat, np.ndarray):
        return float(array_namespace(flat).vdot(flat, flat))
    if flat.size <= _CHUNK:
        return float(np.dot(flat, flat))
    whole = flat.size - flat.size % _CHUNK
    rows, rest = flat[:whole].reshape(-1, _CHUNK), flat[whole:]
    sums = np.einsum("ij,ij->i", rows, rows)
    return float(sums.sum(dtype=np.float64)) + float(np.dot(rest, rest))


def alike(copies: Sequence[Any], leaves: Sequence[Any]) -> bool:
    """Whether the copies are arrays into which the leaves fit."""
    if len(copies) != len(leaves):
        return False
    return all(
        type(one) is type(leaf) and one.shape == leaf.shape and one.dtype == leaf.dtype
        for one, leaf in zip(copies, leaves, strict=True)
    )
