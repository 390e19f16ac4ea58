"""Slices of parameters that a rank steps, and where their memory lies."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from numadam._arrays.interop import home, is_cupy, to_host
from numadam._arrays.tree import Active, Tree, nested, refuse_replaced
from numadam._core.rule import RuleSpec
from numadam._mpi.cut import Cut, Flat
from numadam._mpi.ranks import Ranks
from numadam._mpi.windows import (
    check_leaves,
    check_values,
    common_window,
    digest_of_array,
    nodes_of,
)
from numadam._settings.bounds import leaf_bounds
from numadam._settings.groups import check_rate, is_plain, leaf_overrides, leaf_rates


class Whole:
    """Parameters as one rank was given them, checked there.

    The option `groups` may freeze arrays: `frozen` says of each whether it is.
    """

    def __init__(self, params: Any, groups: Any, rule: RuleSpec) -> None:
        self.params, self.tree = params, Tree(params)
        self.leaves = list(self.tree.flatten(params, "params"))
        self.names = list(self.tree.names("params"))
        check_leaves(self.leaves, self.names)
        overrides = leaf_overrides(groups, self.tree.paths(), rule)
        if not all(is_plain(options.get("lr", 0.0)) for options in overrides):
            raise ValueError(
                "groups: an lr of arrays is for a whole array, of which a rank steps a part. Pass "
                "lr as a nesting like params instead."
            )
        self.frozen = [bool(options.get("frozen", False)) for options in overrides]

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
        refuse_replaced(self.tree, self.params, self.leaves, "params")


class Placement:
    """Parameters of all ranks, and the part that this one steps. Collective to make.

    `whole` is the same on all ranks; `what` says what is made, for messages. `leaves` are the
    arrays that are not frozen, `active` is their structure, `cut` their cut, and `flat` has them as
    one flat index. This rank steps `size` elements: `parts` are those of each of these arrays,
    `slices` of each array.
    """

    def __init__(self, ranks: Ranks, whole: Whole, what: str) -> None:
        self.ranks, self.whole = ranks, whole
        self.home, self.dtype = whole.home, whole.leaves[0].dtype
        with ranks.all_or_none(what):
            window = common_window(whole.leaves, whole.names)
        self.nodes = nodes = nodes_of(ranks, window)
        if nodes.count > 1:
            check_values(ranks, whole.leaves, whole.names)
        self.active = Active(whole.tree, [not still for still in whole.frozen])
        self.leaves = self.active.select(whole.leaves)
        self.cut = cut = Cut([leaf.size for leaf in self.leaves], nodes.count, nodes.each)
        self.parts = cut.parts(cut.pieces(nodes.node, nodes.place))
        self.size = sum(high - low for low, high in self.parts)
        parts = iter(self.parts)
        self.slices = [(0, 0) if still else next(parts) for still in whole.frozen]
        self._all = [_plain(leaf).reshape(-1) for leaf in whole.leaves]
        self.flat = Flat(cut, list(self.active.select(self._all)))

    def on_device(self) -> AbstractContextManager[None]:
        """The GPU of CuPy's arrays as the current one."""
        if self.home == "NumPy":
            return nullcontext()
        from numadam._cuda.launch import on_gpu

        return on_gpu(int(self.leaves[0].device.id))

    def own(self) -> Any:
        """Flat views of this rank's part, in the nesting of the parameters."""
        pairs = zip(self._all, self.slices, strict=True)
        return self.whole.tree.unflatten([leaf[low:high] for leaf, (low, high) in pairs])

    def options(self, lr: Any, options: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
        """The options of this rank's part, and digests of the whole arrays in them."""
        given, digests = dict(options), list[Any]()

        def sliced(values: Any, leaf: Any, part: tuple[int, int]) -> Any:
            digests.append(digest_of_array(np.asarray(to_host(values))))
            return _slice(values, leaf, part)

        if lr is not None:
            given["lr"] = lr
        if lr is not None and not is_plain(lr):
            whole, rates = self.whole, []
            entries = zip(
                leaf_rates(lr, whole.tree), whole.leaves, whole.names, self.slices, strict=True
            )
            for rate, leaf, name, part in entries:
                plain = is_plain(rate)
                rates.append(rate if plain else sliced(check_rate(rate, leaf, name), leaf, part))
            given["lr"] = whole.tree.unflatten(rates)
        if options.get("bounds") is not None:
            names, boxes = self.active.names("params"), []
            pairs = leaf_bounds(options["bounds"], self.active, self.leaves, names)
            for pair, leaf, part in zip(pairs, self.leaves, self.parts, strict=True):
                ends = [end if isinstance(end, float) else sliced(end, leaf, part) for end in pair]
                boxes.append(_Box(*ends))
            given["bounds"] = nested(self.active.paths(), boxes)
        return given, digests

    def views(self, values: Any) -> Any:
        """A flat array of this rank's part as arrays, in the nesting of the parameters."""
        views, at = [], 0
        for low, high in self.parts:
            views.append(values[at : at + high - low])
            at += high - low
        return self.active.unflatten(views)


class _Box:
    """Lower and upper bound of one array, as `scipy.optimize.Bounds` has them."""

    def __init__(self, lb: Any, ub: Any) -> None:
        self.lb, self.ub = lb, ub

    def __repr__(self) -> str:
        return f"({self.lb!r}, {self.ub!r})"


def _slice(values: Any, leaf: Any, part: tuple[int, int]) -> Any:
    low, high = part
    if is_cupy(values):
        import cupy

        return cupy.broadcast_to(values, leaf.shape).reshape(-1)[low:high].copy()
    whole = np.broadcast_to(values, leaf.shape)
    # without a copy of all of it: a broadcast array has no flat view
    sliced: np.ndarray = whole.flat[low:high]
    return sliced


def _plain(leaf: Any) -> Any:
    """An array without its subclass."""
    return leaf if is_cupy(leaf) else np.ndarray.view(leaf, np.ndarray)
