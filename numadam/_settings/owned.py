"""Mask of the elements of a block that count in norms: the others are copies of other ranks'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from numadam._arrays.checks import bad_shape
from numadam._arrays.interop import as_view, is_array, to_host
from numadam._arrays.tree import Active, Tree


def leaf_masks(
    owned: Any, tree: Tree | Active, leaves: Sequence[Any], names: Sequence[str]
) -> list[np.ndarray]:
    """The masks of all leaves, on the host.

    Raises
    ------
    TypeError, ValueError
        Where one is no bool array of the shape of its parameter.
    """
    masks, titles = tree.flatten(owned, "owned"), tree.names("owned")
    return [
        _mask(mask, title, leaf, name)
        for mask, title, leaf, name in zip(masks, titles, leaves, names, strict=True)
    ]


def _mask(mask: Any, title: str, leaf: Any, name: str) -> np.ndarray:
    view = as_view(mask)
    if not is_array(view) or view.dtype != np.dtype(bool):
        got = f"{view.dtype} array" if is_array(view) else type(mask).__name__
        raise TypeError(f"{title}: expected an array of bool, True where {name} counts, got {got}.")
    if view.shape != leaf.shape:
        raise ValueError(bad_shape(title, view.shape, leaf.shape, name))
    host: np.ndarray = to_host(view)
    return host
