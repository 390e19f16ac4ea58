"""Options of whole arrays as options of a rank's slices of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from numadam._arrays.interop import is_cupy
from numadam._arrays.tree import Active, Tree
from numadam._core.rule import RuleSpec
from numadam._settings.bounds import leaf_bounds
from numadam._settings.groups import check_rate, is_plain, leaf_overrides, leaf_rates

#: For each array its elements in a slice: low to before high, in C order.
Parts = Sequence[tuple[int, int]]

#: Options that a rank cannot follow in its slices, and why.
REFUSED = {
    "sparse": "the gradients of all ranks are added up densely here. Leave it out, and pass dense "
    "gradients.",
    "capturable": "a step that communicates cannot be captured; leave it out.",
    "comm": "is the third argument here: Sharded(kind, params, comm).",
}


def frozen_leaves(groups: Any, tree: Tree, rule: RuleSpec) -> list[bool]:
    """Which arrays the groups freeze; step sizes per element in a group are refused."""
    found = leaf_overrides(groups, tree.paths(), rule)
    for own in found:
        if not is_plain(own.get("lr", 0.0)):
            raise ValueError(
                "groups: an lr of arrays is for a whole array, of which a rank steps a part. Pass "
                "lr as a nesting like params instead."
            )
    return [bool(own.get("frozen", False)) for own in found]


def sliced_rates(lr: Any, tree: Tree, leaves: Sequence[Any], parts: Parts) -> Any:
    """The learning rates of the slices: numbers and schedules as they are."""
    if is_plain(lr):
        return lr
    rates, names = leaf_rates(lr, tree), tree.names("params")
    return tree.unflatten(
        [
            one if is_plain(one) else _slice(check_rate(one, leaf, name), leaf, part)
            for one, leaf, name, part in zip(rates, leaves, names, parts, strict=True)
        ]
    )


def sliced_bounds(bounds: Any, tree: Active, leaves: Sequence[Any], parts: Parts) -> Any:
    """The bounds of the slices, in dicts by the keys of the nesting; frozen arrays have none."""
    pairs = leaf_bounds(bounds, tree, leaves, tree.names("params"))
    sliced = [
        _Box(*(end if isinstance(end, float) else _slice(end, leaf, part) for end in pair))
        for pair, leaf, part in zip(pairs, leaves, parts, strict=True)
    ]
    if tree.is_leaf:
        return sliced[0]
    nest: dict[Any, Any] = {}
    for path, box in zip(tree.paths(), sliced, strict=True):
        node = nest
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = box
    return nest


class _Box:
    """Lower and upper bound of one array, as `scipy.optimize.Bounds` has them."""

    def __init__(self, lb: Any, ub: Any) -> None:
        self.lb, self.ub = lb, ub

    def __repr__(self) -> str:
        return f"({self.lb!r}, {self.ub!r})"


def of_elements(lr: Any, bounds: Any, tree: Tree, leaves: Sequence[Any]) -> list[Any]:
    """The arrays in learning rates and bounds, whole."""
    rates = [] if is_plain(lr) else leaf_rates(lr, tree)
    found = [one for one in rates if not is_plain(one)]
    if bounds is not None:
        pairs = leaf_bounds(bounds, tree, leaves, tree.names("params"))
        found += [end for pair in pairs for end in pair if not isinstance(end, float)]
    return found


def _slice(values: Any, leaf: Any, part: tuple[int, int]) -> Any:
    low, high = part
    if is_cupy(values):
        import cupy

        return cupy.broadcast_to(values, leaf.shape).reshape(-1)[low:high].copy()
    whole = np.broadcast_to(values, leaf.shape)
    # without a copy of all of it: a broadcast array has no flat view
    sliced: np.ndarray = whole.flat[low:high]
    return sliced


def refuse(options: Mapping[str, Any]) -> None:
    """Refuse options that a rank cannot follow in its slices."""
    for name, problem in REFUSED.items():
        if options.get(name) not in (None, False):
            raise ValueError(f"{name}: {problem}")
