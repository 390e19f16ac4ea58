"""Box bounds: one grammar for classes and functions, checks, rounding into the parameters' dtype.

The bounds of one array are a pair (lo, hi) of numbers or arrays, a pair of numbers for each
element, as in SciPy, or `scipy.optimize.Bounds`.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from numadam._arrays.checks import refuse_more_than_numbers
from numadam._arrays.interop import as_view, to_host
from numadam._arrays.tree import Tree

#: Lower and upper bound of one array, each a float or a float64 array.
Pair = tuple[Any, Any]
OPEN: Pair = (-math.inf, math.inf)


class Box(NamedTuple):
    """Bounds of one array, read already: a pair that cannot be taken for two pairs."""

    lb: Any
    ub: Any


def _is_end(x: Any) -> bool:
    return x is None or isinstance(x, numbers.Real) or hasattr(x, "dtype")


def _is_pair(x: Any) -> bool:
    """Whether `x` is lower and upper bound of a whole array, or of all arrays in a container."""
    if isinstance(x, (tuple, list)):
        return len(x) == 2 and all(map(_is_end, x))
    return getattr(x, "shape", None) == (2,) or (hasattr(x, "lb") and hasattr(x, "ub"))


def _refuse_ambiguous(bounds: Any, shape: tuple[int, ...], title: str, name: str) -> None:
    """Refuse two arrays of two numbers for two elements: SciPy would read a pair for each."""
    if math.prod(shape) != 2 or hasattr(bounds, "lb") or not _is_pair(bounds):
        return
    if all(getattr(end, "shape", ()) == (2,) for end in bounds):
        raise ValueError(
            f"{title}: two arrays of two numbers for the two elements of {name} could be low and "
            "high, or a pair for each element. Write scipy.optimize.Bounds(lo, hi) for low and "
            "high, [(lo, hi), (lo, hi)] for a pair for each."
        )


def leaf_bounds(bounds: Any, tree: Tree, leaves: Sequence[Any], names: Sequence[str]) -> list[Pair]:
    """The bounds of every leaf: `bounds` is one pair for all, or nested as the parameters are.

    A pair in the place of a container holds for all arrays in it.
    """
    if bounds is None:
        return [OPEN] * len(leaves)
    pairs = []
    for path, leaf, name in zip(tree.paths(), leaves, names, strict=True):
        node, title = bounds, "bounds"
        for key in path:
            if node is None or _is_pair(node):
                break
            try:
                node = node[key]
            except (KeyError, IndexError, TypeError):
                raise ValueError(
                    f"{title}: has no entry {key!r} for {name}. Nest it as params are, or give "
                    "one pair (lo, hi) for all; None leaves a side open."
                ) from None
            title += f"[{key!r}]"
        # a tuple of two NumPy arrays is always (lo, hi) here
        if not (type(node) is tuple and all(isinstance(end, np.ndarray) for end in node)):
            _refuse_ambiguous(node, leaf.shape, title, name)
        pair = _read(node, leaf.shape, title, name)
        check_ends(pair, leaf, title, name)
        pairs.append(pair)
    _refuse_unused(bounds, tree)
    return pairs


def standard_bounds(bounds: Any, shape: tuple[int, ...]) -> Pair | None:
    """The bounds of one array of this shape, in a form that reads the same for any other shape."""
    if bounds is None:
        return None
    _refuse_ambiguous(bounds, shape, "bounds", "x")
    pair = _read(bounds, shape, "bounds", "x")
    return pair if all(isinstance(end, float) for end in pair) else Box(*pair)


def scalar_bounds(bounds: Any, leaf: Any, title: str) -> Pair:
    """Two numbers for all elements, for a function that owns no array of bounds."""
    if not isinstance(bounds, (list, tuple)) or not _is_pair(bounds):
        raise TypeError(
            f"bounds: expected a pair (lo, hi) of numbers, got {bounds!r:.80}. Pairs for each "
            "element and scipy.optimize.Bounds need an optimiser object."
        )
    if any(getattr(end, "ndim", 0) for end in bounds):
        raise ValueError(
            f"{title}: bounds are two numbers here; arrays of them need an optimiser object."
        )
    pair = _read(bounds, leaf.shape, "bounds", "p")
    check_ends(pair, leaf, "bounds", "p")
    return pair


def _refuse_unused(bounds: Any, tree: Tree) -> None:
    """Refuse an entry that belongs to no array."""
    paths = tree.paths()

    def walk(node: Any, at: tuple[Any, ...], title: str) -> None:
        if node is None or _is_pair(node) or at in paths:
            return
        entries = node.items() if isinstance(node, Mapping) else enumerate(node)
        for key, entry in entries:
            below = (*at, key)
            if not any(path[: len(below)] == below for path in paths):
                raise ValueError(f"{title}: has an entry {key!r} that params do not have.")
            walk(entry, below, f"{title}[{key!r}]")

    walk(bounds, (), "bounds")


def _read(bounds: Any, shape: tuple[int, ...], title: str, name: str) -> Pair:
    """Lower and upper bound of one array: floats, or float64 arrays on the host."""
    if bounds is None:
        return OPEN
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        return _simplest(*_read_ends((bounds.lb, bounds.ub), f"{title}.lb", f"{title}.ub"))
    if not _is_pair(bounds):
        return _read_pairs(bounds, shape, title, name)
    return _read_ends(bounds, f"{title}[0]", f"{title}[1]")


def _read_pairs(bounds: Any, shape: tuple[int, ...], title: str, name: str) -> Pair:
    """Bounds that are given as a pair of numbers for each element, in C order."""
    size, pairs = math.prod(shape), bounds
    if hasattr(pairs, "__next__"):
        pairs = list(pairs)
    elif not isinstance(pairs, (list, tuple)):
        refuse_more_than_numbers(pairs, title)
        pairs = to_host(pairs)
        if getattr(pairs, "shape", None) in ((size, 2), (*shape, 2)):
            pairs = pairs.reshape(-1, 2).tolist()
    ends = None
    if isinstance(pairs, (list, tuple)) and len(pairs) == size:
        ends = _plain_ends(pairs)
    if ends is None:
        refuse_more_than_numbers(bounds, title)
        ends = _other_ends(bounds, pairs, size, title, name)
    return _simplest(*ends.reshape(2, *shape))


#: Types of a bound that have no unit, mask or device.
_PLAIN_ENDS = {float, int, np.float64, np.float32, np.int64, np.int32, type(None)}


def _plain_ends(pairs: Sequence[Any]) -> np.ndarray | None:
    """Both ends of pairs of plain numbers or None, read at once; None: one is something else.

    One by one they take up to 22 us a pair.
    """
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        return None
    if not {type(end) for pair in pairs for end in pair} <= _PLAIN_ENDS:
        return None
    lows = [-math.inf if low is None else low for low, _ in pairs]
    highs = [math.inf if high is None else high for _, high in pairs]
    try:
        ends = np.array([lows, highs], np.float64)
    except OverflowError:
        return None
    return None if np.isnan(ends).any() else ends


def _other_ends(bounds: Any, pairs: Any, size: int, title: str, name: str) -> np.ndarray:
    """Both ends of pairs of any numbers; refuses all else."""
    if not isinstance(pairs, (list, tuple)) and not hasattr(pairs, "shape"):
        raise TypeError(
            f"{title}: expected a pair (lo, hi) of numbers or arrays for {name}, a pair of numbers "
            f"for each element, or scipy.optimize.Bounds, got {bounds!r:.80}. None leaves a side "
            "open."
        )
    if not isinstance(pairs, (list, tuple)) or len(pairs) != size:
        got = len(pairs) if isinstance(pairs, (list, tuple)) else f"shape {pairs.shape}"
        raise ValueError(
            f"{title}: expected {size} pairs (lo, hi), one for each element of {name}, got {got}. "
            "Two numbers (lo, hi) hold for all; low and high of every element are two NumPy "
            "arrays (lo, hi), or scipy.optimize.Bounds(lo, hi)."
        )
    ends = np.empty((2, size))
    for k, pair in enumerate(pairs):
        if not _is_pair(pair) or any(getattr(end, "ndim", 0) for end in pair):
            raise ValueError(
                f"{title}[{k}]: expected a pair (lo, hi) of numbers, got {pair!r:.80}."
            )
        ends[:, k] = _read_ends(pair, f"{title}[{k}][0]", f"{title}[{k}][1]")
    return ends


def _simplest(lo: Any, hi: Any) -> Pair:
    """Two floats where both bounds are the same everywhere: the loop then reads no array."""
    if all(np.size(end) and (end == np.ravel(end)[0]).all() for end in (lo, hi)):
        return float(np.ravel(lo)[0]), float(np.ravel(hi)[0])
    return lo, hi


def _read_ends(pair: Any, low: str, high: str) -> Pair:
    """Both ends of a pair, which have these names."""
    return _read_end(pair[0], -math.inf, low), _read_end(pair[1], math.inf, high)


def _read_end(end: Any, open_end: float, title: str) -> Any:
    """One bound as a float or a float64 array on the host; NaN is refused."""
    if end is None:
        return open_end
    try:
        if type(end) in (float, int) and end == end:
            return float(end)  # 5 us less, of every pair
        # on the host: bounds are rounded once, and CuPy cannot for every dtype
        values = as_numbers(np, to_host(as_view(end)), title)
    except OverflowError:
        raise ValueError(
            f"{title}: {end!s:.20}... is beyond the range of float64. Use None or an infinite "
            "number where it is open."
        ) from None
    if np.isnan(values).any():
        raise ValueError(f"{title}: is NaN. Use None or an infinite number where it is open.")
    return float(values) if values.ndim == 0 else values


def check_ends(pair: Pair, leaf: Any, title: str, name: str) -> None:
    """Refuse bounds that do not fit their array."""
    if np.dtype(leaf.dtype).kind == "c":
        raise ValueError(f"bounds: complex numbers have no order, and {name} is {leaf.dtype}.")
    for side, end in enumerate(pair):
        if isinstance(end, np.ndarray) and not fits(end, leaf):
            raise ValueError(
                f"{title}[{side}]: expected a number, or an array that broadcasts to shape "
                f"{leaf.shape} of {name}, got shape {end.shape}."
            )
    crossed = np.greater(*pair)
    if crossed.any():
        shape = leaf.shape if math.prod(leaf.shape) else crossed.shape  # where there are elements
        at = tuple(np.argwhere(np.broadcast_to(crossed, shape))[0].tolist())
        lo, hi = (float(np.broadcast_to(end, shape)[at]) for end in pair)
        where = f"element {list(at)} of {name}" if at else name
        raise ValueError(f"{title}: lo is above hi of {where}: {lo} > {hi}.")


def fits(values: Any, leaf: Any) -> bool:
    """Whether an array broadcasts to the shape of a parameter."""
    try:
        return bool(np.broadcast_shapes(values.shape, leaf.shape) == leaf.shape)
    except ValueError:
        return False


def as_numbers(xp: Any, x: Any, title: str) -> Any:
    """Convert to a float64 array; refuse complex numbers, text, units and masks."""
    refuse_more_than_numbers(x, title)
    given = xp.asarray(x)
    if given.dtype.kind in "cSU":
        raise TypeError(f"{title}: expected real numbers, got {given.dtype}.")
    with np.errstate(all="ignore"):  # of longdouble
        return given.astype(xp.float64)


def inward(end: Any, dtype: np.dtype[Any], other: float) -> Any:
    """A bound in the dtype of its parameters, rounded towards the inside of the box.

    `other` is the direction of the inside: +inf for a lower bound, -inf for an upper one. Rounding
    to nearest could put it outside of the bound by half a unit.
    """
    xp = np if isinstance(end, float) else array_namespace(end)
    wide = xp.asarray(end, dtype=xp.float64)
    with np.errstate(all="ignore"):  # beyond the range of the dtype it is open, below it 0
        near = wide.astype(dtype)
        step = xp.nextafter(near, near.dtype.type(other))
    outside = near.astype(xp.float64) < wide if other > 0 else near.astype(xp.float64) > wide
    return xp.where(outside, step, near)
