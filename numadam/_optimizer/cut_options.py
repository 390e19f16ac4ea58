"""Options that differ from element to element, bounds and step sizes: cut as parameters are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from numadam._arrays.interop import is_array, to_host
from numadam._checkpoint.container import Container
from numadam._checkpoint.options import equal, options_from_json
from numadam._checkpoint.tree import Structure
from numadam._core.parts import Parts
from numadam._settings.bounds import Box, leaf_bounds
from numadam._settings.groups import is_plain


def has_arrays(parts: Parts) -> bool:
    """Whether there are bounds that are arrays."""
    pairs = _pairs(parts, parts.settings.options["bounds"])
    return any(is_array(end) for pair in pairs for end in pair)


def _pairs(parts: Parts, bounds: Any) -> list[Any]:
    """The bounds of each parameter of a rank."""
    return leaf_bounds(bounds, parts.tree, parts.backend.params, parts.tree.names("params"))


def _rates(parts: Parts, lr: Any) -> list[Any]:
    """The step size of each parameter of a rank, of lr as a nesting."""
    return [lr] if parts.tree.is_leaf else list(parts.tree.flatten(lr, "lr"))


def cut_options(parts: Parts, as_arrays: bool) -> tuple[Any, dict[str, Any]]:
    """Lr and options in a form that any part of the arrays has: bounds nested as params are."""
    lr, options = parts.settings.lr, dict(parts.settings.options)
    leaves = parts.backend.params
    if options["bounds"] is not None:
        boxes = [
            Box(*(_spread(end, leaf) if as_arrays else end for end in pair))
            for pair, leaf in zip(_pairs(parts, options["bounds"]), leaves, strict=True)
        ]
        options["bounds"] = _nest(parts.tree.paths(), boxes)
    if not is_plain(lr):
        rates = [
            one if is_plain(one) else _spread(one, leaf)
            for one, leaf in zip(_rates(parts, lr), leaves, strict=True)
        ]
        lr = rates[0] if parts.tree.is_leaf else parts.tree.merge(lr, rates)
    return lr, options


def _nest(paths: Sequence[Sequence[Any]], values: Sequence[Any]) -> Any:
    """Values in dicts by the keys that lead to their arrays; bounds of frozen ones are refused."""
    if not all(paths):
        return values[0]
    nest: dict[Any, Any] = {}
    for path, value in zip(paths, values, strict=True):
        node = nest
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = value
    return nest


def _spread(value: Any, leaf: Any) -> np.ndarray:
    """A number for each element of an array."""
    return np.broadcast_to(np.asarray(to_host(value), np.float64), leaf.shape)


def cuts_of_options(content: Container, parts: Parts, structure: Structure) -> dict[str, str]:
    """By the names of arrays of options the parameters whose cuts they share."""
    names: dict[str, Any] = {name: name for name in content.arrays}
    lr, options = options_from_json(content.meta, names)
    found: dict[str, str] = {}
    for path in parts.tree.paths():
        name = structure.names[tuple(path)]
        for node in (lr, options["bounds"]):
            if node is None or (is_plain(node) and not isinstance(node, str)):
                continue
            for key in path:
                node = node[key]
            ends = node if isinstance(node, Box) else [node]
            found |= {end: name for end in ends if isinstance(end, str)}
    return found


def own_forms(parts: Parts, content: Container) -> tuple[Any, dict[str, Any]]:
    """Lr and options of a file; bounds and step sizes that say what ours say as ours are."""
    lr, options = options_from_json(content.meta, content.arrays)
    own_lr, own, leaves = parts.settings.lr, parts.settings.options, parts.backend.params
    if own["bounds"] is not None and options.get("bounds") is not None:
        pairs = zip(_pairs(parts, own["bounds"]), _pairs(parts, options["bounds"]), strict=True)
        if all(
            np.array_equal(_spread(one, leaf), _spread(other, leaf))
            for leaf, ends in zip(leaves, pairs, strict=True)
            for one, other in zip(*ends, strict=True)
        ):
            options["bounds"] = own["bounds"]
    if not is_plain(own_lr) and not is_plain(lr):
        rates = [
            now if _is_same_rate(now, its, leaf) else its
            for now, its, leaf in zip(_rates(parts, own_lr), _rates(parts, lr), leaves, strict=True)
        ]
        lr = rates[0] if parts.tree.is_leaf else parts.tree.merge(lr, rates)
    return lr, options


def _is_same_rate(one: Any, other: Any, leaf: Any) -> bool:
    if is_plain(one) or is_plain(other):
        return equal(one, other)
    return np.array_equal(_spread(one, leaf), _spread(other, leaf))
