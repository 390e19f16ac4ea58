"""Slices of parameters that a rank steps, and where their memory lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from numadam._arrays.interop import home, is_cupy, to_host
from numadam._arrays.tree import Active, Tree, replaced, same_objects
from numadam._core.rule import RuleSpec
from numadam._mpi.cut import Cut, Flat
from numadam._mpi.ranks import Ranks
from numadam._mpi.windows import (
    check_leaves,
    check_values,
    common_window,
    digest,
    nodes_of,
    together,
)
from numadam._settings.bounds import leaf_bounds
from numadam._settings.groups import check_rate, is_plain, leaf_overrides, leaf_rates

# --- options of whole arrays as options of a rank's slices of them -------------------------------

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


# --- parameters that all ranks hold --------------------------------------------------------------


class Whole:
    """Parameters as one rank was given them, checked there.

    Parameters
    ----------
    params : array or nesting of arrays
    groups : mapping or None
        The option, which may freeze arrays.
    rule : RuleSpec

    Attributes
    ----------
    tree : Tree
    leaves, names, frozen : list
        Of each array itself, its name, and whether it is frozen.

    Raises
    ------
    TypeError, ValueError
        With the name of the array.
    """

    def __init__(self, params: Any, groups: Any, rule: RuleSpec) -> None:
        self.params, self.tree = params, Tree(params)
        self.leaves = list(self.tree.flatten(params, "params"))
        self.names = list(self.tree.names("params"))
        check_leaves(self.leaves, self.names)
        self.frozen = frozen_leaves(groups, self.tree, rule)

    @property
    def home(self) -> str:
        """The arrays' library."""
        return home(self.leaves[0])

    def about(self) -> tuple[Any, ...]:
        """Values that have to be the same on all ranks."""
        shapes, dtype = [leaf.shape for leaf in self.leaves], self.leaves[0].dtype.name
        return self.tree.paths(), shapes, dtype, self.frozen, self.home

    def refuse_replaced(self) -> None:
        """Refuse a container in which an array was replaced by another object."""
        now = self.tree.flatten(self.params, "params")
        if same_objects(now, self.leaves):
            return
        raise replaced(self.names, now, self.leaves)


class Placement:
    """Parameters of all ranks, and the part that this one steps. Collective to make.

    Parameters
    ----------
    ranks : Ranks
    whole : Whole
        The same on all ranks.
    what : str
        What is made, for messages.

    Attributes
    ----------
    nodes : Nodes
    active : Active
        Structure of the parameters without frozen arrays.
    leaves : sequence of arrays
        Those that are not frozen.
    cut : Cut
        Of these.
    size : int
        Elements that this rank steps.
    parts, slices : list of (int, int)
        Its elements of each array that is not frozen, and of each array.
    flat : Flat
        The parameters that are not frozen, as one flat index.

    Raises
    ------
    ValueError, RankError
        Where the arrays of one rank do not go together, or those of the ranks.
    """

    def __init__(self, ranks: Ranks, whole: Whole, what: str) -> None:
        self.ranks, self.whole = ranks, whole
        window = together(ranks, what, lambda: common_window(whole.leaves, whole.names))
        self.nodes = nodes = nodes_of(ranks, window)
        if nodes.count > 1:
            check_values(ranks, whole.leaves, whole.names)
        self.active = Active(whole.tree, [not still for still in whole.frozen])
        self.leaves = self.active.select(whole.leaves)
        self.cut = cut = Cut([leaf.size for leaf in self.leaves], nodes.count, nodes.each)
        self.parts = cut.parts(cut.pieces(nodes.node, nodes.place))
        self.size = sum(high - low for low, high in self.parts)
        own = iter(self.parts)
        self.slices = [(0, 0) if still else next(own) for still in whole.frozen]
        self._all = [_plain(leaf).reshape(-1) for leaf in whole.leaves]
        self.flat = Flat(cut, list(self.active.select(self._all)))

    @property
    def dtype(self) -> Any:
        """The arrays' dtype."""
        return self.whole.leaves[0].dtype

    def own(self) -> Any:
        """Flat views of this rank's part, in the nesting of the parameters."""
        pairs = zip(self._all, self.slices, strict=True)
        return self.whole.tree.unflatten([leaf[low:high] for leaf, (low, high) in pairs])

    def options(self, lr: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of this rank's part."""
        given, tree, leaves = dict(options), self.whole.tree, self.whole.leaves
        if lr is not None:
            given["lr"] = sliced_rates(lr, tree, leaves, self.slices)
        if options.get("bounds") is not None:
            given["bounds"] = sliced_bounds(options["bounds"], self.active, self.leaves, self.parts)
        return given

    def about_elements(self, lr: Any, bounds: Any) -> tuple[Any, ...]:
        """Options that differ from element to element, as far as they are the same on all ranks."""
        lr = 0.0 if lr is None else lr
        arrays = of_elements(lr, bounds, self.whole.tree, self.whole.leaves)
        return tuple(digest(np.asarray(to_host(one))) for one in arrays)

    def views(self, values: Any) -> Any:
        """A flat array of this rank's part as arrays, in the nesting of the parameters."""
        views, at = [], 0
        for low, high in self.parts:
            views.append(values[at : at + high - low])
            at += high - low
        return self.active.unflatten(views)


def _plain(leaf: Any) -> Any:
    """An array without its subclass."""
    return leaf if is_cupy(leaf) else np.ndarray.view(leaf, np.ndarray)
