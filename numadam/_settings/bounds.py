"""Box bounds: validated, and rounded into the dtype of the parameters."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from numadam._arrays.interop import to_host
from numadam._arrays.tree import Active, Tree

#: Lower and upper bound of one array, each a float or an array.
Pair = tuple[Any, Any]
OPEN: Pair = (-math.inf, math.inf)


def _is_end(x: Any) -> bool:
    return x is None or isinstance(x, numbers.Real) or hasattr(x, "dtype")


def _is_pair(x: Any) -> bool:
    return isinstance(x, (tuple, list)) and len(x) == 2 and all(map(_is_end, x))


def leaf_bounds(
    bounds: Any, tree: Tree | Active, leaves: Sequence[Any], names: Sequence[str]
) -> list[Pair]:
    """The bounds of every leaf: `bounds` is one pair for all, or nested as the parameters are.

    A pair in the place of a container holds for all arrays in it.

    Raises
    ------
    TypeError, ValueError
        For a leaf without a pair, a pair without a leaf, or one that does not fit its array.
    """
    asked: set[int] = set()
    pairs = []
    for path, leaf, name in zip(tree.paths(), leaves, names, strict=True):
        node, title = bounds, "bounds"
        for key in path:
            if node is None or _is_pair(node):
                break
            asked.add(id(node))
            try:
                node = node[key]
            except (KeyError, IndexError, TypeError):
                raise ValueError(
                    f"{title}: has no entry {key!r} for {name}. Nest it as params are, or give "
                    "one pair (lo, hi) for all; None leaves a side open."
                ) from None
            title += f"[{key!r}]"
        pairs.append(_read_pair(node, leaf, title, name))
    _refuse_unused(bounds, tree, asked)
    return pairs


def _refuse_unused(bounds: Any, tree: Tree | Active, asked: set[int]) -> None:
    """Refuse an entry that belongs to no array."""
    if bounds is None or _is_pair(bounds):
        return
    paths = tree.paths()

    def walk(node: Any, at: tuple[Any, ...], title: str) -> None:
        if node is None or _is_pair(node):
            return
        entries = node.items() if isinstance(node, Mapping) else enumerate(node)
        for key, entry in entries:
            below = (*at, key)
            if not any(path[: len(below)] == below for path in paths):
                raise ValueError(f"{title}: has an entry {key!r} that params do not have.")
            walk(entry, below, f"{title}[{key!r}]")

    walk(bounds, (), "bounds")


def _read_pair(pair: Any, leaf: Any, title: str, name: str) -> Pair:
    if pair is None:
        return OPEN
    if not _is_pair(pair):
        raise TypeError(
            f"{title}: expected a pair (lo, hi) of numbers or arrays for {name}, got {pair!r:.80}. "
            "None leaves a side open."
        )
    if np.dtype(leaf.dtype).kind == "c":
        raise ValueError(f"bounds: complex numbers have no order, and {name} is {leaf.dtype}.")
    lo, hi = (
        _read_end(end, open_end, leaf, f"{title}[{side}]", name)
        for side, (end, open_end) in enumerate(zip(pair, OPEN, strict=True))
    )
    if bool((lo > hi).any()) if hasattr(lo > hi, "any") else lo > hi:
        raise ValueError(f"{title}: lo is above hi somewhere: {pair!r:.80}.")
    return lo, hi


def fits(values: Any, leaf: Any) -> bool:
    """Whether an array broadcasts to the shape of a parameter."""
    try:
        return bool(np.broadcast_shapes(values.shape, leaf.shape) == leaf.shape)
    except ValueError:
        return False


def as_numbers(xp: Any, x: Any, title: str) -> Any:
    """Convert to a float64 array; refuse complex numbers and text."""
    given = xp.asarray(x)
    if given.dtype.kind in "cSU":
        raise TypeError(f"{title}: expected real numbers, got {given.dtype}.")
    return given.astype(xp.float64)


def _read_end(end: Any, open_end: float, leaf: Any, title: str, name: str) -> Any:
    """One bound as a float or float64 array, NaN refused, in the library of the parameter."""
    if end is None:
        return open_end
    xp = array_namespace(leaf)
    values = as_numbers(xp, end, title)
    if bool(xp.any(xp.isnan(values))):
        raise ValueError(f"{title}: is NaN. Use None or an infinite number where it is open.")
    if not fits(values, leaf):
        raise ValueError(
            f"{title}: expected a number, or an array that broadcasts to shape {leaf.shape} of "
            f"{name}, got shape {values.shape}."
        )
    if values.ndim == 0:
        return float(values)
    # bounds are rounded once: on the host, since CuPy cannot for every dtype
    return to_host(values)


def inward(end: Any, dtype: np.dtype[Any], other: float, real: np.dtype[Any]) -> Any:
    """A bound in the dtype of its parameters, rounded towards the inside of the box.

    `other` is the direction of the inside: +inf for a lower bound, -inf for an upper one. Rounding
    to nearest could put it outside of the bound by half a unit.
    """
    xp = np if isinstance(end, float) else array_namespace(end)
    wide = xp.asarray(end, dtype=xp.float64)
    with np.errstate(over="ignore"):  # beyond the range of the dtype it is open
        near = wide.astype(dtype)
        step = xp.nextafter(near, near.dtype.type(other))
    outside = near.astype(xp.float64) < wide if other > 0 else near.astype(xp.float64) > wide
    return xp.where(outside, step, near).astype(real)
