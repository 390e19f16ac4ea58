"""Parameters that all ranks hold: what of them is checked, and which part a rank steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from numadam._arrays.interop import home, is_cupy, to_host
from numadam._arrays.tree import Active, Tree, replaced, same_objects
from numadam._core.rule import RuleSpec
from numadam._mpi.cut import Cut
from numadam._mpi.flat import Flat
from numadam._mpi.nodes import nodes_of
from numadam._mpi.ranks import Ranks
from numadam._mpi.replicas import check_leaves, check_values, common_window, digest, together
from numadam._mpi.slices import frozen_leaves, of_elements, sliced_bounds, sliced_rates


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
